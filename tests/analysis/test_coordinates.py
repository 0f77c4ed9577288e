"""Slopes of sizes against the width: what has none fails by name."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from jaxinit.analysis.coordinates import KINDS, passes, slopes, verdict


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


def test_a_slope_of_which_seeds_say_too_little_is_called_noisy() -> None:
    """Of log2(size) per octave of the width, by seed: 0.1 and -0.1 are flat on the mean, and with
    two seeds the interval is 12.7 times as wide as that; 0.01 and -0.01 settle it; 0.7 and 0.5
    fail, and as little says that they do."""
    widths = np.array([64.0, 128.0, 256.0])
    for by_seed, passed, noisy in (
        ((0.1, -0.1), True, True),
        ((0.01, -0.01), True, False),
        ((0.62, 0.58), False, False),
        ((0.7, 0.5), False, True),
    ):
        found = xr.concat(
            [
                sizes(gradient=1 / widths, forward=widths**slope).assign_coords(seed=[seed])
                for seed, slope in enumerate(by_seed)
            ],
            "seed",
        )
        (row,) = (row for row in slopes(found) if row.kind == "forward")
        assert (row.passed, row.noisy) == (passed, noisy)
        assert ("too noisy to tell" in row.note) == noisy
        assert ("not flat" in row.note) != passed
        words = "passes" if passed else "fails in 1 of 3 slopes"
        of_noisy = " (1 of 3 too noisy to tell: more seeds)" if noisy else ""
        assert verdict(slopes(found), "s") == words + of_noisy
