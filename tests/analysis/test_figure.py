"""Files of figures."""

from pathlib import Path

from jaxinit.analysis.figure import save, style


def test_two_formats_are_written_whole_and_the_backend_is_put_back(tmp_path: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    with style():
        figure, _ = plt.subplots()
        path = save(figure, tmp_path / "figures", "one")
    assert matplotlib.get_backend() == before
    assert path == tmp_path / "figures" / "one.png"
    assert sorted(file.name for file in path.parent.iterdir()) == ["one.png", "one.svg"]
