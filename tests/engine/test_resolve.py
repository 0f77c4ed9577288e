"""A study resolved: names, options that must fit together, and paired starts."""

import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxinit.analysis.records import schemes_of
from jaxinit.engine import campaign, initial, resolve
from jaxinit.engine.identity import changed, identify
from jaxinit.initializers import normal, zeros
from jaxinit.introspect import Training
from jaxinit.models import LSTM, MLP, MODELS
from jaxinit.names import Named
from jaxinit.schemes.mup import mup
from jaxinit.spec import Initializer, Leaf, Rule, rules
from jaxinit.study import (
    ATTENTION,
    DEFAULTS,
    MODELS_TAKING,
    PICTURES,
    RECURRENT,
    TASKS_TAKING,
    BadStudy,
    Study,
)
from jaxinit.tasks import TASKS

STUDY = Study(hidden=16, schemes=("small_normal", "xavier_rnn"), lrs=(0.1,), batch=64)


def test_a_task_of_the_callers_own_takes_a_length_when_its_function_does() -> None:
    def longer(length: int = 7):
        return replace(TASKS["adding"](length), name="longer")

    resolved = resolve.resolve(replace(STUDY, task="longer", length=9), tasks={"longer": longer})
    assert resolved.task.length == 9
    with pytest.raises(
        BadStudy, match=r"--length is an option of adding, copy.*, longer; .* task 'digits_rows'"
    ):
        resolve.resolve(replace(STUDY, length=9), tasks={"longer": longer})


@pytest.mark.parametrize(
    "name", ["mup(base_width=4)", "spectral_mup(base_width=4)", "scale(mup(4), 2)"]
)
def test_rates_are_those_of_the_studys_optimizer(name: str) -> None:
    """At m = 4: recurrent kernels 1/m under Adam and 1 under SGD, biases of hidden units 1 and
    m."""
    expected = {"adam": (1 / 4, 1), "sgd": (1, 4), "momentum": (1, 4)}
    for optimizer, rates in expected.items():
        resolved = resolve.resolve(
            replace(STUDY, schemes=(name,), baseline=name, optimizer=optimizer)
        )
        found = rules(resolved.schemes[name], resolved.model.leaves)
        assert (found["layers.0.recurrent"].lr_scale, found["layers.0.bias"].lr_scale) == rates


def test_rates_for_another_optimizer_are_refused_in_one_line() -> None:
    def wrapped(leaf: Leaf) -> Rule | Initializer | None:
        return mup(4)(leaf)  # hides from the study that the scheme could adapt

    for name, own in (
        ("u_mup(base_width=4)", {}),
        ("mup(4, 'adam')", {}),
        ("mine", {"mine": wrapped}),
    ):
        study = replace(STUDY, schemes=(name,), baseline=name, optimizer="adam")
        assert resolve.resolve(study, own).schemes
        with pytest.raises(
            BadStudy, match="has rates for adam, and the optimizer is 'sgd'; use --optimizer adam"
        ):
            resolve.resolve(replace(study, optimizer="sgd"), own)


def test_a_base_above_the_width_is_refused_with_the_line_that_settles_it() -> None:
    with pytest.raises(BadStudy, match=r"a base of 64 and a model of 16; .*'mup\(base_width=16\)'"):
        resolve.resolve(replace(STUDY, schemes=("mup",), baseline="mup"))


def test_settings_and_calibrations_stand_in_one_name() -> None:
    known = resolve.SCHEMES
    assert resolve.parts("mup(base_width=4)+lsuv", known) == ("mup(base_width=4)", "lsuv")
    assert resolve.parts("forget_bias(+2)", known) == ("forget_bias(+2)", "")
    name = "forget_bias(+2)+lsuv"
    resolved = resolve.resolve(replace(STUDY, model="lstm", schemes=(name,), baseline=name))
    assert list(resolved.calibrations) == [name]
    with pytest.raises(BadStudy, match="no scheme is called 'orthogonal\\+'"):
        resolve.resolve(replace(STUDY, schemes=("orthogonal+",), baseline="orthogonal+"))


