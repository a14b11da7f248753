"""The survey: a web app that asks people which of three songs is the odd one out.

`config` is what an owner can configure, `clips` cuts the audio, `database` keeps the answers,
`rounds` chooses what to ask, `web` serves the pages, `results` reports and exports the answers,
and `cli` is the command `feelprint-survey`.
"""
