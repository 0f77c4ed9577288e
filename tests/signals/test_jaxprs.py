"""A program run equation by equation gives what the function gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jaxinit.signals import jaxprs

X = jax.random.normal(jax.random.key(0), (4, 3))


@jax.custom_jvp
def doubled(x: Array) -> Array:
    return 2 * x


@doubled.defjvp
def doubled_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return 2 * x, 2 * dx


def added(total: Array, row: Array) -> tuple[Array, None]:
    return total + row, None


def function(x: Array, options: dict[str, Array]) -> dict[str, Array]:
    y = jax.jit(jnp.tanh)(x + options["shift"])
    turns, _ = jax.lax.scan(added, jnp.zeros(3), y)
    return {"turns": doubled(turns), "last": jnp.maximum(y, 0.25)[-1]}


def run(program: jaxprs.Program, arguments: list) -> list:
    values = jaxprs.Values(program, arguments)
    for equation in program.jaxpr.eqns:
        inputs = values.read(equation.invars)
        values.write(equation.outvars, jaxprs.evaluate(program.jaxpr, equation, inputs))
    return values.read(program.jaxpr.outvars)


def test_equations_one_by_one_give_the_functions_result() -> None:
    options = {"shift": jnp.float32(0.5)}
    traced = jaxprs.traced(function, X, options)
    result = traced.result(run(traced.program, traced.arguments))
    expected = function(X, options)
    assert result.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, rtol=1e-6)


def test_a_program_may_return_a_literal() -> None:
    traced = jaxprs.traced(lambda x: (x, 3.0), X)
    assert run(traced.program, traced.arguments)[1] == 3.0


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, jax.custom_jvp])
def test_what_only_calls_is_opened(call) -> None:
    def sine(x: Array) -> Array:
        return jnp.sin(x)

    wrapped = call(sine)
    if call is jax.custom_jvp:
        wrapped.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    (equation,) = jaxprs.traced(wrapped, X).program.jaxpr.eqns
    inner = jaxprs.called(equation)
    assert inner is not None
    (inner_equation,) = inner.jaxpr.eqns
    assert inner_equation.primitive.name == "sin"
    assert jaxprs.called(inner_equation) is None


def test_primitives_are_found_in_inner_programs() -> None:
    def turn(h: Array, _: None) -> tuple[Array, None]:
        return jax.jit(jnp.sin)(h), None

    def looped(x: Array) -> Array:
        h, _ = jax.lax.scan(turn, x, length=2)
        return h

    jaxpr = jaxprs.traced(looped, X).program.jaxpr
    assert jaxprs.contains(jaxpr, {"sin", "dot_general"})
    assert not jaxprs.contains(jaxpr, {"dot_general"})