def test_whole_numbers_as_features_are_refused() -> None:
    def whole():
        data = {name: a.astype(jnp.int32) for name, a in TASKS["digits_rows"]().data.items()}
        return replace(TASKS["digits_rows"](), name="whole", data=data)

    with pytest.raises(
        BadStudy, match=r"are real numbers, got int32 \[517, 8, 8\]; convert them to float32"
    ):
        resolve.resolve(replace(STUDY, task="whole"), tasks={"whole": whole})


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_normalized_residual_nets_are_a_setting(norm: str) -> None:
    resolved = resolve.resolve(
        replace(STUDY, model="mlp", layers=3, norm=norm, residual=True, dropout=0.5)
    )
    scales = [leaf for leaf in resolved.model.leaves if leaf.role == "scale"]
    assert [leaf.shape for leaf in scales] == [(16,)] * 3
    starts = initial.draw_parameters(resolved)
    for leaf in scales:
        np.testing.assert_array_equal(starts["small_normal"][leaf.name], 1)
    assert len(resolved.model.running) == (6 if norm == "batch" else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "norm of 'rnn' is layer or left out; got 'batch'"),
        ({"residual": True}, "--residual is an option of mlp"),
        ({"peepholes": True}, "--peepholes is an option of lstm; leave it out"),
        ({"model": "lstm", "leak": 0.5}, "--leak is an option of rnn; leave it out"),
        (
            {"model": "mlp", "learned_start": True},
            "--learned-start is an option of rnn, .*; leave it out",
        ),
        ({"truncate": 9}, "truncate is at most 8, the steps of task 'digits_rows'; got 9"),
        ({"text": "a.txt"}, "--text is an option of text, words; leave it out"),
        ({"bidirectional": True, "segment": 2}, "leave segment out"),
        ({"model": "mlp", "norm": "group"}, "is layer, batch or left out"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1, got 1"),
        ({"clip_value": 0.0}, "clip_value must be positive, .* got 0"),
        ({"l2": -1.0}, "l2 must be 0 or more"),
        (
            {"model": "transformer", "norm": "batch"},
            "norm of 'transformer' is layer, rms, none or left out; got 'batch'",
        ),
        ({"model": "mlp", "gate": True}, "--gate is an option of resnet, transformer, vit"),
        (
            {"model": "vit", "skip_scale": 2.0, "learned_skip": True},
            "leave --skip-scale or --learned-skip out",
        ),
        ({"model": "transformer", "skip_scale": -1.0}, "skip_scale must be positive, .* got -1"),
        (
            {"model": "vit", "task": "text"},
            "task 'text' wants an output at every step, 'vit' gives one",
        ),
        (
            {"model": "transformer", "heads": 3, "hidden": 16},
            "heads must divide the width, got 3 heads and a width of 16",
        ),
    ],
)
def test_remedies_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        resolve.resolve(replace(STUDY, **change))


OTHER_VALUES: dict[str, Any] = {
    "activation": "relu",
    "skip_scale": 2.0,
    "leak": 0.5,
} | dict.fromkeys(("heads", "embedding", "channels", "stages", "unroll", "segment", "truncate"), 2)


def training_step(study: Study) -> str:
    """The program of a training step's gradient, for comparing."""
    resolved = resolve.resolve(study)
    params = {
        leaf.name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in resolved.model.leaves
    }
    x, y = (resolved.task.data[name][: study.batch] for name in ("valid_x", "valid_y"))

    def loss(params: Any, running: Any, key: Any) -> jax.Array:
        return resolved.task.loss(
            resolved.model.learn(params, running, x, Training(key, study.dropout))[0], y
        )

    return str(jax.make_jaxpr(jax.grad(loss))(params, resolved.model.running, jax.random.key(0)))


SLOW = ("lstm", "gru", "mgu", "lru", "glr", "rg_lru", "cnn", "vit")


