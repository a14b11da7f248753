"""Corpora: audio and its metadata, as Parquet shards with the audio files inside.

`corpus` defines the format and reads it; `free`, `folder` and `fma` build corpora.
"""
