"""Reporting: the HTML report, the model card, and publishing on the Hub.

`python -m distill.reporting RUN` measures a run and writes its report.
"""
