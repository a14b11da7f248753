"""Corpora: where audio comes from, as Parquet shards with the audio's bytes inside.

`corpus.Corpus` reads one; each other module builds one or a part of one.
"""
