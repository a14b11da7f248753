"""What the answers show.

`quality` measures raters, agreement and the current model, `report` and `plots` draw the owner's
page, and `export` writes the table of triplets.
"""
