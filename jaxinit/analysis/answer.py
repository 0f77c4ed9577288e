"""A result that shows itself: what `run` and `load` return, in a terminal, in a notebook, as arrays
for other libraries."""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from jaxinit.analysis import store
from jaxinit.analysis.figure import as_html, style
from jaxinit.analysis.report import answer_in_words
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_figures import answer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Answer(Result):
    """A `Result` whose `repr` is its table, and in a notebook its table and figure."""

    def __repr__(self) -> str:
        return answer_in_words(self)

    def _repr_html_(self) -> str:
        picture = as_html(lambda: answer(self.records)) if self.summary["table"] else ""
        return f"<pre>{html.escape(repr(self))}</pre>{picture}"

    def show(self) -> None:
        """Print the table, the claims and the notes."""
        print(self)

    def plot(self) -> "Figure":
        """The figure that is the answer: epochs of every scheme, the best first, with intervals.

        Assumes that a scheme has been reported, as in any complete study.
        """
        with style():
            return answer(self.records)

    def to_pandas(self) -> "pd.DataFrame":
        """The table, a row for each scheme. Of every evaluation: `records.to_dataframe()`; with
        polars: `polars.DataFrame(result.summary["table"])`."""
        import pandas as pd

        rows = self.summary["table"]
        return pd.DataFrame(rows, index=pd.Index([row["scheme"] for row in rows], name="scheme"))


def load(path: str | Path) -> Answer:
    """Read a study from its folder, every file verified by its hash, as `store.load`.

    Raises: BadStudy when the folder holds none, one without records yet, or a file that is damaged,
    missing or of another version.
    """
    return Answer(*store.load(path))
