"""From a Flax NNX module to leaves and back: the border between modules and plain dictionaries of
arrays.

    module -> leaves, apply (evaluation), learn (training: dropout, running statistics)

`parameters` has the leaves, values and draws of a module; `declaration` annotates what parameters
are, with what `flax_layers` knows; `pure` makes functions of a module, with `modes`, how it is
evaluated and trained, and `state`, what it holds beside its parameters; `adapters` makes modules of
Linen's, and of pairs of functions.
"""

from jaxinit.introspect.adapters import adapt
from jaxinit.introspect.declaration import SplitInto, declare
from jaxinit.introspect.parameters import (
    GATES,
    ROLES,
    VECTOR_ROLES,
    Module,
    Params,
    Part,
    Place,
    Split,
    cut,
    fill,
    initialize,
    joined,
    leaves,
    name_of,
    param,
    values,
)
from jaxinit.introspect.pure import (
    ALWAYS_WIDE,
    Apply,
    Functional,
    Learn,
    Training,
    computing_in,
    functional,
    widened,
)
from jaxinit.introspect.state import Frozen

__all__ = [
    "ALWAYS_WIDE",
    "GATES",
    "ROLES",
    "VECTOR_ROLES",
    "Apply",
    "Frozen",
    "Functional",
    "Learn",
    "Module",
    "Params",
    "Part",
    "Place",
    "Split",
    "SplitInto",
    "Training",
    "adapt",
    "computing_in",
    "cut",
    "declare",
    "fill",
    "functional",
    "initialize",
    "joined",
    "leaves",
    "name_of",
    "param",
    "values",
    "widened",
]
