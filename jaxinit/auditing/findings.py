"""What is wrong with how a model is initialized, as far as its values say.

    entries, their measured laws, what a scheme expects -> findings, the worst first

Every test has a share of one error rate for the whole model (`ALPHA`), so that a correct model of a
thousand parameters is as rarely blamed as one of ten.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats as scipy_stats

from jaxinit import spec, theory
from jaxinit.auditing.inventory import Entry, matrices
from jaxinit.auditing.laws import RANDOM, Measured, is_orthogonal, measure, sample
from jaxinit.spec import Leaf, Rule

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")

ALPHA = 1e-3  # of a correct model to have any serious finding by chance
TELLING = 0.02  # a relative difference of standard deviations that matters
TWICE = 1 << 16  # entries up to which a second draw says whether all draws are equal
LARGE = 1 << 20  # entries beyond which a law is compared by its formula, where it has one
COMPARED = 5000  # entries of two laws that are compared
FEWEST = 30  # entries whose standard deviation is compared
# Values that sampling in a narrow dtype can give, of any law, and the entries that show it.
VALUES_OF = {"bfloat16": (128, 1024), "float16": (1024, 4096)}
# What codes call the biases of their time steps, and the logarithms of their rates.
TIME_STEPS = r"(dt_bias|dt_proj\.bias|dt_proj_bias|step_bias)$"
LOG_RATES = ("A_log", "log_rate")
HALF_LIVES = (2.0, 300.0)  # steps: a memory that is shorter or longer is no memory of a sequence
SHORT_LIVES = 0.5  # steps: some published recurrences, as the minimal GRU, start with one of 1


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing.

    evidence: the number that shows it; cause: what in the library at hand likely does it; repair:
    the line that settles it.
    """

    severity: Severity
    what: str
    parameter: str
    evidence: str
    cause: str
    repair: str


class Expected(NamedTuple):
    """What a parameter should be like: `measured` of one draw, `fixed` where all draws are equal,
    `std` of a law that is known by its formula."""

    std: float
    measured: Measured
    fixed: np.ndarray | None = None
    sample: np.ndarray | None = None


class Item(NamedTuple):
    """An entry with what was measured of it: `expected` under the declared scheme, `known` the name
    of the law that its values fit, `fused` whether its copies are stored as one matrix that is
    orthogonal as a whole."""

    entry: Entry
    measured: Measured
    known: str
    expected: Expected | None
    digest: str
    z: float
    fused: bool


# The laws that people name, by the variance of a kernel's entries.
FAMILIES: dict[str, Callable[[float, float], float]] = {
    "LeCun": lambda fan_in, fan_out: 1 / fan_in,
    "He": lambda fan_in, fan_out: 2 / fan_in,
    "Glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "PyTorch's": lambda fan_in, fan_out: 1 / (3 * fan_in),
    "He by fan out": lambda fan_in, fan_out: 2 / fan_out,
    "1/fan_out": lambda fan_in, fan_out: 1 / fan_out,
    "small init": lambda fan_in, fan_out: 2 / (5 * fan_in),
    "std 0.02": lambda fan_in, fan_out: 0.02**2,
    "std 0.01": lambda fan_in, fan_out: 0.01**2,
    "std 1": lambda fan_in, fan_out: 1.0,
}
DEFAULTS = {
    ("LeCun", "truncated normal"): "LeCun's law, truncated: the default of Flax's layers",
    ("PyTorch's", "uniform"): "U(+-1/sqrt(fan_in)), PyTorch's default: a third of "
    "LeCun's variance, a sixth of He's",
    ("Glorot", "uniform"): "Glorot's uniform law: the default of Keras's layers",
    ("Glorot", "truncated normal"): "Glorot's law, truncated",
    ("He", "truncated normal"): "He's law, truncated (jax.nn.initializers.he_normal)",
    ("He", "normal"): "He's law, not truncated (PyTorch's kaiming_normal_)",
    ("std 0.02", "normal"): "N(0, 0.02^2), as GPT-2 and BERT have it",
    ("std 0.02", "truncated normal"): "a Gaussian of 0.02, truncated, as BERT has it",
}