@pytest.mark.parametrize(
    "model",
    [
        "rnn",
        "mlp",
        "resnet",
        *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW),
    ],
)
def test_an_option_is_taken_where_it_changes_the_program_and_refused_elsewhere(model: str) -> None:
    digits = replace(STUDY, model=model, layers=2, dropout=0.5)
    text = replace(digits, task="text", length=6)
    programs = {digits: training_step(digits)}
    for setting, takers in MODELS_TAKING.items():
        value = OTHER_VALUES.get(setting, True)
        if setting == "norm":
            value = "rms" if model in ATTENTION else "layer"
        if setting == "activation" and model in PICTURES:
            value = "tanh"  # relu is theirs
        base = text if setting == "stateful" and model in RECURRENT else digits
        other = replace(base, **{setting: value})
        if model in takers:
            if base not in programs:
                programs[base] = training_step(base)
            assert training_step(other) != programs[base], setting
        else:
            with pytest.raises(BadStudy, match=r"is an option of|norm of"):
                resolve.resolve(other)


def test_the_tables_of_what_is_taken_name_all_models_and_tasks() -> None:
    assert {name for takers in MODELS_TAKING.values() for name in takers} == set(MODELS)
    for setting, argument in (("length", "length"), ("text", "file")):
        taking = [
            name for name, make in TASKS.items() if argument in inspect.signature(make).parameters
        ]
        assert sorted(TASKS_TAKING[setting]) == sorted(taking)


def test_a_model_of_the_callers_own_takes_what_its_function_names() -> None:
    def plain(
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        layers: int,
        **rest: Any,
    ):
        del rest
        return MLP(in_features * 8, hidden, out_features, layers=layers, rngs=rngs)

    def bare(
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        layers: int,
        readout: str,
        length: int,
        rngs: Any,
    ):
        del readout
        return MLP(in_features * length, hidden, out_features, layers=layers, rngs=rngs)

    asked = replace(STUDY, norm="layer")
    resolve.resolve(replace(asked, model="plain"), models={"plain": plain})
    with pytest.raises(BadStudy, match=r"--norm is an option of rnn, .*; leave it out"):
        resolve.resolve(replace(asked, model="bare"), models={"bare": bare})

    def small(out_features: int, *, rngs: nnx.Rngs):
        return MLP(64, 5, out_features, rngs=rngs)

    def by_place(inputs: int, units: int, outputs: int, *, rngs: nnx.Rngs):
        return MLP(inputs * 8, units, outputs, rngs=rngs)

    wide = replace(STUDY, hidden=DEFAULTS["hidden"])
    for name, make in (("small", small), ("by_place", by_place)):
        found = resolve.resolve(replace(wide, model=name), models={name: make})
        outputs = next(leaf for leaf in found.model.leaves if leaf.name == "readout.bias")
        assert outputs.shape == (10,)
    with pytest.raises(BadStudy, match=r"--hidden 7: model 'small' takes no hidden or hidden_"):
        resolve.resolve(replace(STUDY, model="small", hidden=7), models={"small": small})


