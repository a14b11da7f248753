"""What to ask a rater next: active, random, repeat and gold rounds, in their configured shares."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa

from survey import active
from survey.clips import ClipLibrary
from survey.config import SurveyConfig, SurveyError
from survey.schema import answers, rounds, triplets
from survey.store import Rater, Round, Store, now

POOL = 256  # triplets chosen at a time
REFILLS = 2  # pools without a single new triplet, before the corpus counts as exhausted


class Assigner:
    """Chooses rounds for raters.

    embeddings: None, or (ids, vectors) as `active.read_embeddings` gives them. Without them the
    active share is drawn uniformly, and its rounds are of kind `cold`, so that they can be
    trained on, unlike those of the random test stream. seed is for tests; None in service.
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
        self.training = "cold" if embeddings is None else "active"
        self._rng = np.random.default_rng(seed)
        self.notes: list[str] = []
        known = list(library.tracks) if embeddings is None else embeddings[0]
        self._drawn_from = {
            self.training: self._tracks_of("train", known),
            "random": self._tracks_of("test", list(library.tracks)),
        }
        self._pools: dict[str, deque[tuple[str, str, str]]] = {
            stream: deque() for stream in self._drawn_from
        }
        self._filling = threading.Lock()
        self._expired = 0.0
        store.retire(store.tracks_asked() - library.tracks.keys())
        with store.read() as db:
            query = sa.select(triplets.c.a, triplets.c.b, triplets.c.c)
            self._asked = {(row.a, row.b, row.c) for row in db.execute(query)}

    def _tracks_of(self, split: str, ids: list[str]) -> list[str]:
        """The tracks of `ids` in a split of the corpus, or all of them where it is too small.

        A triplet that spans two splits can neither be trained on nor tested with. Raises
        SurveyError where even all of them are not of three artists.
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
            f"{stream} rounds are drawn from all {len(ids)} tracks"
        )
        return ids

    def rounds(self, rater: Rater, count: int) -> list[Round]:
        """The rater's open rounds, at least `count` of them unless the corpus is exhausted."""
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
        """One more round for the rater; False when every kind is exhausted for them."""
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
        """A kind drawn by its share; then, should it have nothing to give, the others in turn."""
        shares = {
            self.training: self.config.shares.active,
            "random": self.config.shares.random,
            "repeat": self.config.shares.repeat,
            "gold": self.config.shares.gold,
        }
        kinds, weights = list(shares), np.asarray(list(shares.values()))
        first = kinds[self._rng.choice(len(kinds), p=weights / weights.sum())]
        yield first
        # Training rounds and test rounds fill in; a share of 0 is never asked.
        yield from (k for k in (self.training, "random") if k != first and shares[k] > 0)
        if self.training == "active":
            yield "cold"  # what was begun before there was a model, and still wants raters

    def _add_repeat(self, db: sa.Connection, rater: Rater) -> bool:
        """Asks an earlier round again: answered at least repeat_after answers ago, and once."""
        again = rounds.alias("again")
        query = (
            sa.select(rounds.c.id, rounds.c.triplet, triplets.c.a, triplets.c.b, triplets.c.c)
            .join_from(rounds, answers)
            .join(triplets)
            .where(rounds.c.rater == rater.id)
            .where(rounds.c.kind.in_(["active", "cold", "random"]))
            .where(~sa.exists().where(again.c.repeats == rounds.c.id))
            .order_by(answers.c.id.desc())
            .offset(self.config.repeat_after - 1)
        )
        held = self.library.tracks.keys()
        old = [row for row in db.execute(query) if {row.a, row.b, row.c} <= held]
        if not old:
            return False
        row = old[self._rng.integers(len(old))]
        self.store.add_round(db, rater, row.triplet, "repeat", repeats=row.id)
        return True

    def _add_gold(self, db: sa.Connection, rater: Rater) -> bool:
        """Asks a gold triplet that the rater has not met: two excerpts of one track, a stranger."""
        query = sa.select(triplets.c.a).join_from(rounds, triplets)
        met = set(
            db.execute(
                query.where(rounds.c.rater == rater.id, triplets.c.stream == "gold")
            ).scalars()
        )
        left = [track for track in self.library.twins if track not in met]
        if not left:
            return False
        track = left[self._rng.integers(len(left))]
        known = sa.select(triplets).where(triplets.c.stream == "gold", triplets.c.a == track)
        row = db.execute(known.where(triplets.c.quota > 0)).first()
        if row is None:
            key = _insert(db, "gold", (track, track, self._stranger(track)), 1, 1)
        else:
            key = row.id
            db.execute(
                sa.update(triplets).where(triplets.c.id == key).values(taken=triplets.c.taken + 1)
            )
        if key is None:
            return False
        self.store.add_round(db, rater, key, "gold")
        return True

    def _stranger(self, track: str) -> str:
        """A song plainly unlike `track`: of another artist, and far from it as far as is known.

        Far means among the tenth least alike by the embeddings, else of no genre in common.
        """
        tracks = self.library.tracks
        own = tracks[track]
        others = [i for i in tracks if tracks[i].artist_key != own.artist_key]
        if self.embeddings is not None and track in self.embeddings[0]:
            known, vectors = self.embeddings
            alike = np.einsum("mtd,md->t", vectors, vectors[:, known.index(track)])
            order = [known[i] for i in np.argsort(alike)]
            far = [i for i in order if tracks[i].artist_key != own.artist_key]
            others = far[: max(1, len(far) // 10)]
        elif own.genres:
            unlike = [i for i in others if tracks[i].genres and not own.genres & tracks[i].genres]
            others = unlike or others
        return others[self._rng.integers(len(others))]

    def _add_triplet(self, db: sa.Connection, rater: Rater, stream: str) -> bool:
        """Asks a triplet of a stream: one that still wants raters, else a new one."""
        met = sa.exists().where(rounds.c.triplet == triplets.c.id, rounds.c.rater == rater.id)
        query = (
            sa.select(triplets.c.id)
            .where(triplets.c.stream == stream, triplets.c.taken < triplets.c.quota, ~met)
            .order_by(triplets.c.taken.desc(), triplets.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # PostgreSQL: two raters never wait for one row
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
        """A triplet that no stream has asked yet; None when the corpus seems exhausted."""
        if stream not in self._pools:
            return None
        per = self.config.raters_per_triplet
        quota = per.random if stream == "random" else per.active
        for _ in range(REFILLS * POOL):
            with self._filling:
                pool = self._pools[stream]
                if not pool:
                    pool.extend(self._choose(stream))
                if not pool:
                    return None
                abc = pool.popleft()
            self._asked.add(abc)
            key = _insert(db, stream, abc, quota, 1)
            if key is not None:
                return key
        return None

    def _choose(self, stream: str) -> list[tuple[str, str, str]]:
        """The next triplets for a stream, each sorted, none of them asked before."""
        ids = self._drawn_from[stream]
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
            chosen = active.least_sure(vectors, artists, POOL, temperature, self._rng, asked)
        else:
            chosen = active.draw_triples(artists, POOL, self._rng)
        drawn = dict.fromkeys(_sorted(ids[i] for i in triple) for triple in chosen)
        return [abc for abc in drawn if abc not in self._asked]


def _sorted(ids: Iterator[str]) -> tuple[str, str, str]:
    a, b, c = sorted(ids)
    return a, b, c


def _codes(keys: list[str]) -> np.ndarray:
    """A whole number for each distinct key, (len(keys),)."""
    return np.unique(np.asarray(keys), return_inverse=True)[1]


def _insert(
    db: sa.Connection, stream: str, abc: tuple[str, str, str], quota: int, taken: int
) -> int | None:
    """The id of a new triplet; None when these three songs are in a stream already."""
    values = dict(zip("abc", abc, strict=True))
    row = {"stream": stream, "quota": quota, "taken": taken, "created": now(), **values}
    if db.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(triplets).values(row).on_conflict_do_nothing()
    return db.execute(statement.returning(triplets.c.id)).scalar()


def check_gold(library: ClipLibrary, config: SurveyConfig) -> None:
    """Raises SurveyError when gold rounds are asked for and no track has a second excerpt."""
    if config.shares.gold > 0 and not library.twins:
        raise SurveyError(
            "no track is long enough for a second excerpt, so there can be no gold rounds: "
            "set shares.gold to 0 (and give its share to another kind)"
        )
