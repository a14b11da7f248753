"""Evaluation of a model on held-out tracks.

`evaluate.evaluate_model` measures a model, its teachers and its baselines on the same excerpts
(`excerpts`), with the metrics of `metrics`; the stage `evaluate` calls it once per run.
`robustness` and `speed` are measured by the report.
"""
