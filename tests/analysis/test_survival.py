"""Survival curves, means and corrected p-values against hand-computed cases with censoring."""

import numpy as np
import pytest
from ended_trials import times

from jaxinit.analysis.survival import Times, holm, kaplan_meier, restricted_mean

# The 6-MP arm of Freireich et al. (1963), weeks of remission, the textbook case of Kaplan-Meier
# estimation:
# S(6) = .857, S(7) = .807, S(10) = .753, S(13) = .690, S(16) = .627, S(22) = .538, S(23) = .448.
SIX_MP = Times(
    np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], float),
    np.array([True] * 9 + [False] * 12),
)


def test_kaplan_meier_reproduces_the_textbook() -> None:
    t, share, low, high = kaplan_meier(SIX_MP)
    survival = dict(zip(t, 1 - share, strict=True))
    expected = {0: 1.0, 6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, value in expected.items():
        assert survival[week] == pytest.approx(value, abs=5e-4)
    assert (low <= share).all()
    assert (share <= high).all()
    # At 10 weeks: Greenwood's variance sum is 3/(21*18) + 1/(17*16) + 1/(15*14), on the log(-log)
    # scale.
    k = int(np.flatnonzero(t == 10)[0])
    s = 18 / 21 * 16 / 17 * 14 / 15
    half = 1.959964 * np.sqrt(3 / (21 * 18) + 1 / (17 * 16) + 1 / (15 * 14)) / abs(np.log(s))
    assert low[k] == pytest.approx(1 - s ** np.exp(-half), abs=1e-5)
    assert high[k] == pytest.approx(1 - s ** np.exp(half), abs=1e-5)


def test_kaplan_meier_by_hand_with_a_censoring_between_two_events() -> None:
    # Events at 1 and 3, censored at 2: S(1) = 2/3, then one left, which converges: S(3) = 0.
    t, share, low, high = kaplan_meier(times(1, 3, censored=(2,)))
    assert dict(zip(t, share, strict=True))[1] == pytest.approx(1 / 3)
    assert share[-1] == 1.0
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()


def test_kaplan_meier_without_any_event_is_zero_with_an_exact_band() -> None:
    _, share, low, high = kaplan_meier(times(censored=(20.0,) * 8))
    assert not share.any()
    assert not low.any()
    assert high[-1] == pytest.approx(1 - 0.025 ** (1 / 8), abs=1e-6)  # Clopper-Pearson for 0 of 8


def test_restricted_mean_by_hand() -> None:
    # S = 1 to 1, 2/3 to 3, 0 after: 1 + 2 * 2/3.
    assert restricted_mean(times(1, 3, censored=(2,)), 10) == pytest.approx(1 + 4 / 3)
    assert restricted_mean(times(1, 3, censored=(2,)), 2) == pytest.approx(1 + 2 / 3)
    # Followed to the horizon: the mean of min(t, horizon).
    assert restricted_mean(times(2, 4, censored=(10, 10)), 10) == pytest.approx(26 / 4)
    assert restricted_mean(times(censored=(10, 10)), 10) == 10


def test_restricted_mean_is_the_area_under_the_curve() -> None:
    t, share, _, _ = kaplan_meier(SIX_MP)
    edges = np.append(t[t < 30], 30)
    area = np.sum((1 - share[t < 30]) * np.diff(edges))
    assert restricted_mean(SIX_MP, 30) == pytest.approx(area)


def test_restricted_mean_has_ties_of_events_and_censorings_in_the_right_order() -> None:
    # A trial censored at the very time of an event was still at risk: S(1) = 1 - 1/2.
    assert restricted_mean(times(1, censored=(1,)), 3) == pytest.approx(1 + 2 / 2)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .2 times 4 3 2 1 = .04 .06 .06 .2, made monotone.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.2, 0.02]), [0.06, 0.04, 0.2, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert len(holm([])) == 0


def test_holm_keeps_the_family_wise_error() -> None:
    p = np.random.default_rng(1).uniform(size=(20_000, 8))
    wrong = np.mean([holm(row.tolist()).min() < 0.05 for row in p])
    assert wrong == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))


def test_times_pair_up_with_events() -> None:
    with pytest.raises(ValueError, match="pair up in one axis"):
        Times(np.ones(3), np.ones(2, bool))
    with pytest.raises(ValueError, match="pair up in one axis"):
        Times(np.ones(0), np.ones(0, bool))
