"""Schemes by name, and written as calls with settings."""

import jax
import numpy as np
import pytest
from cases import every
from small_nets import leaves_of

from jaxinit.schemes import SCHEMES, chrono, forget_bias, scale, scheme_named, with_bias, zaremba
from jaxinit.schemes import mup as mups
from jaxinit.spec import Rule, Scheme, draw, rules
from jaxinit.study import BadStudy

KEY = jax.random.key(0)


def scales_of(rule: Rule) -> tuple[float, float, float]:
    return rule.multiplier, rule.lr_scale, rule.wd_scale


def same(one: Scheme, other: Scheme, model: str = "lstm") -> bool:
    """Whether two schemes draw and scale alike."""
    leaves = leaves_of(model)
    rule, expected_rule = rules(one, leaves), rules(other, leaves)
    drawn, expected = draw(one, KEY, leaves), draw(other, KEY, leaves)
    for name in drawn:
        if not np.array_equal(drawn[name], expected[name]):
            return False
        if scales_of(rule[name]) != scales_of(expected_rule[name]):
            return False
    return rule.keys() == expected_rule.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    every(
        2,
        of=[
            ("orthogonal", SCHEMES["orthogonal"]),
            ("chrono(longest=784)", chrono(784)),
            ("chrono( 784 )", chrono(784)),
            ("forget_bias(2)", forget_bias(2.0)),
            ("forget_bias(-1.5)", forget_bias(-1.5)),
            ("zaremba(limit=0.05)", zaremba(0.05)),
            ("mup(base_width=16)", mups.mup(16)),
            ("mup(16, optimizer='sgd')", mups.mup(16, "sgd")),
            ("mup(16, optimizer=None, zero_readout=True)", mups.mup(16, zero_readout=True)),
            ("u_mup(16)", mups.u_mup(16)),
            ("spectral_mup(base_width=8)", mups.spectral_mup(8)),
            ("scale(orthogonal, 1.5)", scale(SCHEMES["orthogonal"], 1.5)),
            ("scale(chrono(7), gain=2)", scale(chrono(7), 2.0)),
            (
                "with_bias(orthogonal, forget=1.0, input=-1)",
                with_bias(SCHEMES["orthogonal"], forget=1.0, input=-1.0),
            ),
        ],
    ),
)
def test_a_scheme_with_settings_is_written_as_a_call(text: str, expected: Scheme) -> None:
    assert same(scheme_named(text), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpu(64)", "no scheme with settings is called 'mpu'; the nearest is 'mup'"),
        ("mpu", "no scheme is called 'mpu'; the nearest is 'mup'"),
        ("orthogonal(2)", "orthogonal takes no settings; write orthogonal"),
        (
            "mup(base=64)",
            r"unexpected keyword argument 'base'; mup is mup\(base_width=64, optimizer=None",
        ),
        ("scale(orthogonal)", r"missing a required argument: 'gain'; scale is scale\(base, gain\)"),
        ("mup(64, base_width=64)", "multiple values for argument 'base_width'"),
        ("mup(base_width=8, base_width=9)", "give each setting once, as name=value"),
        ("mup('64')", "base_width must be a whole number, got '64'"),
        ("mup(64.0)", "base_width must be a whole number, got 64.0"),
        ("mup(True)", "base_width must be a whole number, got True"),
        ("mup(None)", "base_width must be a whole number, got None"),
        ("mup(0)", "base_width must be a positive number of units, got 0"),
        ("mup(64, 'lion')", "mup knows the rates of adam, muon, sgd and momentum, got 'lion'"),
        ("mup([64])", r"base_width must be a whole number, got \[64\]"),
        ("chrono(2)", "longest must be 3 steps or more, got 2"),
        (
            "forget_bias(1e999)",
            "value must be 0 or a number of a size from .* which float32 holds; got inf",
        ),
        ("depth_mup(llama, 1, 300)", "alpha must be 0 to 2"),
        ("scale(orthogonal, 1e39)", "gain must be 0 or a number"),
        ("zaremba(1e-60)", "limit must be 0 or a number"),
        ("with_bias(glorot_uniform, forget=1e400)", "values must be 0 or a number"),
        ("scale(3, 2)", "base must be a scheme, got 3"),
        ("scale(orthogonal, -1)", "a gain must not be negative, got -1"),
        ("mup(__import__('os').getpid())", "expected the name of a scheme or a call"),
        ("mup(os)", "no scheme is called 'os'"),
        ("mamba(0.1, 0.01)", "time steps must be 0 < low < high, got low=0.1, high=0.01"),
        ("griffin(high=1.0)", "decays must be 0 < low < high < 1 and the power positive"),
        ("mup(2 ** 10)", r"a setting is a literal or a scheme, got 2 \*\* 10"),
        ("mup(**{'base_width': 64})", "give each setting once, as name=value"),
        ("mup(64", "is no name of a scheme, nor a call"),
        ("a.b(1)", "expected the name of a scheme or a call"),
        ("(" * 500, "is no name of a scheme, nor a call"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(text: str, message: str) -> None:
    with pytest.raises(BadStudy, match=message) as error:
        scheme_named(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_descriptions_are_one_line_for_the_command_line(scheme: str) -> None:
    paragraph = (SCHEMES[scheme].__doc__ or "").partition("\n\n")[0]
    line = " ".join(paragraph.split())
    assert line.endswith(".")
    assert len(line) <= 120
