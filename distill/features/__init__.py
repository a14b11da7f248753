"""The feature cache: log-mels and teacher embeddings of every track, augmented copies included.

`cache.build_cache` fills it, `dataset` reads batches of clips from it.
"""
