"""Triplets: which of three tracks is the odd one out, from people or from metadata.

`table` holds the format; `human` imports answers, `made` derives triplets from metadata.
"""
