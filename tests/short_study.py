"""A study of seconds, and a shorter one, for tests of what happens to a study that is run."""

from dataclasses import replace

from jaxinit.study import Study

STUDY = Study(
    hidden=16,
    schemes=("small_normal", "xavier_rnn", "orthogonal"),
    lrs=(0.1, 0.3),
    seeds=2,
    tune_seeds=1,
    epochs=3,
    evaluations=4,
    target=0.5,
    batch=64,
)
SHORT = replace(STUDY, lrs=(0.1,), epochs=1, batch=320, evaluations=2, target=0.99)
