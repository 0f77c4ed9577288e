"""Intervals of times to target and of their ratios, against the coverage that they claim, against
SciPy where there is nothing to choose, and against cases done by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from cases import every, quick
from ended_trials import sample, times
from scipy import stats

from jaxinit.analysis import interval
from jaxinit.analysis.interval import (
    Limits,
    Sample,
    apart_p,
    best,
    bound,
    compare,
    limits,
    log_ratio,
    permutation_p,
    ratio_limits,
    seeds_to_tell,
    share_interval,
)
from jaxinit.analysis.survival import Times, restricted_mean

HORIZON = 40.0
TRIES = 1500
# Four standard errors of a share of 95 % over as many tries.
NOISE = 4 * math.sqrt(0.95 * 0.05 / TRIES)
# How far the delta method is off with so few seeds that spread by a half.
APPROXIMATE = 0.015


def drawn(
    draws: np.random.Generator, seeds: int, mean: float, spread: float, lost: float = 0.0
) -> Sample:
    """Lognormal times of a mean, some seeds lost."""
    logs = draws.normal(np.log(mean) - spread**2 / 2, spread, seeds)
    event = draws.random(seeds) >= lost
    return Sample(mean, Times(np.where(event, np.exp(logs), HORIZON), event))


def some_lost(draws: np.random.Generator, seeds: int, lost: Sequence[float]) -> list[Sample]:
    """The samples of schemes of mean 5 of which at least one seed is lost, as their limits then are
    those of the restricted mean."""
    while True:
        samples = [drawn(draws, seeds, 5.0, 0.2, share) for share in lost]
        if any(sample.lost for sample in samples):
            return samples


# Coverage.


@pytest.mark.parametrize("seeds", [5, 8])
@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_limits_at_one_rate_cover_what_they_say(seeds: int, spread: float) -> None:
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIES):
        low, high = limits([drawn(draws, seeds, 5.0, spread)], HORIZON)[1:]
        hits += low <= math.log(5.0) <= high
    assert hits / TRIES == pytest.approx(0.95, abs=NOISE + APPROXIMATE)


@pytest.mark.parametrize(("second", "seeds"), every(3, of=product([5.0, 5.3, 7.0], [5, 8])))
def test_limits_cover_the_best_of_two_rates_whichever_it_is(seeds: int, second: float) -> None:
    """At least, since nothing is known of how far apart the two are."""
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIES):
        samples = [drawn(draws, seeds, mean, 0.3) for mean in (5.0, second)]
        low, high = limits(samples, HORIZON)[1:]
        hits += low <= math.log(5.0) <= high
    assert hits / TRIES > 0.95 - NOISE


OTHERS = [(5.0,) * 5, (5.2, 5.4, 5.6, 6.0, 7.0), (5.2, 8.0, 9.0, 12.0)]


@pytest.mark.parametrize(("others", "seeds"), every(3, of=product(OTHERS, [5, 8])))
def test_limits_cover_the_best_of_many_pairs_of_a_rate_and_another_setting(
    seeds: int, others: tuple[float, ...]
) -> None:
    """Were the upper limit that of the best two, six that are equal would be covered in 87 %."""
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIES):
        samples = [drawn(draws, seeds, mean, 0.2) for mean in (5.0, *others)]
        low, high = limits(samples, HORIZON)[1:]
        hits += low <= math.log(5.0) <= high
    assert hits / TRIES > 0.95 - NOISE


LOST = [(0.3,), (0.6,), (0.1, 0.1), (0.3, 0.3)]


@pytest.mark.parametrize(("lost", "seeds"), every(3, of=product(LOST, [5, 8])))
def test_limits_of_trials_that_were_lost_cover_the_restricted_mean(
    seeds: int, lost: tuple[float, ...]
) -> None:
    draws = np.random.default_rng(0)
    truth = math.log(5.0 + min(lost) * (HORIZON - 5.0))
    hits = 0
    for _ in range(TRIES):
        low, high = limits(some_lost(draws, seeds, lost), HORIZON)[1:]
        hits += low <= truth <= high
    # One of five or eight is a coarse share.
    assert hits / TRIES > 0.95 - NOISE - 2 * APPROXIMATE


@pytest.mark.parametrize(("rates", "seeds"), quick((2, 5), of=product([1, 2], [5, 8])))
def test_ratios_cover_what_they_say(seeds: int, rates: int) -> None:
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIES):
        slow = [drawn(draws, seeds, 12.0 + 2 * k, 0.3) for k in range(rates)]
        fast = [drawn(draws, seeds, 4.0 + k, 0.3) for k in range(rates)]
        ratio = compare(slow, fast, HORIZON)
        hits += ratio.low <= 3.0 <= ratio.high
    assert hits / TRIES > 0.95 - NOISE - APPROXIMATE
    if rates == 1:
        assert hits / TRIES < 0.95 + NOISE + APPROXIMATE


# Limits by hand.


def test_limits_at_one_rate_are_students() -> None:
    values = np.array([4.0, 5.0, 7.0, 6.0, 4.5])
    value, low, high = limits([sample(*values)], HORIZON)
    assert value == pytest.approx(math.log(values.mean()))
    about = stats.ttest_1samp(values / values.mean(), 1.0).confidence_interval(0.95)
    assert (low - value, high - value) == pytest.approx((about.low - 1, about.high - 1))
    wider = limits([sample(*values)], HORIZON, 0.99)
    assert wider.low < low < high < wider.high


def test_limits_of_a_ratio_have_the_degrees_of_freedom_of_both_samples() -> None:
    values = np.array([4.0, 5.0, 7.0, 6.0, 4.5])
    alone, in_ratio = (limits([sample(*values)], HORIZON, samples_compared=k) for k in (1, 2))
    wanted = stats.t.ppf(0.975, 8) / stats.t.ppf(0.975, 4)
    assert in_ratio.high - in_ratio.value == pytest.approx(wanted * (alone.high - alone.value))


def test_limits_of_two_rates_hold_those_of_the_better_and_reach_down_to_the_worse() -> None:
    better, worse = sample(4.0, 5.0, 6.0, 5.0), sample(4.0, 8.0, 5.0, 7.0)
    both = limits([better, worse], HORIZON)
    assert both.value == limits([better], HORIZON).value
    assert both.low == min(limits([side], HORIZON).low for side in (better, worse))
    assert both.high > limits([better], HORIZON).high
    assert both == limits([worse, better], HORIZON)


def test_seeds_of_two_rates_that_go_together_are_not_counted_twice() -> None:
    """The upper limit is that of the mean over rates, whose spread is of seeds."""
    values = [4.0, 5.0, 7.0, 6.0, 4.5]
    once, twice = limits([sample(*values)], HORIZON), limits([sample(*values)] * 2, HORIZON)
    # Each of two is taken at half of the error.
    grown = stats.t.ppf(1 - 0.0125, 4) / stats.t.ppf(0.975, 4)
    assert twice.high - twice.value == pytest.approx(grown * (once.high - once.value))
    opposite = limits([sample(*values), sample(*[11 - value for value in values])], HORIZON)
    assert opposite.high < once.high


def test_one_seed_is_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        limits([sample(3.0)], HORIZON)


def random_samples(case: int) -> list[Sample]:
    draws = np.random.default_rng([3, case])
    seeds, rates = int(draws.integers(2, 9)), int(draws.integers(1, 3))
    samples = []
    for _ in range(rates):
        one = drawn(
            draws, seeds, float(draws.uniform(1, 30)), 0.4, float(draws.choice([0, 0.3, 1]))
        )
        time = np.minimum(one.times.time, HORIZON)
        samples.append(Sample(0.1, Times(time, one.times.event), bool(draws.random() < 0.2)))
    return samples


@pytest.mark.parametrize("case", range(60))
def test_limits_hold_their_value_and_of_one_rate_it_is_the_restricted_mean(case: int) -> None:
    samples = random_samples(case)
    for compared in (1, 2):
        value, low, high = limits(samples, HORIZON, samples_compared=compared)
        assert np.isfinite([value, low, high]).all()
        assert low <= value <= high
        if any(side.lost for side in samples):
            assert value <= math.log(HORIZON) + 1e-12
    means = [restricted_mean(side.times, HORIZON) for side in samples]
    if len(samples) == 1 and not samples[0].doubtful:
        assert limits(samples, HORIZON).value == pytest.approx(math.log(means[0]))
    assert limits(samples, HORIZON, 0.99).low <= limits(samples, HORIZON).low


def test_where_no_trial_converged_the_budget_is_the_upper_limit() -> None:
    value, low, high = limits([sample(censored=(HORIZON,) * 8)], HORIZON)
    assert value == high == math.log(HORIZON)
    # How soon some seeds would converge nobody knows: only how many.
    assert math.exp(low) == pytest.approx(HORIZON * stats.beta.ppf(0.025, 8.5, 0.5))


def test_a_doubtful_rate_leaves_the_upper_limit_to_the_other() -> None:
    steady, lucky = sample(5.0, 6.0, 5.5, 5.2), sample(4.0, 4.1, 4.2, 4.0)
    doubtful = Sample(lucky.rate, lucky.times, doubtful=True)
    told = limits([steady, doubtful], HORIZON)
    assert told.high > limits([steady], HORIZON, 0.9).high - 1e-12
    assert told.low < math.log(4.1)
    assert told.value == pytest.approx(
        (math.log(lucky.times.time.mean()) + math.log(steady.times.time.mean())) / 2
    )
    # Only one of its limits can miss, so each is taken at one side.
    assert told.high == pytest.approx(limits([steady], HORIZON, 0.9).high)
    assert told.low == pytest.approx(limits([lucky], HORIZON, 0.9).low)
    # A worse rate that is doubtful has no say.
    slow = Sample(1.0, times(9.0, 9.0, 9.5, 9.1), doubtful=True)
    assert limits([steady, slow], HORIZON) == limits([steady], HORIZON)


def test_where_both_rates_are_doubtful_neither_is_more_so() -> None:
    pair = [sample(5.0, 6.0, 5.5, 5.2), sample(4.0, 4.1, 4.2, 4.0)]
    doubtful = [Sample(side.rate, side.times, doubtful=True) for side in pair]
    assert limits(doubtful, HORIZON) == limits(pair, HORIZON)


# Ratios.


def test_the_ratio_of_a_scheme_with_itself_is_one_and_its_interval_is_even() -> None:
    for case in range(30):
        samples = random_samples(case)
        value, low, high, _ = compare(samples, samples, HORIZON)
        assert value == pytest.approx(1)
        assert low <= 1 <= high
        assert low * high == pytest.approx(1)


def siblings(draws: np.random.Generator, seeds: int, flat: float) -> tuple[list[Sample], ...]:
    """Two schemes that need the same epochs at both of their rates, the second rate `flat` times
    slower, whose seeds share nine tenths of their noise."""
    shared = draws.normal(size=(2, seeds))
    sides = []
    for _ in range(2):
        own = draws.normal(size=(2, seeds))
        logs = 0.2 * (0.95 * shared + 0.3 * own)
        fast, slow = np.exp(logs) * np.asarray([[5.0], [5.0 * flat]])
        sides.append([sample(*fast, rate=0.1), sample(*slow, rate=0.2)])
    return tuple(sides)


@pytest.mark.parametrize(("seeds", "flat"), every(3, of=product([5, 8, 20], [1.0, 1.2])))
def test_seeds_that_go_together_make_ratios_surer_and_they_still_cover(
    seeds: int, flat: float
) -> None:
    draws = np.random.default_rng(3)
    covered, shares = [], []
    tries = TRIES // 3
    for _ in range(tries):
        baseline, scheme = siblings(draws, seeds, flat)
        ends = log_ratio(baseline, scheme, HORIZON)
        covered.append(ends.low <= 0 <= ends.high)
        apart = ratio_limits(
            *(limits(side, HORIZON, samples_compared=2) for side in (baseline, scheme))
        )
        shares.append((ends.high - ends.low) / (apart.high - apart.low))
        assert ends.low <= ends.value <= ends.high
    assert np.mean(covered) >= 0.95 - NOISE * math.sqrt(TRIES / tries)
    assert np.median(shares) < 0.6


def test_one_best_rate_of_both_is_students_paired_interval() -> None:
    draws = np.random.default_rng(0)
    shared = draws.normal(0, 0.2, 6)
    sides = [sample(*np.exp(1.5 + shared + draws.normal(0, 0.02, 6)), rate=0.1) for _ in range(2)]
    ends = log_ratio([sides[0]], [sides[1]], HORIZON)
    relative = [side.times.time / side.times.time.mean() for side in sides]
    student = stats.ttest_1samp(relative[0] - relative[1], 0).confidence_interval(0.95)
    means = [math.log(side.times.time.mean()) for side in sides]
    assert ends.low == pytest.approx(means[0] - means[1] + student.low)
    assert ends.high == pytest.approx(means[0] - means[1] + student.high)


def test_times_that_agree_by_chance_are_not_known_to_agree() -> None:
    """Four seeds of two schemes end at the same evaluations, a quarter of an epoch apart."""
    alike = [sample(5.0, 5.25, 5.5, 5.25, rate=0.1) for _ in range(2)]
    ends = log_ratio([alike[0]], [alike[1]], HORIZON)
    rounding = 0.25 / math.sqrt(12) * math.sqrt(2) / 5.25 / math.sqrt(4)
    assert ends.high - ends.low == pytest.approx(2 * stats.t.ppf(0.975, 3) * rounding)
    one_time = [sample(5.0, 5.0, 5.0, 5.0, rate=0.1) for _ in range(2)]
    assert log_ratio([one_time[0]], [one_time[1]], HORIZON).value == 0.0


def test_ratios_of_swapped_schemes_are_the_inverse() -> None:
    a, b = random_samples(0), random_samples(1)
    one, other = compare(a, b, HORIZON), compare(b, a, HORIZON)
    assert (one.value, one.low) == pytest.approx((1 / other.value, 1 / other.high))


def test_limits_of_a_difference_are_joined_by_their_squares() -> None:
    slow, fast = Limits(2.0, 1.7, 2.4), Limits(1.0, 0.6, 1.3)
    difference = ratio_limits(slow, fast)
    assert difference == pytest.approx((1.0, 1 - math.hypot(0.3, 0.3), 1 + math.hypot(0.4, 0.4)))


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_larger_budget_never_lowers_what_the_ratio_is_at_least(lost: int) -> None:
    """Where trials of the baseline are lost for ever."""
    fast = [sample(2.0, 2.5, 3.0, 2.2, 2.8)]
    before = 0.0
    for horizon in (8.0, 10.0, 20.0, 50.0, 400.0):
        slow = [sample(*[5.0, 6.0, 7.0, 5.5][: 5 - lost], censored=(horizon,) * lost)]
        for level in (0.95, 0.99):
            assert compare(slow, fast, horizon, level).bound == ">="
        low = compare(slow, fast, horizon).low
        assert low >= before
        before = low


def test_bounds_say_which_side_is_open() -> None:
    full, part = times(1, 2), times(1, censored=(5,))
    pairs = ((full, full), (part, full), (full, part), (part, part))
    assert [bound(*pair) for pair in pairs] == ["=", ">=", "<=", "?"]


def test_the_best_rate_has_the_smallest_restricted_mean_of_those_that_are_not_doubtful() -> None:
    sure = sample(5.0, 5.0, 5.0, 5.0)
    lucky = sample(1.0, 1.0, 1.0, censored=(10.0,))
    assert restricted_mean(lucky.times, 10) < restricted_mean(sure.times, 10)
    assert best([sure, lucky], 10) is lucky.times
    assert best([sure, replace(lucky, doubtful=True)], 10) is sure.times
    assert compare([sure], [sure, lucky], 10).bound == "<="


# Shares, tests and plans.


def test_five_of_five_seeds_say_little_of_the_share_that_converges() -> None:
    low, high = share_interval(5, 5)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 5)), 1.0)
    assert low == pytest.approx(0.478, abs=5e-4)
    assert share_interval(0, 5) == pytest.approx((0.0, 1 - low))


def test_shares_are_covered_whatever_they_are() -> None:
    for seeds in (4, 8):
        intervals = [share_interval(converged, seeds) for converged in range(seeds + 1)]
        for share in np.linspace(0.01, 0.99, 50):
            chances = stats.binom.pmf(range(seeds + 1), seeds, share)
            covered = [low <= share <= high for low, high in intervals]
            assert chances[covered].sum() >= 0.95


@pytest.mark.parametrize(("seeds", "p"), [(8, 2 / 12870), (4, 2 / 70), (2, 2 / 6)])
def test_the_p_value_of_seeds_that_are_all_sooner_is_exact(seeds: int, p: float) -> None:
    slow, fast = times(*range(20, 20 + seeds)), times(*range(1, 1 + seeds))
    assert permutation_p(slow, fast, HORIZON) == p
    assert permutation_p(fast, slow, HORIZON) == p


def test_p_values_are_shares_of_all_permutations() -> None:
    draws = np.random.default_rng(0)
    for _ in range(10):
        a, b = draws.integers(1, 8, 4), draws.integers(2, 10, 5)
        logs = np.log(np.concatenate([a, b]))
        observed = abs(logs[:4].mean() - logs[4:].mean())
        as_far = []
        for chosen in combinations(range(9), 4):
            others = np.delete(logs, chosen)
            as_far.append(abs(logs[list(chosen)].mean() - others.mean()) >= observed - 1e-9)
        assert permutation_p(times(*a), times(*b), HORIZON) == pytest.approx(np.mean(as_far))


def test_schemes_are_apart_where_they_are_at_every_rate_that_may_be_their_best() -> None:
    """Of the baseline either of two rates may be the best, and at one of them nothing tells the
    scheme apart."""
    slow, fast = sample(*range(20, 28), rate=0.3), sample(*range(3, 11), rate=0.5)
    scheme = [sample(*range(2, 10))]
    at_one = permutation_p(slow.times, scheme[0].times, HORIZON)
    at_other = permutation_p(fast.times, scheme[0].times, HORIZON)
    assert at_one == 2 / 12870
    assert at_other > 0.3
    assert apart_p([slow, fast], scheme, HORIZON) == at_other
    assert apart_p(scheme, [fast, slow], HORIZON) == at_other


def test_lost_trials_count_at_the_horizon_and_equal_ones_tell_nothing() -> None:
    lost = times(censored=(HORIZON,) * 4)
    assert permutation_p(lost, lost, HORIZON) == 1.0
    # One that diverged sooner was followed to the horizon too.
    assert permutation_p(times(censored=(3.0,) * 4), lost, HORIZON) == 1.0
    assert permutation_p(times(1, 2, 3, 4), lost, HORIZON) == 2 / 70


def test_more_seeds_than_can_be_permuted_are_sampled_the_same_way_each_time() -> None:
    draws = np.random.default_rng(0)
    a, b = (times(*np.exp(draws.normal(mean, 0.3, 12))) for mean in (1.0, 1.25))
    p = permutation_p(a, b, HORIZON)
    exact = stats.ttest_ind(np.log(a.time), np.log(b.time)).pvalue
    assert p == pytest.approx(exact, abs=0.02)
    assert permutation_p(a, b, HORIZON) == p


def test_so_many_seeds_as_are_planned_tell_two_schemes_apart_four_times_of_five() -> None:
    draws = np.random.default_rng(0)
    log_ratio, spread, seeds = 0.25, 0.3, 8
    error = spread * math.sqrt(2 / seeds)
    half = stats.t.ppf(0.975, 2 * (seeds - 1)) * error
    needed = seeds_to_tell(Limits(log_ratio, log_ratio - half, log_ratio + half), seeds)
    assert needed is not None
    told = 0
    for _ in range(TRIES):
        a, b = draws.normal(log_ratio, spread, needed), draws.normal(0.0, spread, needed)
        told += stats.ttest_ind(a, b).pvalue < 0.05
    # The plan is of the normal distribution, and the test is Student's.
    assert told / TRIES == pytest.approx(0.8, abs=0.05)
    assert seeds_to_tell(Limits(0.0, -half, half), seeds) is None
    assert seeds_to_tell(Limits(9.0, 8.9, 9.1), seeds) == 4


def test_the_p_value_of_many_seeds_is_the_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    for shift in (0.05,):
        a, b = (times(*np.exp(draws.normal(mean, 0.5, 600))) for mean in (1.0, 1.0 + shift))
        limit = permutation_p(a, b, HORIZON)
        with monkeypatch.context() as patched:
            patched.setattr(interval, "MANY", math.inf)
            sampled = permutation_p(a, b, HORIZON)
        # Four standard errors of a share of 20,000 permutations, of one side.
        error = 4 * 2 * math.sqrt(max(sampled, 1e-4) / 2 / 20_000)
        assert limit == pytest.approx(sampled, abs=error)