def test_flaxs_layers_in_a_model_of_the_callers_own_need_no_declaration() -> None:
    class Net(nnx.Module):
        def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
            self.up = nnx.Linear(8 * in_features, 12, rngs=rngs)
            self.down = nnx.Linear(12, out_features, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.down(nnx.relu(self.up(x.reshape(x.shape[0], -1))))

    asked = replace(STUDY, hidden=DEFAULTS["hidden"], model="net")
    found = resolve.resolve(asked, models={"net": Net})
    dims = {leaf.name: leaf.dims for leaf in found.model.leaves}
    assert dims == {"up.kernel": "io", "up.bias": "o", "down.kernel": "io", "down.bias": "o"}


def test_models_that_are_functions_or_linen_modules_are_taken_as_they_are() -> None:
    class Net(linen.Module):
        units: int = 4

        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(10)(linen.tanh(linen.Dense(self.units)(x.reshape(x.shape[0], -1))))

    def init(key: Any, x: Any) -> Any:
        return {"w": jax.random.normal(key, (64, 10))}

    def apply(params: Any, x: Any) -> Any:
        return x.reshape(x.shape[0], -1) @ params["w"]

    asked = replace(STUDY, hidden=DEFAULTS["hidden"])
    for model, count in ((Net, 4), (Net(units=7), 4), (lambda: Net(), 4), ((init, apply), 1)):
        found = resolve.resolve(replace(asked, model=Named("mine", model)))
        assert len(found.model.leaves) == count


@pytest.mark.parametrize(
    ("change", "free", "message"),
    [
        (
            {"hidden": 20_000},
            4,
            "parameters of 2 schemes x 8 seeds: make hidden, seeds or schemes fewer",
        ),
        ({"layers": 40, "hidden": 39, "seeds": 10_000}, 2, "make layers, seeds or schemes fewer"),
        (
            {"embedding": 2**31 - 1},
            4,
            "layers.0.input has the shape .* at most 2147483647 can be addressed: make embedding",
        ),
        ({"hidden": 2**31 - 1}, 4, "can be addressed"),
        ({"model": "mlp", "norm": "batch", "hidden": 60_000, "layers": 2}, 4, "can be addressed"),
        (
            {"model": "mlp", "norm": "batch", "hidden": 20_000, "layers": 2},
            4,
            "the parameters need .* make hidden smaller",
        ),
        (
            {"task": "copy", "length": 2**31 - 1},
            4,
            "validation set of task 'copy' needs .* make length smaller",
        ),
        (
            {"task": "adding", "length": 5000, "segment": 5000, "batch": 1280, "hidden": 512},
            8,
            "make batch, length or hidden smaller",
        ),
        ({"seeds": 100_000, "epochs": 1000, "hidden": 1}, 4, "of it are the records: make epochs"),
    ],
)
def test_what_memory_cannot_hold_is_refused_before_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch, change: dict, free: int, message: str
) -> None:
    monkeypatch.setattr(resolve.memory, "free_on_host", lambda: free * 2**30)
    study = replace(STUDY, **change)
    recorded = 16 * study.seeds * len(study.schemes) * study.epochs * 8
    with pytest.raises(BadStudy, match=message) as caught:
        resolve.check_memory(resolve.resolve(study), 2, recorded=recorded)
    assert "\n" not in str(caught.value)


def test_what_memory_holds_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve.memory, "free_on_host", lambda: 2**27)
    resolve.check_memory(resolve.resolve(STUDY), 8)


def test_a_factor_that_is_not_finite_is_refused() -> None:
    own = {"own": lambda leaf: Rule(zeros, lr_scale=math.inf)}
    with pytest.raises(
        BadStudy, match=r"scheme 'own' gives parameter 'layers.0.bias' a rate times inf; change its"
    ):
        resolve.resolve(replace(STUDY, schemes=("own",), baseline="own"), own)


def tiny(leaf: Leaf) -> Any:
    return zeros if leaf.role == "bias" else normal(0.001)


def own(inputs: int, units: int, outputs: int, *, layers: int, rngs: nnx.Rngs, **unused) -> MLP:
    del unused
    return MLP(inputs * 8, units, outputs, layers=layers, rngs=rngs)


def test_a_study_takes_objects(tmp_path: Path) -> None:
    task = replace(TASKS["digits_rows"](), name="half")
    study = replace(
        STUDY,
        model=own,
        task=task,
        schemes=(tiny, jax.nn.initializers.normal(0.1), "xavier_rnn", "orthogonal+lsuv"),
        baseline=tiny,
        epochs=1,
        seeds=2,
    )
    assert study.baseline == study.schemes[0]
    assert study.model.object is own
    assert study.schemes[1].startswith("init@")
    assert study.task.startswith("half@")
    got = campaign.run(study, out=tmp_path / "s", progress=False)
    stored = json.loads((tmp_path / "s" / "study.json").read_text())["study"]
    assert stored["schemes"] == list(study.schemes)
    assert stored["model"] == study.model
    assert "own" in study.model
    assert campaign.run(study, out=tmp_path / "s", progress=False).read_back
    assert schemes_of(got.records) == list(study.schemes)
    same = (tiny, jax.nn.initializers.normal(0.1), "xavier_rnn", "orthogonal+lsuv")
    assert campaign.run(replace(study, schemes=same), out=tmp_path / "s", progress=False).read_back
    other = (tiny, jax.nn.initializers.normal(0.2), "xavier_rnn", "orthogonal+lsuv")
    with pytest.raises(BadStudy, match="holds another study"):
        campaign.run(replace(study, schemes=other), out=tmp_path / "s", progress=False)


