"""`python -m distill.personal.embed --corpus DIR --out FILE.parquet`: a model's embeddings.

The table has the columns `id` and `embedding`, one row for each track. `feelprint-survey
--embeddings` reads such tables to choose its active rounds; the tables of several models are an
ensemble.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.corpora.open import open_corpus
from datasets_scripts.files import atomic_path
from distill.personal.answers import BASE, SURVEY, AnswersError, base_model
from student import Feelprint


@torch.inference_mode()
def embeddings(model: Feelprint, corpus: Corpus) -> tuple[pa.Table, dict[str, str]]:
    """A row for each track that can be decoded, and why the others cannot, by id."""
    rows, skipped = [], {}
    for track in tqdm(corpus.tracks, desc="tracks", unit="track"):
        try:
            audio = decode(corpus.audio_bytes(track.id), model.config.sample_rate)
        except AudioError as error:
            skipped[track.id] = str(error)
            continue
        vector = model(torch.from_numpy(audio)[None])[0]  # (embedding_dim,)
        rows.append({"id": track.id, "embedding": vector.tolist()})
    vectors = pa.list_(pa.float32(), model.config.embedding_dim)
    schema = pa.schema([("id", pa.string()), ("embedding", vectors)])
    return pa.Table.from_pylist(rows, schema=schema), skipped


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.personal.embed", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="a corpus, or a folder of music")
    parser.add_argument("--out", type=Path, required=True, help="the table (Parquet)")
    parser.add_argument("--base", type=Path, default=BASE, help=f"a model's folder ({BASE})")
    options = parser.parse_args(arguments)
    try:
        corpus = open_corpus(options.corpus, SURVEY)
        table, skipped = embeddings(base_model(options.base), corpus)
    except (AnswersError, CorpusError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for track, reason in skipped.items():
        print(f"left out {track}: {reason}")
    with atomic_path(options.out) as part:
        pq.write_table(table, part)
    print(f"{options.out}: {len(table)} tracks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
