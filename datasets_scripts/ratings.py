"""People's ratings of a corpus's tracks, as `python -m datasets_scripts musifeast` writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.musifeast import GROUPS
from datasets_scripts.triplets.rated import valence_arousal_plane

COUNTRIES = ("UK", "US")
RATINGS = "ratings.parquet"
COLUMNS = ["id", "genre", "artist", "valence_mean", "arousal_mean"]
COUNTRY_COLUMNS = [
    f"{group}_{rating}_mean" for group in GROUPS for rating in ("valence", "arousal")
]


@dataclass(frozen=True)
class Ratings:
    """What people say of n clips: all arrays (n,), ratings from 1 to 5.

    valence, arousal: means over all raters. by_country: `UK` and `US` -> (n, 2), valence and
    arousal as means of the country's four age groups; empty where the table has no such columns.
    """

    ids: np.ndarray
    genre: np.ndarray
    artist: np.ndarray
    valence: np.ndarray
    arousal: np.ndarray
    by_country: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Ratings:
        """Read ratings.parquet of the corpus in ``folder``. Raises CorpusError."""
        path = folder / RATINGS
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(
                f"{path} cannot be read: {error}. `python -m datasets_scripts musifeast` builds a "
                "corpus with ratings"
            ) from None
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise CorpusError(f"{path} has no columns {missing}; expected {COLUMNS}")
        known = {name: np.array(table[name].to_pylist()) for name in table.column_names}
        for name in COLUMNS[-2:]:
            if known[name].dtype.kind not in "fi" or not np.isfinite(known[name]).all():
                raise CorpusError(f"{path}: {name} is not a finite number in every row")
        per_country = set(COUNTRY_COLUMNS) <= set(table.column_names)
        by_country = {
            country: np.stack(
                [
                    np.mean(
                        [known[f"{g}_{rating}_mean"] for g in GROUPS if g.startswith(country)],
                        axis=0,
                    )
                    for rating in ("valence", "arousal")
                ],
                axis=1,
            )
            for country in (COUNTRIES if per_country else ())
        }
        ids, genre, artist, valence, arousal = (known[name] for name in COLUMNS)
        return cls(ids, genre, artist, valence, arousal, by_country)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def plane(self) -> np.ndarray:
        """Valence and arousal, z-scored over the clips: (n, 2)."""
        return valence_arousal_plane(self.valence, self.arousal)

    def subset(self, rows: np.ndarray) -> Ratings:
        """The clips that ``rows`` selects: numbers, or (n,) bool."""
        return Ratings(
            self.ids[rows],
            self.genre[rows],
            self.artist[rows],
            self.valence[rows],
            self.arousal[rows],
            {country: means[rows] for country, means in self.by_country.items()},
        )

    def of_country(self, country: str) -> Ratings:
        """The same clips with the ratings of one country's raters."""
        valence, arousal = self.by_country[country].T
        return dataclasses.replace(self, valence=valence, arousal=arousal)


def rated_corpus(folder: Path) -> tuple[Corpus, Ratings]:
    """The corpus in ``folder`` and its ratings. Raises CorpusError where their tracks differ."""
    corpus, ratings = Corpus(folder), Ratings.read(folder)
    ids = {track.id for track in corpus.tracks}
    if ids != set(ratings.ids):
        raise CorpusError(
            f"{folder / RATINGS} rates {len(ratings)} tracks, of which "
            f"{len(ids & set(ratings.ids))} are among the corpus's {len(ids)}; "
            "build the corpus again"
        )
    return corpus, ratings
