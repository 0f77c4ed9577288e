"""The configurations: documented, checked, and Python's own values whatever they were given."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from jaxinit.options import (
    OPTIONS,
    CNNOptions,
    ConvolutionalOptions,
    GRUOptions,
    LinearRecurrentOptions,
    LSTMOptions,
    MLPOptions,
    RecurrentOptions,
    ResNetOptions,
    RNNOptions,
    TransformerOptions,
    choices,
    docstrings,
    gather,
    models_of,
    models_taking,
)

CONFIGURATIONS = sorted({*OPTIONS.values(), RecurrentOptions}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_option_is_documented(configuration: type) -> None:
    texts = docstrings(configuration)
    for field in fields(configuration):
        assert texts[field.name].endswith((".", ").")), field.name


def test_models_and_the_options_that_they_take() -> None:
    assert models_of(RecurrentOptions) == (
        "rnn",
        "lstm",
        "gru",
        "mgu",
        "lru",
        "glr",
        "rg_lru",
    )
    assert models_of(TransformerOptions) == ("transformer", "vit")
    assert models_of(ConvolutionalOptions) == ("cnn", "resnet")
    assert models_taking("peepholes") == ("lstm",)
    assert models_taking("unroll") == ("rnn", "lstm", "gru", "mgu")
    assert models_taking("layers") == tuple(OPTIONS)
    assert models_taking("no such option") == ()


def test_keywords_that_are_no_options_are_handed_back() -> None:
    options, others = gather(LSTMOptions, {"peepholes": True, "bias_init": None, "layers": 2})
    assert options == LSTMOptions(peepholes=True, layers=2)
    assert others == {"bias_init": None}


def test_values_are_pythons_own_and_fixed() -> None:
    options, _ = gather(RNNOptions, {"layers": np.int64(2), "leak": np.float32(0.5)})
    assert (type(options.layers), type(options.leak)) == (int, float)
    with pytest.raises(FrozenInstanceError):
        options.__setattr__("layers", 3)


def test_choices_are_read_from_the_types() -> None:
    assert choices(TransformerOptions, "norm") == ("layer", "rms", "none", None)
    assert choices(GRUOptions, "reset") == ("after", "before")
    assert choices(GRUOptions, "layers") == ()


def test_no_normalization_has_one_value() -> None:
    assert TransformerOptions(norm="none") == TransformerOptions(norm=None)
    assert ResNetOptions(norm="none") == ResNetOptions(norm=None)


@pytest.mark.parametrize(
    ("configuration", "options", "message"),
    [
        (MLPOptions, {"layers": True}, "layers must be a positive integer, got True"),
        (MLPOptions, {"norm": "rms"}, "norm is one of 'layer', 'batch', None, got 'rms'"),
        (MLPOptions, {"activation": "tahn"}, "no activation is called 'tahn'; there are linear"),
        (RNNOptions, {"activation": "gelu"}, "an RNN takes the activations .* an MLP takes it"),
        (RNNOptions, {"leak": 0.0}, "leak must be above 0 and at most 1, got 0; leave it out"),
        (LSTMOptions, {"readout": "first"}, "readout is one of 'last', 'all', got 'first'"),
        (LSTMOptions, {"bidirectional": True, "segment": 2}, "leave segment out"),
        (GRUOptions, {"reset": "never"}, "reset is one of 'after', 'before', got 'never'"),
        (CNNOptions, {"stages": 3}, "stages are parts of the layers, at most 2; got 3"),
        (CNNOptions, {"norm": "none"}, "norm is one of 'layer', 'batch', None, got 'none'"),
        (ResNetOptions, {"activation": "swiglu"}, "no activation is called 'swiglu'"),
        (
            LinearRecurrentOptions,
            {"variational": True},
            "has no recurrent matrix; leave variational out",
        ),
        (TransformerOptions, {"norm": "batch"}, "norm is one of 'layer', 'rms', 'none', None, got"),
        (TransformerOptions, {"kv_heads": 3}, "kv_heads must divide the heads, got 3 and 4"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    configuration: Any, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gather(configuration, options)
