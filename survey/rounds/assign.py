"""Picks a rater's next round: active, random, repeat or gold, in the configured shares."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa

from survey.clips import ClipLibrary
from survey.config import SurveyConfig, SurveyError
from survey.database.rows import Rater, Round, now
from survey.database.schema import answers, rounds, triplets
from survey.database.store import Store
from survey.rounds.active import draw_triplets, select_uncertain

POOL_SIZE = 256  # triplets selected at a time
MAX_REFILLS = 2  # pools without a new triplet, after which the corpus counts as exhausted


class Assigner:
    """Picks rounds for raters.

    embeddings: None, or (ids, vectors) from `active.read_embeddings`. Without them the active
    share is drawn uniformly, as kind `random_train`: those rounds may be trained on, and those of
    the test stream, `random`, may not. seed: for tests; None in service.
    """

    def __init__(
        self,
        store: Store,
        library: ClipLibrary,
        config: SurveyConfig,
        embeddings: tuple[list[str], np.ndarray] | None = None,
        seed: int | None = None,
    ) -> None:
        self.store = store
        self.library = library
        self.config = config
        self.embeddings = embeddings
        self.training_stream = "random_train" if embeddings is None else "active"
        self._rng = np.random.default_rng(seed)
        self.notes: list[str] = []
        known = list(library.tracks) if embeddings is None else embeddings[0]
        self._tracks_by_stream = {
            self.training_stream: self._tracks_of("train", known),
            "random": self._tracks_of("test", list(library.tracks)),
        }
        self._pools: dict[str, deque[tuple[str, str, str]]] = {
            stream: deque() for stream in self._tracks_by_stream
        }
        self._filling = threading.Lock()
        self._expired = 0.0
        store.retire(store.tracks_asked() - library.tracks.keys())
        with store.read() as db:
            query = sa.select(triplets.c.a, triplets.c.b, triplets.c.c)
            self._asked = {(row.a, row.b, row.c) for row in db.execute(query)}

    def _tracks_of(self, split: str, ids: list[str]) -> list[str]:
        """The tracks of `ids` in a split of the corpus, or all of them where it is too small.

        A triplet that spans two splits is of no use for training or for testing. Raises
        SurveyError where `ids` are of fewer than three artists.
        """
        tracks = self.library.tracks
        inside = [i for i in ids if tracks[i].split == split]
        if len({tracks[i].artist_key for i in inside}) >= 3:
            return inside
        artists = len({tracks[i].artist_key for i in ids})
        if artists < 3:
            raise SurveyError(
                f"a round needs songs of three different artists; there are {artists}"
            )
        stream = "random" if split == "test" else "training"
        self.notes.append(
            f"the corpus's {split} split has fewer than three artists: "
            f"{stream} rounds are drawn from all {len(ids)} songs"
        )
        return ids

    def rounds(self, rater: Rater, count: int) -> list[Round]:
        """The rater's open rounds: at least `count`, unless the corpus is exhausted."""
        if time.monotonic() - self._expired > 600:
            self._expired = time.monotonic()
            self.store.expire(self.config.round_expires_h)
        with self.store.read() as db:
            found = self.store.open_rounds(db, rater)
        if len(found) >= count:
            return found
        with self.store.write() as db:
            for _ in range(count - len(self.store.open_rounds(db, rater))):
                if not self._add(db, rater):
                    break
            return self.store.open_rounds(db, rater)

    def _add(self, db: sa.Connection, rater: Rater) -> bool:
        """Gives the rater one more round; False when every kind is exhausted for them."""
        for kind in self._kinds():
            if kind == "repeat":
                added = self._add_repeat(db, rater)
            elif kind == "gold":
                added = self._add_gold(db, rater)
            else:
                added = self._add_triplet(db, rater, kind)
            if added:
                return True
        return False

    def _kinds(self) -> Iterator[str]:
        """A kind drawn by its share, then the kinds that replace it when it is exhausted."""
        shares = {
            self.training_stream: self.config.shares.active,
            "random": self.config.shares.random,
            "repeat": self.config.shares.repeat,
            "gold": self.config.shares.gold,
        }
        kinds, weights = list(shares), np.asarray(list(shares.values()))
        first = kinds[self._rng.choice(len(kinds), p=weights / weights.sum())]
        yield first
        # Training and test rounds replace the others; a kind with a share of 0 is never asked.
        yield from (k for k in (self.training_stream, "random") if k != first and shares[k] > 0)
        if self.training_stream == "active":
            yield "random_train"  # triplets from before there was a model that still need raters

    def _add_repeat(self, db: sa.Connection, rater: Rater) -> bool:
        """Repeats one round, answered at least repeat_after answers ago and not repeated yet."""
        again = rounds.alias("again")
        query = (
            sa.select(rounds.c.id, rounds.c.triplet, triplets.c.a, triplets.c.b, triplets.c.c)
            .join_from(rounds, answers)
            .join(triplets)
            .where(rounds.c.rater == rater.id)
            .where(rounds.c.kind.in_(["active", "random_train", "random"]))
            .where(~sa.exists().where(again.c.repeats == rounds.c.id))
            .order_by(answers.c.id.desc())
            .offset(self.config.repeat_after - 1)
        )
        available = self.library.tracks.keys()
        old = [row for row in db.execute(query) if {row.a, row.b, row.c} <= available]
        if not old:
            return False
        row = old[self._rng.integers(len(old))]
        self.store.add_round(db, rater, row.triplet, "repeat", repeats=row.id)
        return True

    def _add_gold(self, db: sa.Connection, rater: Rater) -> bool:
        """Adds a gold triplet new to the rater: two excerpts of a track, and a distractor."""
        query = sa.select(triplets.c.a).join_from(rounds, triplets)
        asked = set(
            db.execute(
                query.where(rounds.c.rater == rater.id, triplets.c.stream == "gold")
            ).scalars()
        )
        candidates = [track for track in self.library.two_excerpt_tracks if track not in asked]
        if not candidates:
            return False
        track = candidates[self._rng.integers(len(candidates))]
        known = sa.select(triplets).where(triplets.c.stream == "gold", triplets.c.a == track)
        row = db.execute(known.where(triplets.c.quota > 0)).first()
        if row is None:
            key = _insert(db, "gold", (track, track, self._distractor(track)), 1, 1)
        else:
            key = row.id
            db.execute(
                sa.update(triplets).where(triplets.c.id == key).values(taken=triplets.c.taken + 1)
            )
        if key is None:
            return False
        self.store.add_round(db, rater, key, "gold")
        return True

    def _distractor(self, track: str) -> str:
        """A track that clearly differs from `track`, by another artist.

        It is drawn from the tenth with the lowest similarity by the embeddings; without
        embeddings, from the tracks with no genre in common, where genres are known.
        """
        tracks = self.library.tracks
        own = tracks[track]
        others = [i for i in tracks if tracks[i].artist_key != own.artist_key]
        if self.embeddings is not None and track in self.embeddings[0]:
            known, vectors = self.embeddings
            similarity = np.einsum("mtd,md->t", vectors, vectors[:, known.index(track)])
            order = [known[i] for i in np.argsort(similarity)]
            far = [i for i in order if tracks[i].artist_key != own.artist_key]
            others = far[: max(1, len(far) // 10)]
        elif own.genres:
            disjoint = [i for i in others if tracks[i].genres and not own.genres & tracks[i].genres]
            others = disjoint or others
        return others[self._rng.integers(len(others))]

    def _add_triplet(self, db: sa.Connection, rater: Rater, stream: str) -> bool:
        """Adds a triplet of a stream: one that still needs raters, or else a new one."""
        asked = sa.exists().where(rounds.c.triplet == triplets.c.id, rounds.c.rater == rater.id)
        query = (
            sa.select(triplets.c.id)
            .where(triplets.c.stream == stream, triplets.c.taken < triplets.c.quota, ~asked)
            .order_by(triplets.c.taken.desc(), triplets.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # PostgreSQL: no rater waits for another's row
        )
        key = db.execute(query).scalar()
        if key is not None:
            db.execute(
                sa.update(triplets).where(triplets.c.id == key).values(taken=triplets.c.taken + 1)
            )
        else:
            key = self._new_triplet(db, stream)
        if key is None:
            return False
        self.store.add_round(db, rater, key, stream)
        return True

    def _new_triplet(self, db: sa.Connection, stream: str) -> int | None:
        """The id of a triplet that is new to every stream; None when the corpus seems exhausted."""
        if stream not in self._pools:
            return None
        per = self.config.raters_per_triplet
        quota = per.random if stream == "random" else per.active
        for _ in range(MAX_REFILLS * POOL_SIZE):
            with self._filling:
                pool = self._pools[stream]
                if not pool:
                    pool.extend(self._select(stream))
                if not pool:
                    return None
                abc = pool.popleft()
            self._asked.add(abc)
            key = _insert(db, stream, abc, quota, 1)
            if key is not None:
                return key
        return None

    def _select(self, stream: str) -> list[tuple[str, str, str]]:
        """The next triplets for a stream, each sorted, none of them asked before."""
        ids = self._tracks_by_stream[stream]
        artists = _codes([self.library.tracks[i].artist_key for i in ids])
        if stream == "active":
            assert self.embeddings is not None
            row = {track: i for i, track in enumerate(self.embeddings[0])}
            vectors = self.embeddings[1][:, [row[track] for track in ids]]
            index = {track: i for i, track in enumerate(ids)}
            asked = {
                (index[a], index[b], index[c])
                for a, b, c in self._asked
                if a in index and b in index and c in index
            }
            temperature = self.config.temperature
            selected = select_uncertain(vectors, artists, POOL_SIZE, temperature, self._rng, asked)
        else:
            selected = draw_triplets(artists, POOL_SIZE, self._rng)
        new = dict.fromkeys(_sorted(ids[i] for i in indices) for indices in selected)
        return [abc for abc in new if abc not in self._asked]


def _sorted(ids: Iterator[str]) -> tuple[str, str, str]:
    a, b, c = sorted(ids)
    return a, b, c


def _codes(keys: list[str]) -> np.ndarray:
    """The same number for equal keys, (len(keys),)."""
    return np.unique(np.asarray(keys), return_inverse=True)[1]


def _insert(
    db: sa.Connection, stream: str, abc: tuple[str, str, str], quota: int, taken: int
) -> int | None:
    """The id of a new triplet; None when these three tracks are in a stream already."""
    values = dict(zip("abc", abc, strict=True))
    row = {"stream": stream, "quota": quota, "taken": taken, "created": now(), **values}
    if db.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(triplets).values(row).on_conflict_do_nothing()
    return db.execute(statement.returning(triplets.c.id)).scalar()


def check_gold(library: ClipLibrary, config: SurveyConfig) -> None:
    """Raises SurveyError when gold rounds are configured and no track has a second excerpt."""
    if config.shares.gold > 0 and not library.two_excerpt_tracks:
        raise SurveyError(
            "no track is long enough for a second excerpt, so there can be no gold rounds: "
            "set shares.gold to 0 (and give its share to another kind)"
        )
