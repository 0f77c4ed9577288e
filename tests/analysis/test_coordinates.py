"""Slopes of sizes against the width: what has none fails by name."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from jaxinit.analysis.coordinates import KINDS, passes, slopes


def sizes(**kinds: Any) -> xr.Dataset:
    """What a check found, of one scheme, one signal and one size a width."""
    plain = {kind: [1.0, 1.0, 1.0] for kind in KINDS} | kinds
    variables: Any = {
        kind: (("width", "scheme", "seed", "parameter"), np.reshape(of, (3, 1, 1, 1)))
        for kind, of in plain.items()
    }
    coords = {
        "width": [64, 128, 256],
        "scheme": ["s"],
        "seed": [0],
        "parameter": ["w"],
        "role": ("parameter", ["hidden"]),
    }
    return xr.Dataset(variables, coords, {"axis": "width", "rounding": 1e-5})


@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        ({"forward": [1.0, np.nan, 1.0]}, "not finite at width 128"),
        ({"update": [1.0, 1.0, np.inf]}, "not finite at width 256"),
        ({"update": [0.0, 1.0, 1.0]}, "zero at width 64, not at others"),
        ({"gradient": [1.0, 0.0, 0.0]}, "zero at width 128, not at others"),
        ({"gradient": [0.0, 0.0, 0.0], "update": [0.0, 0.0, 0.0]}, "nothing to judge: it is zero"),
    ],
)
def test_sizes_without_a_slope_fail_by_name(kinds: dict[str, list[float]], note: str) -> None:
    flat = {"gradient": [1 / 64, 1 / 128, 1 / 256]} | kinds
    rows = slopes(sizes(**flat))
    assert note in [row.note for row in rows if not row.passed]
    assert passes(
        slopes(
            sizes(
                gradient=flat["gradient"] if "gradient" not in kinds else [1 / 64, 1 / 128, 1 / 256]
            )
        ),
        "s",
    )
