"""Corpora and triplets: where audio and human answers come from, as Parquet."""
