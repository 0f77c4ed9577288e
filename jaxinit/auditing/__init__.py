"""Is a model initialized the way its author thinks it is?

    model -> entries -> measured laws, a declared scheme's draws -> findings -> Report

`inventory` finds the parameters of any model, `laws` measures them, `findings` compares,
`behaviour` runs the model on a batch, `report` says it; `fresh` draws a model anew.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxinit import introspect, spec, theory
from jaxinit.auditing.behaviour import Loss, behaviour
from jaxinit.auditing.findings import (
    FAMILIES,
    Finding,
    Item,
    all_findings,
    defaults_of,
    half_lives,
    look,
    of_scaled_rules,
    worst_first,
)
from jaxinit.auditing.fresh import scheme_of
from jaxinit.auditing.inventory import Entry, arrays_in_file, entries_in, module_of
from jaxinit.auditing.report import Report, Row
from jaxinit.spec import Initializer, Rule, Scheme
from jaxinit.study import BadStudy

__all__ = ["Finding", "Report", "assert_well_initialized", "audit"]


def audit(
    model: Any,
    scheme: str | Scheme | Initializer | None = None,
    batch: tuple[Any, Any] | None = None,
    *,
    loss: str | Loss | None = None,
    weights: str | Path | Mapping[str, Any] | None = None,
    fresh: tuple[str, ...] = (),
    **declared: Any,
) -> Report:
    """Audit how a model is initialized: the law of every parameter, and what is wrong with it.

    Each kernel's standard deviation is compared, within its sampling noise, with that of the laws
    that have names (LeCun, He, Glorot, PyTorch's, 0.02, ...) at its true fans, per gate, head,
    expert and stacked layer; under a `scheme`, every parameter with a draw of it. One error rate
    holds for the whole model: a correct one has a serious finding by chance in 1 of 1000.

    model: an nnx.Module; a tree of parameters (Linen, Haiku, Equinox); `{name: array}` or a
    safetensors file (PyTorch's names and axes); with a batch also a Linen module, or a pair (init,
    apply). It is not changed.
    scheme: what the model is meant to follow, a name or a scheme.
    batch: `(x, y)` of examples, for what only shows when the model runs: loss against chance,
    examples that depend on each other, parameters that no gradient reaches, signals through depth
    and time. `loss` is cross_entropy, squared_error or a function of (outputs, y).
    weights: what was loaded into it, a safetensors file or `{name: array}`: parameters that hold
    other values are found, but those that match a pattern in `fresh`.
    declared: as `jaxinit.declare` takes it: roles, dims, split, n_layers, ...
    Memory: a parameter at a time beside the model; under a scheme a draw of it.
    Raises: BadStudy for what is no model, has no parameters, or fails on the batch; for a scheme
    that there is not, and names that match nothing.
    """
    model = adapted(model, batch)
    module = module_of(model, **declared)
    entries = entries_in(module)
    rules, findings = _rules(scheme, entries)
    key = spec.named_key(jax.random.key(0), "audit")  # no draw that a model would have
    items = []
    for entry in entries:
        leaf_name = entry.leaf.name if entry.leaf is not None else ""
        items.append(look(entry, rules.get(leaf_name), key))
    tests = 2 * sum(item.expected is not None for item in items)
    findings += all_findings(items, tests)
    findings += of_scaled_rules(rules, items)
    if weights is not None:
        findings += _loaded(items, weights, fresh)
    if batch is not None:
        if not isinstance(model, nnx.Module):
            raise BadStudy(
                f"a batch needs a model that can be called, got {type(model).__name__}; give the "
                "nnx.Module, or a Linen module by jaxinit.adapt"
            )
        findings += behaviour(module, batch, loss)
    by_name = {item.entry.name: item for item in items}
    return Report(
        model=_name_of(model),
        scheme="" if scheme is None else _scheme_name(scheme),
        recognized=defaults_of(items),
        parameters=sum(entry.size for entry in entries),
        rows=tuple(_row(item, by_name) for item in items),
        findings=tuple(worst_first(findings)),
    )


def assert_well_initialized(
    model: Any,
    scheme: str | Scheme | Initializer | None = None,
    batch: tuple[Any, Any] | None = None,
    **options: Any,
) -> None:
    """Raises: AssertionError with every serious finding of `audit`, for a test of your model."""
    serious = audit(model, scheme, batch, **options).serious
    if serious:
        lines = [
            f"{finding.what} {finding.parameter}: {finding.evidence}; {finding.repair}"
            for finding in serious
        ]
        raise AssertionError("not initialized as it should be:\n" + "\n".join(lines))


def adapted(model: Any, batch: tuple[Any, Any] | None) -> Any:
    """A Linen module, or a pair of functions, as a module of NNX; any other model as it is."""
    is_pair = isinstance(model, tuple) and len(model) == 2 and all(map(callable, model))
    is_linen = not isinstance(model, nnx.Module) and hasattr(model, "init") and callable(model)
    if not (is_pair or is_linen):
        return model
    if batch is None:
        raise BadStudy(
            f"{type(model).__name__} has no parameters before it sees inputs; give a batch of them "
            "(batch=(x, y), --batch FILE.npz), or the tree of its parameters"
        )
    return introspect.adapt(model, batch[0])


def _rules(
    scheme: str | Scheme | Initializer | None, entries: list[Entry]
) -> tuple[dict[str, Rule], list[Finding]]:
    """The rule of every parameter under the declared scheme; where it cannot answer for all, that
    is a finding."""
    if scheme is None:
        return {}, []
    known = scheme_of(scheme)
    leaves = [entry.leaf for entry in entries if entry.leaf is not None]
    try:
        return spec.rules(known, leaves), []
    except ValueError as error:
        finding = Finding(
            "serious",
            "the declared scheme does not fit the model",
            "",
            str(error),
            "a pattern that matches no parameter, or a scheme that needs what is not known",
            "correct the pattern, or say roles=, n_layers=, width=",
        )
    by_name: dict[str, Rule] = {}
    for leaf in leaves:
        try:
            answer = known(leaf)
        except ValueError:
            continue
        if answer is not None:
            by_name[leaf.name] = spec.as_rule(answer)
    return by_name, [finding]


def _loaded(
    items: list[Item], weights: str | Path | Mapping[str, Any], fresh: tuple[str, ...]
) -> list[Finding]:
    """Parameters that do not hold what was loaded."""
    if isinstance(weights, str | Path):
        weights = arrays_in_file(weights)
    found = []
    for item in items:
        name = item.entry.name
        if any(fnmatchcase(name, pattern) for pattern in fresh):
            continue
        if name not in weights:
            found.append(
                Finding(
                    "note", "not among the loaded weights", name, "no array of this name", "", ""
                )
            )
            continue
        loaded, own = np.asarray(weights[name]), item.entry.values()
        if loaded.shape != own.shape:
            evidence = f"shape {own.shape}, loaded {loaded.shape}"
        elif np.array_equal(loaded.astype(own.dtype), own):
            continue
        else:
            off = np.abs(loaded.astype(np.float64) - own.astype(np.float64)).max()
            evidence = f"up to {off:.3g} from what was loaded, {item.measured.law} now"
        found.append(
            Finding(
                "serious",
                "not what was loaded",
                name,
                evidence,
                "initialized again after it was loaded, or loaded under another name",
                "load last, or jaxinit.reinitialize(model, scheme, key, exclude=...) before",
            )
        )
    return found


def _row(item: Item, by_name: Mapping[str, Item]) -> Row:
    leaf, own = item.entry.leaf, item.measured
    expected, source, z = math.nan, "", item.z
    if item.expected is not None:
        expected = item.expected.std
    elif item.known and leaf is not None:
        source = item.known
        expected = math.sqrt(FAMILIES[source](leaf.fan_in, leaf.fan_out))
        z = (own.std - expected) / own.error if own.error else math.nan
    return Row(
        name=item.entry.name,
        shape=tuple(item.entry.shape),
        dtype=item.entry.dtype.name,
        role=leaf.role if leaf is not None else "unknown",
        fan_in=leaf.fan_in if leaf is not None else 0,
        fan_out=leaf.fan_out if leaf is not None else 0,
        law="orthogonal, fused" if item.fused else own.law,
        p=own.p,
        mean=own.mean,
        std=own.std,
        expected=expected,
        source=source,
        noise=own.error / own.std if own.std else math.nan,
        z=z,
        memory=_memory(item, by_name),
    )


def _memory(item: Item, by_name: Mapping[str, Item]) -> float:
    """The half-life of the state at the start, in steps, of what decides it: the bias of a forget
    or an update gate, a pole's radius, a time step."""
    leaf = item.entry.leaf
    steps = half_lives(item, by_name)
    if steps is not None:
        return float(np.median(steps))
    if leaf is None or not item.measured.finite:
        return math.nan
    if leaf.role == "log_decay":
        radius = np.exp(-np.exp(item.entry.values().astype(np.float64)))
        return float(np.median(theory.half_life(radius)))
    keeps = {"forget", "update"} & set(leaf.gate)
    if leaf.role != "bias" or not keeps:
        return math.nan
    values = item.entry.values().astype(np.float64)
    bias = values[leaf.gate.index(keeps.pop())] if leaf.copies == len(leaf.gate) > 1 else values
    return float(np.median(theory.half_life(1 / (1 + np.exp(-bias)))))


def _name_of(model: Any) -> str:
    if isinstance(model, str | Path):
        return Path(model).name
    return type(model).__name__


def _scheme_name(scheme: str | Scheme | Initializer) -> str:
    return scheme if isinstance(scheme, str) else spec.scheme_name(scheme)
