"""Evaluation: retrieval and triplet metrics with intervals, robustness, and the baselines.

The stage `evaluate` and the report measure with this folder alone.
"""
