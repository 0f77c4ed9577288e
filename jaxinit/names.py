"""Names of a caller's own objects, under which a study keeps them.

    object -> Named: `module:NAME` or `FILE.py:NAME` where it has one, else its kind and a digest
    `module:NAME`, `FILE.py:NAME` -> object

A name is for people, and for the folder of a study. Whether an object of that name still computes
the same is a question that `engine.identity` answers, from what it computes.
"""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ADDRESS = re.compile(r"( at )?0x[0-9a-f]{4,}")


class Named(str):
    """The name of an object, which knows the object: a string wherever one is wanted."""

    object: Any

    def __new__(cls, name: str, thing: Any) -> "Named":
        named = super().__new__(cls, name)
        named.object = thing
        return named

    def __deepcopy__(self, memo: dict[int, Any]) -> "Named":
        return self  # `dataclasses.asdict` copies what it finds, and an object is not ours to copy

    def __reduce__(self) -> tuple[Any, ...]:
        return Named, (str(self), self.object)


def name_of(thing: Any) -> Named:
    """An object under the name by which another program can find it, or else under a digest.

    `module:NAME` for what can be imported, `FILE.py:NAME` for what a script defines at its top
    level. What has neither, as a closure or what is typed into a notebook, has its kind and eight
    digits of a digest of its code and of the values that it holds.
    """
    for module, name in _places(thing):
        # A decorated function says that it was defined where its wrapper now is.
        if _attribute(module, name) is not thing:
            continue
        if module.__name__ != "__main__":
            return Named(f"{module.__name__}:{name}", thing)
        script = getattr(module, "__file__", None)  # a notebook has none
        if script:
            return Named(f"{Path(script).name}:{name}", thing)
    kind = getattr(thing, "__name__", None) or getattr(thing, "name", None)
    if not isinstance(kind, str):
        kind = type(thing).__name__
    digest = hashlib.sha256()
    _write(digest, thing, [])
    readable = kind.strip("<>")  # of <lambda>
    return Named(f"{readable}@{digest.hexdigest()[:8]}", thing)


def find(name: str) -> Any:
    """The object of a name such as `module:NAME` or `FILE.py:NAME`, whose module is imported.

    A file is looked for in the working folder. Raises: LookupError, one line that says what is
    wrong, for a module or file that cannot be imported, and for one without that name.
    """
    place, _, attribute = name.rpartition(":")
    module = _imported(place, name)
    thing = _attribute(module, attribute)
    if thing is None:
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        near = ", ".join(difflib.get_close_matches(attribute, public, 3, cutoff=0.0)) or "none"
        raise LookupError(f"{name!r}: {place} has no {attribute!r}; the nearest it has: {near}")
    return thing


def without_address(thing: Any) -> str:
    """What an object prints, free of where in memory it is: the same in every process."""
    return ADDRESS.sub("", repr(thing))


def _imported(place: str, name: str) -> ModuleType:
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    path = Path(place)
    if path.suffix == ".py" and script and path.name == Path(script).name:
        return main  # importing it again would run it again
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        if not path.is_file():
            raise LookupError(f"{name!r}: there is no file {place}; give its path")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # where its classes say that they are defined
        spec.loader.exec_module(module)
        return module
    except LookupError:
        raise
    except (Exception, SystemExit) as error:
        raise LookupError(
            f"{name!r}: importing {place} failed with {type(error).__name__}: {error}"
        ) from error


def _places(thing: Any) -> list[tuple[ModuleType, str]]:
    """Where an object may be found: where it says it was defined, or as a variable of the
    script."""
    places = []
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    qualified = getattr(thing, "__qualname__", None)
    if module is not None and isinstance(qualified, str):
        # Packages offer at their top what they define in folders that they may move.
        package = sys.modules.get(module.__name__.partition(".")[0], module)
        places += [(package, qualified), (module, qualified)]
    main = sys.modules["__main__"]
    for name, value in vars(main).items():
        if value is thing and not name.startswith("_"):
            places.append((main, name))
    return places


def _attribute(module: ModuleType, name: str) -> Any:
    """What a dotted name stands for in a module; None for nothing."""
    thing: Any = module
    for part in name.split("."):
        thing = getattr(thing, part, None)
    return thing


def _array(thing: Any) -> tuple[Any, ...]:
    try:
        array = thing.__array__()
    except TypeError:  # random keys are no numbers
        return (repr(thing),)
    return str(array.dtype), array.shape, array.tobytes()


def _write(digest: Any, thing: Any, seen: list[int]) -> None:
    """Write what an object is into a digest: its code, and what it holds."""
    if id(thing) in seen:
        return
    # The way here and no common list, so that what two parts share is written in both.
    seen = [*seen, id(thing)]
    parts = _parts(thing)
    if parts is None:
        digest.update(without_address(thing).encode())
        return
    # Their number, so that the end of one object cannot be read as the start of the next.
    digest.update(f"{type(thing).__name__} {len(parts)}\n".encode())
    for part in parts:
        _write(digest, part, seen)


def _parts(thing: Any) -> tuple[Any, ...] | None:
    """What an object is made of: its code, and what it holds; None for what its text says."""
    if hasattr(thing, "__array__") and not isinstance(thing, type):
        return _array(thing)
    if isinstance(thing, functools.partial):
        return thing.func, thing.args, thing.keywords
    if inspect.ismethod(thing):
        return thing.__func__, thing.__self__
    if inspect.isfunction(thing):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells
    if inspect.iscode(thing):
        # No file and no line, which change without a change of what is computed.
        return thing.co_code, thing.co_names, thing.co_consts
    if isinstance(thing, dict):
        items: list[Any] = []
        for key, value in thing.items():
            items += [key, value]
        return tuple(items)
    if isinstance(thing, tuple | list):
        return tuple(thing)
    if isinstance(thing, set | frozenset):  # whose order differs from process to process
        return tuple(sorted(map(without_address, thing)))
    if isinstance(thing, type):
        defined = vars(thing)
        own = {key: value for key, value in defined.items() if not key.startswith("__")}
        return thing.__qualname__, own, defined.get("__init__"), defined.get("__call__")
    if hasattr(thing, "__dict__") and not isinstance(thing, ModuleType):
        return type(thing).__qualname__, vars(thing)
    return None
