"""A catalogue: the embeddings of a collection of any size, as Parquet, computed on Ray.

    python -m feelprint.catalogue s3://music/audio --out s3://music/catalogue --neighbours 10

It needs `feelprint[ray]`, and `feelprint[ray,lance]` to find neighbours in more than ten million
tracks. It runs on this machine, on the cluster of `--address`, or as a Ray job.

The target holds

- `plan/`: the files of the source, once each, in the order in which they are embedded. A number of
  files one after another is a shard. A later run plans the files that are new.
- `tracks/`: one Parquet file per shard. It is written in one step: it is complete or absent, and a
  run embeds the shards that are absent. The name is a hash of the shard's files, so that a shard
  that two processes have embedded is one file.
- `neighbours/`: the nearest tracks of each track, one Parquet file per shard.
- `tracks.lance`: a Lance dataset with an IVF index, if the search is not exact.
"""

from __future__ import annotations

try:
    from feelprint.catalogue.embed import Summary, embed
    from feelprint.catalogue.neighbours import find_neighbours
    from feelprint.catalogue.target import NEIGHBOURS, TRACKS
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: feelprint.catalogue needs more packages: pip install 'feelprint[ray]'"
    ) from error

__all__ = ["NEIGHBOURS", "TRACKS", "Summary", "embed", "find_neighbours"]
