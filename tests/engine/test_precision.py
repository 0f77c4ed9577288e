"""Studies in bfloat16, and the precision of matrix products: what is computed in what, and what is
kept in what."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from cases import quick
from flax import nnx
from programs import equations

from jaxinit.analysis.coordinates import slopes
from jaxinit.analysis.records import Point
from jaxinit.engine import campaign, identity, initial, sweep
from jaxinit.engine.coordcheck import coordinate_check
from jaxinit.engine.resolve import Resolved, check_memory, resolve
from jaxinit.engine.survey import survey, through_time
from jaxinit.engine.training import OPTIMIZERS, Program, Trial
from jaxinit.finetune import pretrain
from jaxinit.introspect import Training, computing_in, declare, functional
from jaxinit.models import MLP, MODELS
from jaxinit.study import BadStudy, Study, check_settings
from jaxinit.tasks import TASKS

BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")
STUDY = Study(
    model="mlp",
    hidden=8,
    schemes=("he_normal",),
    baseline="he_normal",
    lrs=(0.1,),
    seeds=2,
    tune_seeds=1,
    epochs=1,
    evaluations=1,
    batch=640,
)
OF_MODEL: dict[str, dict[str, Any]] = {
    "mlp": {"layers": 2, "norm": "batch"},
    "transformer": {"task": "digits_rows", "heads": 2, "norm": "rms"},
    "vit": {"task": "digits_patches", "heads": 2, "layers": 2},
}


def of_model(model: str, **settings: Any) -> Study:
    scheme = "xavier_transformer" if model in ("transformer", "vit") else "orthogonal"
    own = OF_MODEL.get(model, {}) | {"model": model, "schemes": (scheme,), "baseline": scheme}
    return replace(STUDY, hidden=32, **own | settings)


def loss_and_slopes(resolved: Resolved, params: Any) -> Any:
    """The loss of a training step on 16 examples, its gradient, and the program of both."""
    x, y = (resolved.task.data[name][:16] for name in ("valid_x", "valid_y"))

    def loss(params: Any) -> jax.Array:
        outputs, _ = resolved.model.learn(params, resolved.model.running, x, Training())
        assert outputs.dtype == F32
        return resolved.task.loss(outputs, y)

    traced = jax.jit(jax.value_and_grad(loss)).trace(params)
    return *traced.lower().compile()(params), traced.jaxpr


@pytest.mark.parametrize("model", quick("lstm", "transformer", of=MODELS))
def test_loss_and_gradient_in_bfloat16_are_those_of_float32_to_its_rounding(model: str) -> None:
    exact, narrow = resolve(of_model(model)), resolve(of_model(model, dtype="bfloat16"))
    (drawn,) = initial.draw_parameters(exact).values()
    params = {name: jnp.asarray(a[0]) for name, a in drawn.items()}
    loss, expected, _ = loss_and_slopes(exact, params)
    got_loss, got, program = loss_and_slopes(narrow, params)
    # an operation rounds by 2^-9, and by 2^-8 two that are subtracted; some 20 follow each other
    assert got_loss == pytest.approx(loss, rel=20 * 2**-8)
    assert got_loss.dtype == F32
    one = jnp.concatenate([slope.reshape(-1) for slope in jax.tree.leaves(expected)])
    other = jnp.concatenate([slope.reshape(-1) for slope in jax.tree.leaves(got)])
    assert other.dtype == F32
    assert jnp.isfinite(other).all()
    assert float(one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)) > 0.99
    products = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
    assert products
    assert {var.aval.dtype for product in products for var in product.invars} == {BF16}
    roots = [e for e in equations(program.jaxpr) if e.primitive.name in ("sqrt", "rsqrt")]
    assert all(e.invars[0].aval.dtype == F32 for e in roots)  # those of normalizations


def test_a_study_in_float32_casts_nothing() -> None:
    resolved = resolve(STUDY)
    module = functional(lambda: MLP(64, 8, 10, rngs=nnx.Rngs(0)))
    params = {leaf.name: jnp.zeros(leaf.shape) for leaf in module.leaves}
    x = resolved.task.data["valid_x"][:2]
    ours, plain = (
        identity.program_digest(one.apply, params, x) for one in (resolved.model, module)
    )
    assert ours == plain


class Own(nnx.Module):
    """Layers of Flax's, and statistics."""

    def __init__(self, inputs: int, units: int, outputs: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, units, rngs=rngs)
        self.batch = nnx.BatchNorm(outputs, rngs=rngs)
        self.layer = nnx.LayerNorm(units, rngs=rngs)
        self.head = nnx.Linear(units, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.batch(self.head(self.layer(self.linear(x))))


def test_a_module_of_flax_layers_is_cast_and_its_statistics_are_not() -> None:
    model = functional(lambda: declare(Own(5, 6, 3, rngs=nnx.Rngs(0)), roles={"head": "readout"}))
    narrow = computing_in(model, "bfloat16")
    params = {leaf.name: jnp.ones(leaf.shape) for leaf in model.leaves}
    x = jax.random.normal(jax.random.key(0), (64, 5))
    with jax.numpy_dtype_promotion("standard"):  # Flax takes statistics in float32
        program = jax.make_jaxpr(narrow.learn)(params, model.running, x, Training())
        _, after = narrow.learn(params, model.running, x, Training())
        _, exact = model.learn(params, model.running, x, Training())
    products = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
    assert {var.aval.dtype for product in products for var in product.invars} == {BF16}
    assert {statistic.dtype for statistic in after.values()} == {F32}
    for name, statistic in exact.items():
        np.testing.assert_allclose(after[name], statistic, rtol=0.01, atol=0.01)
    assert narrow.filled(params).head.kernel[...].dtype == BF16


def test_draws_are_float32_and_cast_last() -> None:
    """A uniform draw in bfloat16 itself has a mean of 0.498; rounding to the nearest has none."""
    study = replace(STUDY, schemes=("uniform01",), baseline="uniform01", hidden=256)
    resolved = resolve(replace(study, param_dtype="bfloat16"))
    drawn = initial.draw_parameters(resolved)
    kept, _ = initial.calibrate_parameters(resolved, drawn)
    wide, narrow = (starts["uniform01"]["layers.0.kernel"] for starts in (drawn, kept))
    assert (wide.dtype, narrow.dtype) == (F32, BF16)
    np.testing.assert_array_equal(narrow, np.asarray(jnp.asarray(wide).astype(BF16)))
    rounded = narrow.astype(np.float64)
    # 3 x 64 x 256 errors of at most 2^-9, which do not lean to one side
    room = 4 * 2**-9 / np.sqrt(3 * rounded.size)
    assert abs(rounded.mean() - wide.mean(dtype=np.float64)) < room
    assert rounded.var() == pytest.approx(wide.var(dtype=np.float64), abs=room)


def trial() -> Trial:
    numbers = dict.fromkeys(("l2", "weight_decay", "target"), jnp.float32(0))
    endless = {"clip": jnp.float32(jnp.inf), "clip_value": jnp.float32(jnp.inf)}
    return Trial(seed=jnp.int32(0), lr=jnp.float32(0.1), budget=jnp.int32(9), **numbers, **endless)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_of_narrow_parameters_is_one_in_float32_rounded_once(optimizer: str) -> None:
    model = functional(lambda: MLP(64, 8, 10, rngs=nnx.Rngs(0)))
    sizes = {"batch": 64, "evaluations": 1, "epochs": 1}
    program = Program(model, TASKS["digits_rows"](), OPTIMIZERS[optimizer], **sizes)
    keys = jax.random.split(jax.random.key(0), 2)
    params, grads = ({"w": jax.random.normal(key, (99,), BF16)} for key in keys)
    state = program.initial_state(params, trial())
    moved, opt, norm = program.descend(params, grads, state.opt, trial())
    assert {a.dtype for a in jax.tree.leaves((moved, opt)) if a.ndim} == {BF16}
    reference: Any = OPTIMIZERS[optimizer](0.1)
    wide = [{"w": tree["w"].astype(F32)} for tree in (params, grads)]
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = reference.update(wide[1], reference.init(wide[0]))
    expected = optax.apply_updates(wide[0], updates)["w"]
    np.testing.assert_array_equal(moved["w"], expected.astype(BF16))
    assert norm == pytest.approx(float(jnp.linalg.norm(wide[1]["w"])), rel=1e-6)
    # below half of the distance between two numbers of bfloat16 there is no step
    small = {"w": 0.01 * 2.0**-9 * params["w"]}
    if optimizer == "sgd":
        np.testing.assert_array_equal(
            program.descend(params, small, state.opt, trial())[0]["w"], params["w"]
        )


@pytest.mark.slow
def test_a_study_in_bfloat16_goes_on_after_a_signal_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its saved states are narrow too, and files of NumPy know no bfloat16."""
    study = replace(
        STUDY, dtype="bfloat16", param_dtype="bfloat16", optimizer="momentum", epochs=4, target=1.0
    )
    whole = campaign.run(study, out=tmp_path / "whole", progress=False, slots_per_device=1)
    run = sweep.Sweep.run

    def stopped(self, *args: Any, **kwargs: Any) -> Any:
        for chunk in run(self, *args, **kwargs):
            signal.raise_signal(signal.SIGTERM)
            yield chunk

    with monkeypatch.context() as patched:
        patched.setattr(sweep.Sweep, "run", stopped)
        parts = campaign.run(study, out=tmp_path / "parts", progress=False, slots_per_device=1)
    assert not parts.complete
    parts = campaign.run(study, out=tmp_path / "parts", progress=False, slots_per_device=1)
    xr.testing.assert_identical(parts.records, whole.records)
    assert whole.records.train_loss.dtype == F32
    assert np.isfinite(whole.records.train_loss).all()
    with pytest.raises(BadStudy, match="dtype is 'bfloat16' there, 'float32' here"):
        campaign.run(replace(study, dtype="float32"), out=tmp_path / "whole", progress=False)


def test_dtypes_and_precision_are_part_of_what_a_study_is() -> None:
    def identify(**settings: Any) -> identity.Identity:
        return identity.identify(resolve(replace(STUDY, **settings)))

    before = identify()
    assert identity.changed(before, identify(dtype="bfloat16"), STUDY) == [
        "what model 'mlp' computes differs"
    ]
    assert identity.changed(before, identify(param_dtype="bfloat16"), STUDY) == [
        "what model 'mlp' computes differs",
        "what optimizer 'sgd' computes differs",
    ]
    assert identity.changed(before, identify(matmul_precision="default"), STUDY) == [
        "what model 'mlp' computes differs",
        "default_matmul_precision is 'highest' there, 'default' here",
    ]
    with jax.default_matmul_precision("bfloat16"), jax.enable_x64(True):
        assert identify() == before  # what the environment says does not matter


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dtype", "; the nearest is"),
        ("param_dtype", "; the nearest is"),
        ("matmul_precision", r" \(there are highest, "),  # of which none is like it
    ],
)
def test_what_there_is_not_is_refused(name: str, near: str) -> None:
    study = replace(STUDY, **{name: "float8"})
    with pytest.raises(BadStudy, match=f"no {name} is called 'float8'{near}"):
        check_settings(study)
    with pytest.raises(BadStudy, match=f"no {name} is called 'float8'"):
        resolve(study)


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_every_product_of_the_training_program_has_the_precision_asked_for(model: str) -> None:
    for asked in ("highest", "default"):
        study = of_model(model, matmul_precision=asked)
        resolved = resolve(study)
        program = Program(
            resolved.model, resolved.task, resolved.optimizer, batch=64, evaluations=1, epochs=1
        )
        settings = jax.tree.map(jnp.asarray, resolved.trial(Point(study.schemes[0], 0.1, 0), 1))
        params = {leaf.name: jnp.zeros(leaf.shape) for leaf in resolved.model.leaves}
        with sweep.numerics(study):
            state = program.initial_state(params, settings)
            traced = jax.make_jaxpr(program.advance)(resolved.task.data, state, settings)
        products = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
        expected = getattr(jax.lax.Precision, asked.upper())
        assert len(products) > 3
        assert {product.params["precision"] for product in products} == {(expected, expected)}


SEEN: set[str] = set()


class Watching(MLP):
    """An MLP that notes the precision that its products are traced in."""

    def __call__(self, x: Any, training: Any = None) -> Any:
        SEEN.add(str(jax.config.jax_default_matmul_precision))  # pyright: ignore
        return super().__call__(x, training)


def watching(inputs: int, units: int, outputs: int, *, layers: int, rngs: Any, **_: Any) -> MLP:
    return Watching(8 * inputs, units, outputs, layers=layers, rngs=rngs)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["highest", "high"])
def test_training_calibrations_probes_and_checks_are_traced_in_it(
    asked: str, tmp_path: Path
) -> None:
    study = replace(STUDY, model=watching, schemes=("he_normal+lsuv",), matmul_precision=asked)
    study = replace(study, baseline="he_normal+lsuv")
    looks = {
        "run": lambda: campaign.run(study, out=tmp_path / "s", progress=False, signals=2),
        "survey": lambda: survey(study, examples=2),
        "check": lambda: coordinate_check(study, (4, 8), steps=1),
        "pretrain": lambda: pretrain(study, progress=False),
        "memory": lambda: check_memory(resolve(study), 1),
    }
    for name, look in looks.items():
        SEEN.clear()
        look()
        assert {asked} == SEEN, name


@pytest.mark.slow
def test_signals_are_seen_in_bfloat16_as_in_float32() -> None:
    study = replace(STUDY, model="rnn", hidden=16, schemes=("orthogonal",), baseline="orthogonal")
    narrow = replace(study, dtype="bfloat16")
    exact, rounded = (survey(one, examples=20) for one in (study, narrow))
    np.testing.assert_allclose(
        rounded.product_mean_square, exact.product_mean_square, rtol=40 * 2**-8
    )
    exact, rounded = (through_time(one, examples=5) for one in (study, narrow))
    np.testing.assert_allclose(rounded.gradient, exact.gradient, rtol=0.1)
    assert {F32} == {rounded[name].dtype for name in ("gradient", "mean_square")}


def test_a_change_within_the_rounding_of_bfloat16_is_not_judged() -> None:
    study = replace(STUDY, dtype="bfloat16")
    found = coordinate_check(study, (8, 16), steps=1, rate=1e-4)
    notes = [row.note for row in slopes(found) if row.kind == "update"]
    assert any("no more than rounding" in note for note in notes)


def test_lsuv_brings_products_in_bfloat16_to_variance_1() -> None:
    study = replace(
        STUDY, schemes=("he_normal+lsuv",), baseline="he_normal+lsuv", dtype="bfloat16", layers=2
    )
    resolved = resolve(study)
    _, reports = initial.calibrate_parameters(resolved, initial.draw_parameters(resolved))
    report = reports["he_normal+lsuv"]
    assert report["variance_low"]["low"] == pytest.approx(1, abs=0.02)
    assert report["variance_high"]["high"] == pytest.approx(1, abs=0.02)


def test_each_of_several_inputs_is_narrowed() -> None:
    class Sum(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.linear = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            assert {key: a.dtype for key, a in x.items()} == {"a": BF16, "count": jnp.int32}
            return self.linear(x["a"]) * x["count"][:, None].astype(x["a"].dtype)

    model = computing_in(functional(lambda: declare(Sum(nnx.Rngs(0)))), "bfloat16")
    params = {leaf.name: jnp.ones(leaf.shape) for leaf in model.leaves}
    y = model.apply(params, {"a": jnp.ones((4, 3)), "count": jnp.arange(4)})
    np.testing.assert_array_equal(y, 4.0 * np.arange(4)[:, None] * np.ones((4, 2)))
    assert y.dtype == F32
