"""The HTML report, the model card, and publishing on the Hub.

`python -m distill.reporting RUN` writes the report of a run.
"""
