"""The summary of a study needs its records and study.json and nothing else."""

from ended_study import ABOUT, LIFE, STUDY, ended

from jaxinit.analysis import store
from jaxinit.analysis.summary import summarize


def test_time_and_compilations_add_up_over_the_lives_of_a_study() -> None:
    other = LIFE | {"compilations": 2, "wall_s": 0.25}
    summary = summarize(ended(), STUDY, {"lives": [LIFE, other], "calibrations": {}})
    assert summary["compilations"] == 3
    assert summary["wall_s"] == 2.25
    assert summary["compile_s"] == 1.0
    assert summary["trials"] == 12


def test_a_forced_resume_is_said_in_the_answer() -> None:
    forced = LIFE | {"forced": ["jax 0.10.1 there, 0.10.2 here"]}
    notes = summarize(ended(), STUDY, {"lives": [LIFE, forced]})["notes"]
    assert "resumed by force under other conditions: jax 0.10.1 there, 0.10.2 here" in notes


def test_notes_say_when_the_resolution_is_another_and_what_calibrations_report() -> None:
    records = store.empty_records(STUDY, 5, ABOUT)
    reports = {"orthogonal+lsuv": {"passes": {"median": 3.0, "low": 2.0, "high": 4.0}}}
    notes = summarize(records, STUDY, {"calibrations": reports})["notes"]
    assert any(
        "8 evaluations an epoch do not divide its batches; 5 were made" in note for note in notes
    )
    assert any(note.startswith("orthogonal+lsuv: passes 3 (medians over seeds") for note in notes)
