"""The codes on disk never change meaning."""

from jaxinit.analysis.outcome import Outcome


def test_codes_are_stable() -> None:
    assert {outcome.name: int(outcome) for outcome in Outcome} == {
        "UNFINISHED": 0,
        "CONVERGED": 1,
        "CENSORED": 2,
        "DIVERGED": 3,
        "STOPPED": 4,
        "FAILED": 5,
    }
