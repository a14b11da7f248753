"""The survey: a web app that asks people which of three songs is the odd one out.

`config` says what is configurable, `clips` cuts the audio ahead, `schema` and `store` hold the
answers, `assign` and `active` choose what to ask next, `web` and `app` are the pages, `results`
and `plots` are the owner's figures, `export` writes the triplet table, and `simulate` shows what
active selection saves. `cli` is the `feelprint-survey` command.
"""
