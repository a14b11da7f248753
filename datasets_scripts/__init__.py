"""Corpora and triplets: building, importing and publishing the project's audio and answers.

`python -m datasets_scripts COMMAND` runs it; everything is stored as Parquet.
"""
