"""The names that `import jaxinit` offers."""

from importlib.metadata import version
from pathlib import Path

import jaxinit


def test_every_public_name_is_listed_and_there() -> None:
    assert {"run", "load", "Study", "BadStudy", "Result", "survey", "coordinate_check"} <= set(
        dir(jaxinit)
    )
    for name in dir(jaxinit):
        assert getattr(jaxinit, name) is not None, name
    assert jaxinit.__version__ == version("jaxinit")


def test_its_types_are_for_others_too() -> None:
    assert (Path(jaxinit.__file__).parent / "py.typed").exists()