def test_an_optimizer_of_the_callers_is_a_function_of_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_object = replace(STUDY, optimizer=optax.adamw)
    assert resolve.resolve(by_object).study.optimizer == "optax:adamw"
    named = resolve.resolve(replace(STUDY, optimizer="optax:adamw"))
    assert named.optimizer is optax.adamw
    (tmp_path / "own.py").write_text(
        "import optax\n"
        "made = optax.sgd(0.1)\n"
        "def decayed(lr):\n"
        "    return optax.adamw(lr, weight_decay=0.1)\n"
        "def broken(lr, b1):\n"
        "    return optax.adam(lr, b1)\n"
        "def untraced(lr):\n"
        "    return optax.sgd(float(lr))\n"
        "def none(lr):\n"
        "    return lr\n"
    )
    monkeypatch.chdir(tmp_path)
    resolved = resolve.resolve(replace(STUDY, optimizer="own.py:decayed", search="ladder", lrs=()))
    study = replace(STUDY, optimizer=optax.adamw, search="ladder", lrs=())
    assert changed(identify(resolve.resolve(study)), identify(resolved), study) == [
        f"what optimizer {str(study.optimizer)!r} computes differs"
    ]
    for name, words in {
        "own.py:made": "one learning rate, and a study searches.*give the function of the rate",
        "own.py:broken": r"'own.py:broken' failed with TypeError at a rate.*b1",
        "own.py:untraced": r"'own.py:untraced' failed with Concretiz.* that is traced",
        "optax:lbfgs": r"'optax:lbfgs' failed with .* needs no more than the gradient",
        "own.py:none": r"'own.py:none' made \w+ for a rate",
        "sdg": "no optimizer is called 'sdg'; the nearest is 'sgd'",
    }.items():
        with pytest.raises(BadStudy, match=words):
            resolve.resolve(replace(STUDY, optimizer=name))
    with pytest.raises(BadStudy, match="one learning rate, and a study searches"):
        replace(STUDY, optimizer=optax.adam(0.1))
    with pytest.raises(BadStudy, match="rates of optimizer 'optax:lion' are not known; give"):
        resolve.resolve(replace(STUDY, optimizer="optax:lion", search="grid", lrs=()))
    with pytest.raises(BadStudy, match=r"'mup'.*knows the rates of adam, muon, sgd and momentum"):
        resolve.resolve(replace(study, schemes=("mup",), baseline="mup", hidden=64))
    lsuv = replace(study, schemes=("orthogonal+gradinit",), baseline="orthogonal+gradinit")
    with pytest.raises(BadStudy, match="gradinit knows the first step of sgd, momentum and adam"):
        campaign.run(lsuv, out=tmp_path / "s", progress=False)


def test_our_own_objects_have_our_names() -> None:
    resolved = resolve.resolve(replace(STUDY, model=LSTM, peepholes=True))
    assert resolved.study.model == "lstm"


def test_objects_are_found_by_the_names_that_studies_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(
        "from jaxinit.initializers import normal, zeros\n"
        "from jaxinit.models import MLP\n"
        "def small(leaf):\n"
        "    return zeros if leaf.role == 'bias' else normal(0.01)\n"
        "def broken(*sizes, **options):\n"
        "    raise TypeError('of the caller')\n"
        "def net(inputs, units, outputs, *, layers, rngs, **unused):\n"
        "    return MLP(inputs * 8, units, outputs, layers=layers, rngs=rngs)\n"
    )
    monkeypatch.chdir(tmp_path)
    named = replace(STUDY, model="own.py:net", schemes=("own.py:small", "own.py:small+lsuv"))
    resolved = resolve.resolve(replace(named, baseline="own.py:small"))
    assert set(resolved.schemes) == {"own.py:small", "own.py:small+lsuv"}
    with pytest.raises(
        BadStudy, match=r"'own.py:ned': own.py has no 'ned'; the nearest it has: net"
    ):
        resolve.resolve(replace(STUDY, model="own.py:ned"))
    with pytest.raises(BadStudy, match="could not be built: TypeError: of the caller"):
        resolve.resolve(replace(STUDY, model="own.py:broken"))
    with pytest.raises(BadStudy, match="model wants a name or an object of yours, got 3"):
        replace(STUDY, model=3)