def look(entry: Entry, rule: Rule | None, key: jax.Array) -> Item:
    """Measure one parameter, and draw what it should be like where there is a rule for it."""
    values = entry.values()
    measured = measure(values, matrices(entry, values))
    expected = None
    if rule is not None and entry.leaf is not None:
        expected = _expected(entry, rule, key)
    fused = _is_fused_orthogonal(entry)
    known = ""
    if entry.leaf is not None and entry.leaf.is_kernel and not fused:
        known = family(measured, entry.leaf.fan_in, entry.leaf.fan_out)
    z = math.nan
    if expected is not None:
        z = _z(measured, expected.measured)
    return Item(entry, measured, known, expected, _digest(values), z, fused)


def family(measured: Measured, fan_in: float, fan_out: float) -> str:
    """The name of the law of variance that is nearest to a kernel's standard deviation, and within
    its sampling noise; empty where none is."""
    if measured.law not in ("normal", "truncated normal", "uniform"):
        return ""
    off = {
        name: abs(measured.std - math.sqrt(variance(fan_in, fan_out)))
        for name, variance in FAMILIES.items()
    }
    nearest = min(off, key=off.__getitem__)  # the first of equals
    return nearest if off[nearest] < 4 * measured.error + 1e-3 * measured.std else ""


def _expected(entry: Entry, rule: Rule, key: jax.Array) -> Expected:
    """One draw of a parameter under a rule, as far as it is needed."""
    leaf = entry.leaf
    assert leaf is not None
    law, spread = getattr(rule.draw, "law", ""), getattr(rule.draw, "spread", None)
    std = None
    if spread is not None and law in RANDOM:
        std = float(spread(spec.asked_of(leaf.shape, leaf.dims)))
    if entry.size > LARGE and std is not None:
        # Known without a draw, which would need as much memory again.
        exact = Measured(entry.size, 0.0, std, 0.0, -math.inf, math.inf, 0, 0, 0, 0, law, math.nan)
        return Expected(std, exact)
    init = spec.along(leaf.dims, rule.draw)
    own_key = spec.named_key(key, rule.key or leaf.name)
    dtype = jnp.dtype(entry.dtype)
    drawn = np.asarray(init(own_key, leaf.shape, dtype))
    measured = measure(drawn, matrices(entry, drawn))
    if drawn.size <= TWICE:
        again = np.asarray(init(spec.named_key(own_key, "again"), leaf.shape, dtype))
        is_fixed = np.array_equal(drawn, again)
    else:
        is_fixed = measured.law not in RANDOM
    some = sample(drawn.reshape(-1), COMPARED)
    if std is not None and measured.law in RANDOM:  # the formula's, free of one draw's noise
        measured = measured._replace(std=std, error=0.0)
    fixed = drawn if is_fixed and drawn.size <= 1 << 22 else None
    return Expected(measured.std, measured, fixed, some)


