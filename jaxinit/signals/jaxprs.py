"""Evaluate a traced function equation by equation.

    function, arguments -> program -> equations, each with the values of its inputs

A `Program` is a jaxpr with its constants. `Values` holds the value of every variable while the
equations are run one by one; `evaluate` runs one as JAX would.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

# Equations that only call an inner program, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
}


class Program(NamedTuple):
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: Sequence[Any]


class Traced(NamedTuple):
    """A function as a program, the flat arguments that it was traced with, and the structure of its
    result."""

    program: Program
    arguments: list[Any]
    structure: Any

    def result(self, flat: Sequence[Any]) -> Any:
        """The function's result, from those of the program."""
        return jax.tree.unflatten(self.structure, flat)


def traced(function: Callable[..., Any], *arguments: Any) -> Traced:
    """Trace `function(*arguments)`."""
    flat, structure = jax.tree.flatten(arguments)

    def of_flat(*flat: Any) -> Any:
        return function(*jax.tree.unflatten(structure, flat))

    closed, shape = jax.make_jaxpr(of_flat, return_shape=True)(*flat)
    return Traced(opened(closed), flat, jax.tree.structure(shape))


def opened(inner: Any) -> Program:
    """An inner program, closed over its constants or not: that differs between primitives and
    releases of JAX."""
    if hasattr(inner, "jaxpr"):
        return Program(inner.jaxpr, inner.consts)
    return Program(inner, ())


def called(equation: Any) -> Program | None:
    """The program that an equation does nothing but call; None for another equation."""
    parameter = CALLS.get(equation.primitive.name)
    if parameter is None:
        return None
    return opened(equation.params[parameter])


class Values:
    """The values of a program's variables, so far."""

    def __init__(self, program: Program, arguments: Sequence[Any]) -> None:
        self._by_variable: dict[Any, Any] = {}
        self.write(program.jaxpr.constvars, program.consts)
        self.write(program.jaxpr.invars, arguments)

    def read(self, variables: Sequence[Any]) -> list[Any]:
        values = []
        for variable in variables:
            if isinstance(variable, Literal):
                values.append(variable.val)
            else:
                values.append(self._by_variable[variable])
        return values

    def write(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        self._by_variable.update(zip(variables, values, strict=True))


def evaluate(jaxpr: Any, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """The results of one equation of a jaxpr, as JAX would compute them."""
    variables, values = [], []
    for variable, value in zip(equation.invars, inputs, strict=True):
        if not isinstance(variable, Literal):
            variables.append(variable)
            values.append(value)
    # A program of one equation, and not a call of its primitive: JAX then takes care of what
    # primitives want to be called with (functions for custom derivatives, contexts, effects).
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*values)


def contains(jaxpr: Any, primitives: set[str]) -> bool:
    """Whether an equation of one of the primitives is in a program, or in one inside of it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in primitives:
            return True
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(parameter) and contains(opened(parameter).jaxpr, primitives):
                return True
    return False


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
