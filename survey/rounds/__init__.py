"""Which rounds a rater is given.

`active` scores triplets by what an answer would teach, `assign` picks the next round, and
`simulate` measures on simulated raters how many answers active selection saves.
"""
