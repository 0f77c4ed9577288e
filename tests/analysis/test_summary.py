"""The summary of a study needs its records and study.json and nothing else."""

from dataclasses import replace

from ended_study import LIFE, STUDY, TRIALS, ended
from ended_trials import Ended, records

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.summary import comparisons_of, summarize
from jaxinit.study import Study


def test_time_and_compilations_add_up_over_the_lives_of_a_study() -> None:
    other = LIFE | {"compilations": 2, "wall_s": 0.25}
    summary = summarize(ended(), STUDY, {"lives": [LIFE, other], "calibrations": {}})
    assert summary["compilations"] == 3
    assert summary["wall_s"] == 2.25
    assert summary["compile_s"] == 1.0
    assert summary["trials"] == TRIALS
    assert summary["epochs_trained"] == 2 * 1.0 + 1.0 + 1.25 + 2 * 1.5 + 1.75 + 2.0


def test_a_forced_resume_is_said_in_the_answer() -> None:
    forced = LIFE | {"forced": ["jax 0.10.1 there, 0.10.2 here"]}
    notes = summarize(ended(), STUDY, {"lives": [LIFE, forced]})["notes"]
    assert "resumed by force under other conditions: jax 0.10.1 there, 0.10.2 here" in notes


def test_notes_say_when_the_resolution_is_another_and_what_calibrations_report() -> None:
    reports = {"orthogonal+lsuv": {"passes": {"median": 3.0, "low": 2.0, "high": 4.0}}}
    finer = replace(STUDY, evaluations=5)
    notes = summarize(ended(), finer, {"calibrations": reports})["notes"]
    assert "5 evaluations an epoch do not divide its batches; 4 were made" in notes
    assert any(note.startswith("orthogonal+lsuv: passes 3 (medians over seeds") for note in notes)


def test_notes_say_what_the_search_makes_of_the_intervals() -> None:
    def intervals(study: Study) -> str:
        notes = summarize(ended(), study, {})["notes"]
        (note,) = [note for note in notes if note.startswith("intervals: ")]
        return note

    assert intervals(STUDY).endswith("they say nothing of rates between those of the grid")
    assert intervals(replace(STUDY, lrs=(0.1,))).endswith("the rate is held fixed")
    ladder = replace(STUDY, search="ladder", lrs=())
    assert intervals(ladder).endswith("the choice of the rate included")


def test_notes_name_the_schemes_that_might_do_better_and_those_that_never_converged() -> None:
    trials = [Ended("small_normal", rate, 0, 5.0, purpose="tune") for rate in (0.1, 0.2, 0.4)]
    trials += [Ended("small_normal", 0.4, seed, 5.0) for seed in (1, 2)]
    trials += [Ended("orthogonal", 0.1, seed, 10.0, Outcome.CENSORED) for seed in (1, 2)]
    trials.append(Ended("orthogonal", 0.2, 1, 3.0, Outcome.UNFINISHED, "tune"))
    notes = summarize(records(trials), STUDY, {})["notes"]
    unresolved = "small_normal (0.4: at an end of the rates tried)"
    assert f"*best rate unresolved, another may do better: {unresolved}" in notes
    assert any(note.endswith("ratios are bounds: orthogonal") for note in notes)
    assert "interrupted: 1 trials have not ended, and are left out" in notes


def test_claims_of_recurrent_networks_are_settled_as_one_family() -> None:
    assert comparisons_of(Study(model="mlp")) == []
    trials = []
    for scheme, epochs in (("xavier_rnn", 2.0), ("small_normal", 8.0), ("uniform01", 9.0)):
        trials += [Ended(scheme, 0.1, seed, epochs) for seed in range(4)]
    study = replace(STUDY, schemes=("xavier_rnn", "small_normal", "uniform01"), lrs=(0.1,))
    summary = summarize(records(trials, baseline="small_normal"), study, {})
    baselines = ["small_normal", "uniform01"]
    assert [claim["id"] for claim in summary["claims"]] == ["A10.small_normal", "A10.uniform01"]
    for claim, baseline in zip(summary["claims"], baselines, strict=True):
        assert claim["statement"].endswith(f"(xavier_rnn against {baseline})")
        assert claim["note"].endswith("settled as one of 2")
    assert len(summary["pairs"]) == 3
    assert [at["target"] for at in summary["targets"]][-1] == 0.5
