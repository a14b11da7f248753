"""Ablations: runs on a small budget with one change each, and simulated listeners.

`ablations` runs and tabulates the rows; `simulated_listeners` checks personalisation.
"""
