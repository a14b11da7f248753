"""Ablations: one change at a time on a small budget, and listeners of known taste.

`python -m distill.ablations` runs the rows and prints the table.
"""
