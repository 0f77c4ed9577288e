"""A module in evaluation and in training, as the graphs that its state is merged with.

Flax's modules are switched by `eval()` and `train()`, by an argument of their call, or by both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

from jaxinit.introspect.parameters import name_of

# Arguments by which a module is told its mode at every call, and what they are in training.
FLAGS = {
    "training": True,
    "train": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Modes(NamedTuple):
    """The graphs of a module: in evaluation, and in training with noise and without."""

    evaluating: Any
    noisy: Any
    quiet: Any


def modes_of(module: Any) -> Modes:
    """The module's graph in every mode; the module itself is left in the last of them."""
    module.eval()
    with _held_in_evaluation(module):
        evaluating = nnx.graphdef(module)
    module.train()
    noisy = nnx.graphdef(module)
    # Quiet is in training all the same, so that norms go by the batch: only noise is turned off.
    module.set_attributes(deterministic=True, raise_if_not_found=False)
    # A call that says deterministic=False, as a flag in training makes it, goes before the
    # attribute, so the probabilities are 0 too.
    module.set_attributes(
        nnx.Dropout, nnx.MultiHeadAttention, rate=0.0, dropout_rate=0.0, raise_if_not_found=False
    )
    return Modes(evaluating, noisy, nnx.graphdef(module))


def check_dropout(module: nnx.Module, seeded: bool) -> None:
    """Refuse dropout without random state, which would be left out in silence."""
    if seeded:
        return
    for path, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Dropout) and layer.rate > 0 and layer.rngs is None:
            raise ValueError(
                f"module {name_of(path)!r} drops units at a rate of {layer.rate} and has no "
                "random state to do so; build it with nnx.Dropout(rate, rngs=rngs)"
            )


class _BatchNorm(nnx.BatchNorm):
    """Refuses to normalize as in training."""

    def __call__(self, x: Array, use_running_average: bool | None = None, **options: Any) -> Array:
        _check_evaluated(self, use_running_average is False)
        return super().__call__(x, use_running_average, **options)


class _Dropout(nnx.Dropout):
    """Refuses to drop units."""

    def __call__(
        self, inputs: Array, *, deterministic: bool | None = None, **options: Any
    ) -> Array:
        _check_evaluated(self, deterministic is False and self.rate > 0)
        return super().__call__(inputs, deterministic=deterministic, **options)


EVALUATED = {nnx.BatchNorm: _BatchNorm, nnx.Dropout: _Dropout}


@contextmanager
def _held_in_evaluation(model: nnx.Module) -> Iterator[None]:
    """Layers that an argument of their call, before any attribute, can put into training refuse it
    in here.

    Their class is changed for as long, since a graph keeps the class of every layer; it is put back
    for the graphs of training."""
    layers: list[tuple[str, Any]] = []
    for path, layer in nnx.iter_modules(model):
        if type(layer) in EVALUATED:
            layers.append((name_of(path), layer))
    for place, layer in layers:
        layer.__class__ = EVALUATED[type(layer)]
        layer.place = place  # for the error, which is raised where no path is known
    yield
    for _, layer in layers:
        layer.__class__ = type(layer).__base__
        del layer.place


def _check_evaluated(layer: Any, trains: bool) -> None:
    if trains:
        raise ValueError(
            f"{layer.place!r} is told to train while the module is evaluated, by an argument "
            f"inside the module; let the module's own __call__ take one of {', '.join(FLAGS)}, "
            "and pass it on"
        )