def _digest(values: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    return digest.hexdigest()


def _z(own: Measured, reference: Measured) -> float:
    """How many standard errors the logarithm of a standard deviation is from that of a draw."""
    if not (own.std > 0 and reference.std > 0):
        return math.nan
    error = math.hypot(own.error / own.std, reference.error / reference.std)
    return math.log(own.std / reference.std) / error if error else math.nan


# The findings, one function for each kind.


def all_findings(items: Sequence[Item], tests: int) -> Iterator[Finding]:
    """Every finding of the values of a model; `tests` is how many of them could be chance."""
    level = ALPHA / max(tests, 1)
    items = sorted(items, key=lambda item: -abs(item.z) if math.isfinite(item.z) else 0.0)
    for item in items:
        yield from _not_finite(item)
        yield from _against_scheme(item, level)
        yield from _low_precision(item)
        if not _as_declared(item):
            yield from _fused(item)
            yield from _fans(item)
        yield from _constant_kernel(item)
        yield from _one_sided(item)
        yield from _off_centre(item)
        yield from _layer_scale(item)
        yield from _equal_copies(item)
        yield from _replicas(item)
        yield from _unknown(item)
    yield from _duplicates(items)
    yield from _depth(items)
    yield from _time_steps(items)


def _as_declared(item: Item) -> bool:
    """Whether a parameter has the law that the declared scheme gives it: what is meant is right."""
    reference = item.expected.measured if item.expected is not None else None
    if reference is None or not reference.std:
        return False
    return reference.law == item.measured.law and abs(item.z) < 4


def _not_finite(item: Item) -> Iterator[Finding]:
    own = item.measured
    if own.finite:
        return
    yield Finding(
        "serious",
        "not finite",
        item.entry.name,
        f"{own.nans} NaN and {own.infs} infinite of {own.size} entries",
        "an overflow of a narrow dtype, a fan of 0, or weights that were saved broken",
        "draw it again: jaxinit.reinitialize(model, scheme, key)",
    )


def _against_scheme(item: Item, level: float) -> Iterator[Finding]:
    """Whether a parameter is what the declared scheme draws."""
    expected, own, entry = item.expected, item.measured, item.entry
    if expected is None or not own.finite:
        return
    reference = expected.measured
    repair = "jaxinit.reinitialize(model, scheme, key), or call the initializer where it is built"

    def another(cause: str) -> Finding:
        evidence = f"{_shape_of(own)} where {_shape_of(reference)} is declared"
        what = "not what the scheme draws"
        return Finding("serious", what, entry.name, evidence, cause, repair)

    never_called = "an initializer that is never called, or is written over after it was"
    if expected.fixed is not None:
        values = entry.values().astype(np.float64)
        fixed = expected.fixed.astype(np.float64)
        size = max(float(np.abs(fixed).max()), 1e-30)
        if np.abs(values - fixed).max() > 0.02 * size:
            yield another(never_called)
        return
    if min(own.size, reference.size) < FEWEST:
        return
    if own.law not in RANDOM:
        yield another(never_called)
        return
    ratio = own.std / reference.std
    p = 2 * scipy_stats.norm.sf(abs(item.z))
    if abs(ratio - 1) > TELLING and p < level:
        yield Finding(
            "serious",
            "another standard deviation than declared",
            entry.name,
            f"{own.std:.4g} where the scheme has {reference.std:.4g}: {ratio:.3g} times, "
            f"{abs(item.z):.0f} standard errors{_factor(ratio, entry.leaf)}",
            _cause_of(ratio, entry),
            repair,
        )
        return
    if "orthogonal" in (own.law, reference.law) and own.law != reference.law:
        yield another("another initializer of the same size")
        return
    if expected.sample is None:
        return
    law: Any = scipy_stats.ks_2samp(
        sample(entry.values().reshape(-1), COMPARED), expected.sample, method="asymp"
    )
    if law.pvalue < level and law.statistic > 0.03:
        yield Finding(
            "warning",
            "another law of the same size",
            entry.name,
            f"{own.law} where the scheme draws {reference.law}, Kolmogorov's distance "
            f"{law.statistic:.3g}, p {law.pvalue:.1g}",
            "another library's function of the same name (truncated or not), bounds in other units",
            repair,
        )


def _shape_of(measured: Measured) -> str:
    """A law in words."""
    if measured.law == "zero":
        return "zero"
    if measured.law == "constant":
        return f"constant {measured.mean:.4g}"
    return f"{measured.law} of {measured.std:.4g}"


def _factor(ratio: float, leaf: Leaf | None) -> str:
    """A ratio as the factor by depth that it may be."""
    if leaf is None or leaf.n_layers < 2:
        return ""
    depth = leaf.n_layers
    others = {
        f"sqrt(2 x {depth})": (2 * depth) ** 0.5,
        f"sqrt({depth})": depth**0.5,
        "sqrt(2)": 2**0.5,
        "1/sqrt(2)": 2**-0.5,
    }
    name = _nearest(ratio, _by_depth(depth) | others, TELLING)
    return f", {name}" if name else ""


def _by_depth(blocks: int) -> dict[str, float]:
    """The factors by depth that codes have, by name."""
    return {
        f"1/sqrt(2 x {blocks})": (2 * blocks) ** -0.5,
        f"1/sqrt({blocks})": blocks**-0.5,
        f"1/(2 x {blocks})": 1 / (2 * blocks),
    }


def _nearest(ratio: float, factors: Mapping[str, float], tolerance: float) -> str:
    """The name of the first factor that a ratio is, empty where it is none."""
    for name, factor in factors.items():
        if abs(ratio / factor - 1) < tolerance:
            return name
    return ""


def _cause_of(ratio: float, entry: Entry) -> str:
    leaf = entry.leaf
    if leaf is not None and leaf.role in ("attention_out", "ffn_out") and _factor(ratio, leaf):
        return "a factor by depth that is missing, doubled, or of layers where blocks are meant"
    if leaf is not None and leaf.n_layers > 1 and _factor(ratio, leaf):
        return "a factor by depth on the wrong kernel"
    return "another law, or a rule that matches nothing"


def _low_precision(item: Item) -> Iterator[Finding]:
    own, entry = item.measured, item.entry
    most, enough = VALUES_OF.get(entry.dtype.name, (0, 0))
    if not most or own.law not in RANDOM or own.size < enough or own.law == "orthogonal":
        return
    if own.distinct > most:
        return
    yield Finding(
        "warning",
        "sampled in low precision",
        entry.name,
        f"{own.distinct} different values in {own.size} entries of {entry.dtype.name}; mean / std "
        f"{own.mean / own.std:+.4f}",
        "jax.random draws from so few numbers in this dtype, with a biased mean",
        "draw in float32 and cast: jaxinit's initializers do, or param_dtype=float32 and a cast "
        "after",
    )


def _is_fused_orthogonal(entry: Entry) -> bool:
    """Whether the copies of a kernel are stored as one matrix that is orthogonal as a whole."""
    if entry.leaf is None or entry.leaf.copies < 2 or len(entry.stored.shape) != 2:
        return False
    return is_orthogonal(np.asarray(entry.stored))


def _fused(item: Item) -> Iterator[Finding]:
    """Gates stored as one matrix that was drawn as one."""
    leaf, entry = item.entry.leaf, item.entry
    if leaf is None or not leaf.is_kernel or leaf.copies < 2 or not entry.variable:
        return
    stored = np.asarray(entry.stored)
    if item.measured.law == "orthogonal" or not item.fused:
        return
    by_copy = matrices(entry, entry.values())
    assert by_copy is not None
    mean = float(np.mean(np.linalg.svd(by_copy.astype(np.float32), compute_uv=False)))
    kind = "recurrent_kernel_init" if leaf.role == "recurrent" else "kernel_init"
    yield Finding(
        "warning",
        "one orthogonal matrix for all gates",
        entry.name,
        f"mean singular value of a gate {mean:.2f}, where an orthogonal one has 1; "
        f"{leaf.copies} gates share one orthogonal matrix",
        f"{entry.layer or 'the cell'} draws one kernel {stored.shape} for all gates",
        f"{kind}=jaxinit.per_gate(jaxinit.initializers.orthogonal(), {leaf.copies}), or "
        "jaxinit.reinitialize(model, scheme, key)",
    )


def _fans(item: Item) -> Iterator[Finding]:
    """A kernel whose variance fits a law only when its fans are counted as for a plain matrix."""
    entry, own = item.entry, item.measured
    stored = tuple(entry.stored.shape)
    leaf = entry.leaf
    if len(stored) < 2 or own.law not in ("normal", "truncated normal", "uniform"):
        return
    if own.size < FEWEST or (leaf is not None and not leaf.is_kernel):
        return
    if leaf is not None and (item.known or leaf.dims.lstrip(".").startswith("o")):
        return
    if item.fused:
        return  # which `_fused` says
    window = math.prod(stored[:-2])
    named = family(own, stored[-2] * window, stored[-1] * window)
    if not named or named.startswith("std") or (leaf is None and window == 1):
        return
    if leaf is not None:
        right = math.sqrt(FAMILIES[named](leaf.fan_in, leaf.fan_out))
        if abs(own.std / right - 1) < 0.05:
            return
        yield Finding(
            "warning",
            "independent axes counted in a fan",
            entry.name,
            f"std {own.std:.4g} is {named}'s of a plain {stored}, {own.std / right:.3g} times "
            f"the {right:.4g} of its {leaf.copies} copies",
            f"{entry.layer or 'the initializer'} takes heads, groups, experts, gates or stacked "
            "layers for inputs, outputs or a window",
            f"jaxinit.spec.along({leaf.dims!r}, init) draws each copy by itself",
        )
        return
    inputs = {stored[0], stored[1]}
    ratios = " or ".join(
        f"{own.std / math.sqrt(FAMILIES[named](n, stored[-1])):.3g}" for n in sorted(inputs)
    )
    yield Finding(
        "warning",
        "a first axis counted as a window",
        entry.name,
        f"std {own.std:.4g} is {named}'s of {stored} with the first axis as a window: {ratios} "
        "times what it is for, if that is one of layers, experts or heads",
        "the default axes of jax.nn.initializers: in_axis=-2, out_axis=-1, all others a window",
        f"say what the axes are, dims={{{entry.name!r}: '.io'}} of layers or experts, 'i.o' of "
        "heads, and draw with jaxinit.spec.along",
    )


def _constant_kernel(item: Item) -> Iterator[Finding]:
    leaf, own = item.entry.leaf, item.measured
    if leaf is None or not leaf.is_kernel or own.law not in ("constant", "zero"):
        return
    if own.law == "constant" and min(leaf.fan_in, leaf.fan_out) > 1:
        yield Finding(
            "serious",
            "a kernel of one number",
            item.entry.name,
            f"every entry is {own.mean:.4g}: all of its {leaf.fan_out} units compute the same, and "
            "will",
            "a constant where a law is meant",
            "jaxinit.reinitialize(model, scheme, key)",
        )
    elif own.law == "zero" and leaf.role in ("input", "hidden", "recurrent", "query", "ffn_in"):
        yield Finding(
            "note",
            "a kernel of zeros",
            item.entry.name,
            f"all {own.size} entries are 0; nothing passes it before the first step",
            "meant for the last kernel of a branch (Fixup, nanochat, LoRA's B) and for readouts",
            "none needed if it is one of these",
        )


def _one_sided(item: Item) -> Iterator[Finding]:
    leaf, own = item.entry.leaf, item.measured
    if leaf is None or not leaf.is_kernel or own.size < FEWEST or not own.std:
        return
    if own.law == "uniform" and own.least >= 0 and own.mean > own.std:
        yield Finding(
            "warning",
            "all entries of one sign",
            item.entry.name,
            f"uniform on [{own.least:.3g}, {own.most:.3g}], mean {own.mean:.3g}",
            "jax.nn.initializers.uniform() is one-sided, [0, 0.01)",
            "jaxinit.initializers.uniform(-bound, bound)",
        )


def _off_centre(item: Item) -> Iterator[Finding]:
    """A convolution with one tap that is not the central one of an even window."""
    leaf, entry = item.entry.leaf, item.entry
    if leaf is None or "w" not in leaf.dims or item.measured.zeros < item.measured.size / 2:
        return
    values = entry.values()
    windows = spec.sizes_of(leaf.shape, leaf.dims, "w")
    if all(size % 2 for size in windows):
        return
    order = spec.canonical_order(leaf.dims)
    taps = np.abs(values.transpose(order).astype(np.float64))
    by_tap = taps.reshape(leaf.copies, *windows, -1).sum((0, -1))
    places = np.argwhere(by_tap)
    if len(places) != 1:
        return
    centre = tuple((size - 1) // 2 for size in windows)
    place = tuple(places[0].tolist())
    if place == centre:
        return
    yield Finding(
        "warning",
        "the tap is beside the centre",
        entry.name,
        f"the only tap of a window {windows} is at {place}; under SAME padding the central one is "
        f"{centre}",
        "size // 2 where (size - 1) // 2 is the centre of an even window",
        "jaxinit.initializers.delta_orthogonal(), or an odd window",
    )


def _layer_scale(item: Item) -> Iterator[Finding]:
    entry, own = item.entry, item.measured
    if not re.search(r"(layer_?scale\w*|(^|\.)ls\d?)(\.(gamma|scale|value))?$", entry.name):
        return
    if own.law == "constant" and own.mean == 1:
        yield Finding(
            "warning",
            "LayerScale starts at 1",
            entry.name,
            "every entry is 1; the method starts at 1e-5 to 0.1 (Touvron et al., 2021)",
            "a wrapper or a factory that set every scale to 1 after it was drawn",
            "set it after the last of these, or audit with the scheme that you mean",
        )


def _equal_copies(item: Item) -> Iterator[Finding]:
    """Copies of a random kernel that are the same draw."""
    leaf, entry = item.entry.leaf, item.entry
    if leaf is None or leaf.copies < 2 or item.measured.law not in RANDOM:
        return
    by_copy = matrices(entry, entry.values()) if leaf.is_kernel else None
    if by_copy is None or by_copy[0].size < FEWEST:
        return
    digests = [_digest(copy) for copy in by_copy]
    if len(set(digests)) == len(digests):
        return
    yield Finding(
        "serious",
        "copies with the same draw",
        entry.name,
        f"{len(digests)} layers, gates, heads or experts hold {len(set(digests))} different draws",
        "one key for all of them: nnx.vmap without split_rngs, or a tiled array",
        "@nnx.split_rngs(splits=n) around nnx.vmap, or jaxinit.reinitialize(model, scheme, key)",
    )


def of_scaled_rules(rules: Mapping[str, Rule], items: Iterable[Item]) -> Iterator[Finding]:
    """What defeats a scheme of the muP kind in attention, where values alone show nothing."""
    if all((rule.multiplier, rule.lr_scale) == (1, 1) for rule in rules.values()):
        return
    for item in items:
        leaf = item.entry.leaf
        if leaf is None or leaf.role not in ("query", "bias"):
            continue
        if leaf.role == "query" and leaf.normalized:
            yield Finding(
                "warning",
                "the multiplier of the scores is divided out",
                leaf.name,
                "queries are normalized after their kernel, whatever its size",
                "QK normalization together with a scheme that scales queries by the width",
                "jaxinit coordcheck measures the scores; leave one of the two out",
            )
        if leaf.role == "bias" and leaf.partner == "query":
            yield Finding(
                "warning",
                "the bias of the queries is not scaled with them",
                leaf.name,
                "scores of 1/d attention have a part that the bias alone makes, which grows with "
                "the width",
                "queries with a bias under a scheme of the muP kind",
                "use_bias=False of the queries, and jaxinit coordcheck for the scores",
            )


def _replicas(item: Item) -> Iterator[Finding]:
    """A sharded array whose shards of the same place differ."""
    stored = item.entry.stored
    if not isinstance(stored, jax.Array) or len(stored.addressable_shards) < 2:
        return
    by_place: dict[str, list[Any]] = defaultdict(list)
    for shard in stored.addressable_shards:
        by_place[str(shard.index)].append(shard)
    for shards in by_place.values():
        first = np.asarray(shards[0].data)
        for other in shards[1:]:
            values = np.asarray(other.data)
            if not np.array_equal(first, values, equal_nan=True):
                off = float(np.abs(first.astype(np.float64) - values.astype(np.float64)).max())
                yield Finding(
                    "serious",
                    "replicas differ",
                    item.entry.name,
                    f"devices {shards[0].device.id} and {other.device.id} hold the same part, up "
                    f"to {off:.3g} apart",
                    "each process or device drew with a key of its own",
                    "one key and name for all: jaxinit.reinitialize(model, scheme, key), or "
                    "jax.device_put of one draw",
                )
                return


def _unknown(item: Item) -> Iterator[Finding]:
    if item.entry.leaf is not None:
        return
    entry = item.entry
    yield Finding(
        "note",
        "axes not known",
        entry.name,
        f"shape {tuple(entry.stored.shape)}, {_shape_of(item.measured)}; its fans are not compared "
        "with anything",
        "a bare parameter says nothing of its axes",
        f"jaxinit.audit(model, dims={{{entry.name!r}: ...}}, roles={{{entry.name!r}: ...}}), one "
        "letter an axis: i, o, w, . (copy)",
    )


def _duplicates(items: Iterable[Item]) -> Iterator[Finding]:
    """Random parameters that hold the same numbers, and are not one."""
    by_digest: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.measured.law in RANDOM and item.measured.size >= FEWEST:
            by_digest[item.digest].append(item)
    for alike in by_digest.values():
        if len(alike) < 2 or all(_is_fixed(item) for item in alike):
            continue
        names = [item.entry.name for item in alike]
        yield Finding(
            "serious",
            "the same draw twice",
            names[0],
            f"equal to {', '.join(names[1:4])}{' ...' if len(names) > 4 else ''}, entry by entry",
            "a key, or an initializer with a key of its own, that is used again",
            "a key for each name: jaxinit.reinitialize(model, scheme, key)",
        )


def _is_fixed(item: Item) -> bool:
    return item.expected is not None and item.expected.fixed is not None


BRANCH_ENDS = ("attention_out", "ffn_out")
BRANCH_STARTS = ("query", "key", "value", "ffn_in")


def _depth(items: Iterable[Item]) -> Iterator[Finding]:
    """The factor by depth of the kernels that end a branch: where it is, and of how many blocks.

    Asked of models whose kernels start at 0.02, as GPT-2's, whatever their fans, since only there a
    factor can be told from a fan.
    """
    starts: list[Item] = []
    ends: list[Item] = []
    for item in items:
        leaf = item.entry.leaf
        if leaf is None or item.measured.law not in ("normal", "truncated normal"):
            continue
        if leaf.role in BRANCH_ENDS:
            ends.append(item)
        elif leaf.role in BRANCH_STARTS:
            starts.append(item)
    declared = any(item.expected is not None for item in [*starts, *ends])
    if declared or len(starts) < 2 or not ends:
        return
    sizes = np.asarray([item.measured.std for item in starts])
    blocks = max(item.entry.leaf.n_layers for item in ends if item.entry.leaf is not None)
    fans = {item.entry.leaf.fan_in for item in [*starts, *ends] if item.entry.leaf is not None}
    if blocks < 2 or len(fans) < 2:
        return
    base = float(np.max(sizes))
    by_role = _by_role([*starts, *ends])
    if abs(base / 0.02 - 1) >= 2 * TELLING:
        return
    for role in BRANCH_STARTS:
        own = by_role.get(role)
        factor = _nearest(own / base, _by_depth(blocks), 2 * TELLING) if own else ""
        if factor:
            yield Finding(
                "serious",
                "a factor by depth on the wrong kernel",
                _first_of(starts, role),
                f"std {own:.4g}, {factor} of the {base:.4g} of others; it belongs to the kernels "
                f"that end a branch ({', '.join(BRANCH_ENDS)})",
                "a rule that matches more names than it should",
                "jaxinit.plan(model, 'gpt2') prints the factor of every parameter",
            )
    for role in BRANCH_ENDS:
        own = by_role.get(role)
        if own is None:
            continue
        right = (2 * blocks) ** -0.5
        ratio = own / base
        if abs(ratio / right - 1) < 2 * TELLING or abs(ratio - 1) < 2 * TELLING:
            continue
        factor = _nearest(ratio, _by_depth(blocks), 2 * TELLING)
        if factor or abs(ratio / 2**-0.5 - 1) < TELLING:
            yield Finding(
                "warning",
                "a factor by another depth",
                _first_of(ends, role),
                f"std {own:.4g}, {factor or '1/sqrt(2)'} of {base:.4g}; {blocks} blocks ask for "
                f"1/sqrt(2 x {blocks}), {base * right:.4g}",
                "layers where blocks are meant, one block where there are more, or a factor twice",
                "say the number of blocks: declare(model, n_layers=...), draw under gpt2",
            )


def _by_role(items: Iterable[Item]) -> dict[str, float]:
    """The root mean square of the standard deviations of each role."""
    squares: dict[str, list[float]] = defaultdict(list)
    for item in items:
        assert item.entry.leaf is not None
        squares[item.entry.leaf.role].append(item.measured.std**2)
    return {role: math.sqrt(float(np.mean(its))) for role, its in squares.items()}


def _first_of(items: Iterable[Item], role: str) -> str:
    for item in items:
        if item.entry.leaf is not None and item.entry.leaf.role == role:
            return item.entry.name
    return role


def _time_steps(items: Sequence[Item]) -> Iterator[Finding]:
    """The memory at the start of a recurrence with time steps behind a softplus and decays kept as
    logarithms, as Mamba's and its successors'."""
    by_name = {item.entry.name: item for item in items}
    for name, item in by_name.items():
        steps = half_lives(item, by_name)
        if steps is None:
            continue
        middle = float(np.median(steps))
        if HALF_LIVES[0] <= middle <= HALF_LIVES[1]:
            continue
        published = SHORT_LIVES <= middle < HALF_LIVES[0]
        yield Finding(
            "warning" if published else "serious",
            "a memory of no use at the start",
            name,
            f"half-life {middle:.2g} steps (log-uniform time steps of 1e-3 to 0.1: about 9.9), "
            f"{_shape_of(item.measured)}",
            "a bias set to a constant, or drawn without the inverse of the softplus",
            "bias = dt + log(-expm1(-dt)), dt log-uniform on [1e-3, 0.1]",
        )


def half_lives(item: Item, by_name: Mapping[str, Item]) -> np.ndarray | None:
    """Steps in which a state falls to its half at the start, of a bias of time steps by its name;
    None of all others.

    The rate A is that of the logarithm beside it, its geometric mean where it has another shape
    than the bias, and 1 where there is none.
    """
    prefix = re.sub(TIME_STEPS, "", item.entry.name)
    if prefix == item.entry.name or not item.measured.finite:
        return None
    step_bias = item.entry.values().astype(np.float64)
    log_rate = np.zeros(())
    for name in LOG_RATES:
        beside = by_name.get(prefix + name)
        if beside is None:
            continue
        log_rate = beside.entry.values().astype(np.float64)
        if log_rate.shape != step_bias.shape:
            log_rate = log_rate.mean()
    return np.asarray(theory.glr_half_life(step_bias, log_rate))


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, those of one kind together."""
    findings = list(findings)
    kinds = [finding.what for finding in findings]
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.what)))


def defaults_of(items: Iterable[Item]) -> str:
    """The scheme that most kernels follow, by name; empty where there is none."""
    counts: Counter[tuple[str, str]] = Counter()
    kernels = 0
    for item in items:
        leaf = item.entry.leaf
        if leaf is None or not leaf.is_kernel or leaf.role in ("embedding", "position"):
            continue
        kernels += 1
        if item.known:
            counts[item.known, item.measured.law] += 1
    if not counts:
        return ""
    ((named, most),) = counts.most_common(1)
    text = DEFAULTS.get(named, f"{named[0]}, {named[1]}")
    return f"{most} of {kernels} kernels: {text}"
