"""The feature cache: log-mels and teacher embeddings of every track, augmented copies included.

`cache.build_cache` writes it, `recordings.recordings` opens what it holds.
"""
