"""The engine: a study is resolved, its trials are run, its answer is written."""
