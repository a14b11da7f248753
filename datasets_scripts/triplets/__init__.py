"""Triplets: which of three tracks is the odd one out, by human answers or derived from data.

`table` defines the format, `human` imports answers, `made` derives triplets.
"""
