"""Picks a rater's next round: active, random, repeat or gold, in the configured shares."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from datasets_scripts.corpora.corpus import SPLITS
from survey.clips import MIN_SERIOUS_TRACKS, ClipLibrary
from survey.config import SurveyConfig, SurveyError
from survey.database.rows import Rater, Round, now
from survey.database.schema import answers, rounds, triplets
from survey.database.store import Store
from survey.results.quality import all_answers
from survey.rounds.active import draw_triplets, select_uncertain
from survey.rounds.ensemble import EnsembleConfig, fit_ensemble, identity_maps
from survey.rounds.splits import Stream, assign_streams, possible_triplets, stream_of

POOL_SIZE = 256  # triplets selected at a time
EARLY_BLOCKS, EARLY_BLOCK, EARLY_GOLD = 2, 10, 2  # 2 gold rounds in each of the first 2 tens
REFIT_AFTER = 50  # training answers between two fits of the ensemble
REFIT_PAUSE_S = 20.0  # between two looks at the number of answers
WARM_UP = 2  # answers before the first test round
MAX_REFILLS = 2  # pools without a new triplet, after which the corpus counts as exhausted


class Paused(Exception):
    """The owner has paused the survey: nobody is given a round."""


@dataclass
class Progress:
    """A rater's numbers of rounds given, of those answered, and of gold rounds given."""

    given: int
    answered: int
    gold: int


class Assigner:
    """Picks rounds for raters.

    embeddings: None, or (ids, vectors) from `active.read_embeddings`. Without them the active
    share is drawn uniformly, as kind `random_train`: those rounds may be trained on, and those of
    the test stream, `random`, may not. Until the first `refit` the tables themselves are the
    ensemble. seed: for tests; None in service.
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
        self._ensemble = None if embeddings is None else embeddings[1]  # (members, tracks, dim)
        self._fitted = -1  # training answers at the last fit
        self.training_stream = "random_train" if embeddings is None else "active"
        self._rng = np.random.default_rng(seed)
        self.notes: list[str] = []
        known = list(library.tracks) if embeddings is None else embeddings[0]
        self._split_of = self._splits()
        self._streams = {
            self.training_stream: self._stream("train", known, config.shares.active),
            "random": self._stream("test", list(library.tracks), config.shares.random),
        }
        self.notes += self._worth()
        self._pools: dict[str, deque[tuple[str, str, str]]] = {
            stream: deque() for stream in self._streams
        }
        self._filling = threading.Lock()
        self._expired = 0.0
        store.retire(store.tracks_asked() - library.tracks.keys())
        self._close_misplaced()
        library.on_failure = self.drop_clip
        with store.read() as db:
            query = sa.select(triplets.c.a, triplets.c.b, triplets.c.c)
            self._asked = {(row.a, row.b, row.c) for row in db.execute(query)}

    def _splits(self) -> dict[str, str]:
        """The stream of each track: as the library says, or anew where that cannot stay.

        The library of an earlier version has the splits of the corpus, which may allow too few
        rounds. One from `prepare` knows nothing of the answers: what was asked stays in its stream.
        """
        tracks = self.library.tracks
        found = {i: track.split for i, track in tracks.items()}
        asked = {i: s for i, s in self.store.streams_asked().items() if i in found}
        artist_of = {i: track.artist_key for i, track in tracks.items()}
        enough = all(
            stream_of([i for i in found if found[i] == split], artist_of).usable
            for split in ("train", "test")
        )
        moved = any(found[i] in SPLITS and found[i] != stream for i, stream in asked.items())
        if (
            (enough and not moved)
            or self.config.shares.random == 0
            or len(tracks) < MIN_SERIOUS_TRACKS
            or not (moved or set(found.values()) <= set(SPLITS))
        ):
            return found
        # Tracks of neither stream stay so, but for those that were asked about.
        used = [
            track if track.split in SPLITS else replace(track, split=asked[track.id])
            for track in tracks.values()
            if track.split in SPLITS or track.id in asked
        ]
        streams = assign_streams(used, asked)
        return streams.split_of(tracks) if streams.usable else found

    def _stream(self, split: str, ids: list[str], share: float) -> Stream:
        """The tracks of `ids` in a split, or all of them where it allows too few triplets.

        Raises SurveyError where `ids` are of fewer than three artists.
        """
        tracks = self.library.tracks
        artist_of = {i: tracks[i].artist_key for i in ids}
        inside = stream_of([i for i in ids if self._split_of[i] == split], artist_of)
        if inside.usable or (inside.triplets and inside.min_artists == 3) or share == 0:
            return inside
        artists = len(set(artist_of.values()))
        if artists < 3:
            raise SurveyError(
                f"a round needs songs of three different artists; there are {artists}"
            )
        stream = "random" if split == "test" else "training"
        self.notes.append(
            f"too few songs for separate training and test rounds: {stream} rounds are drawn from "
            f"all {len(ids)} songs, which is a trial: only `distill.personal` can use the answers"
        )
        return Stream(frozenset(ids), 3, possible_triplets(list(artist_of.values())))

    def _worth(self) -> list[str]:
        """What the corpus allows: triplets of both streams, and answers worth collecting."""
        train, test = self._streams[self.training_stream], self._streams["random"]
        per, shares = self.config.raters_per_triplet, self.config.shares
        places = [
            (stream.triplets * raters, share)
            for stream, raters, share in ((train, per.active, shares.active),
                                          (test, per.random, shares.random))
            if share > 0
        ]  # fmt: skip
        worth = min((int(count / share) for count, share in places), default=0)
        lines = [
            f"training rounds: {len(train.tracks)} songs, {train.triplets} different triplets for "
            f"{per.active} raters each; test rounds: {len(test.tracks)} songs, {test.triplets} "
            f"for {per.random}: up to {worth} answers in all are worth collecting"
        ]
        few = [name for name, stream in (("training", train), ("test", test))
               if stream.min_artists < 3 and stream.triplets]  # fmt: skip
        if few:
            lines.append(f"few artists: {' and '.join(few)} rounds may have two songs of one")
        return lines

    def _close_misplaced(self) -> None:
        """Closes open triplets whose answers would be of no use, of a survey with other splits."""
        query = sa.select(triplets).where(
            triplets.c.stream != "gold", triplets.c.taken < triplets.c.quota
        )
        with self.store.read() as db:
            rows = list(db.execute(query))
        train, test = self._streams[self.training_stream].tracks, self._streams["random"].tracks
        if train & test:
            return  # a trial
        useless = [
            row.id
            for row in rows
            if {row.a, row.b, row.c} & (train if row.stream == "random" else test)
        ]
        self.store.close_triplets(useless)

    def refit(self) -> bool:
        """Fits the ensemble to the training answers, if there are REFIT_AFTER more than last time.

        Active rounds are chosen by it from then on. Returns whether it was fitted.
        """
        if self.embeddings is None:
            return False
        ids, base = self.embeddings
        index = {track: i for i, track in enumerate(ids)}
        excluded = {person.name for person in self.store.people() if person.excluded}
        rows = [
            (*(index[t] for t in a.abc), a.odd)
            for a in all_answers(self.store)
            if a.kind in ("active", "random_train")
            and a.odd is not None
            and a.rater not in excluded
            and index.keys() >= set(a.abc)
        ]
        if self._fitted >= 0 and len(rows) < self._fitted + REFIT_AFTER:
            return False
        given = np.asarray(rows, np.int64).reshape(-1, 4)
        fit = EnsembleConfig(temperature=self.config.temperature)
        rng = np.random.default_rng(0)
        start = identity_maps(base.shape[-1], fit, rng)
        self._ensemble = fit_ensemble(base, start, given[:, :3], given[:, 3], fit, rng)
        self._fitted = len(rows)
        with self._filling:  # the next active rounds are of the new ensemble
            self._pools["active"] = deque(self._select("active"))
        return True

    def keep_refitting(self) -> None:
        """Refits for as long as the survey is served; for a thread of its own."""
        while True:
            self.refit()
            time.sleep(REFIT_PAUSE_S)

    def drop_clip(self, track: str, excerpt: int) -> None:
        """Asks no more for a clip that cannot be cut; its open rounds are dropped."""
        if track in self.library.two_excerpt_tracks:
            self.library.two_excerpt_tracks.remove(track)
        if excerpt == 1:
            self.store.retire({track}, "gold")
            return
        self.library.tracks.pop(track, None)
        artists = {i: t.artist_key for i, t in self.library.tracks.items()}
        for name, stream in self._streams.items():
            kept = [i for i in stream.tracks if i in artists]
            count = possible_triplets([artists[i] for i in kept], stream.min_artists)
            self._streams[name] = Stream(frozenset(kept), stream.min_artists, count)
            with self._filling:
                self._pools[name] = deque(t for t in self._pools[name] if track not in t)
        self.store.retire({track})

    def rounds(self, rater: Rater, count: int) -> list[Round]:
        """The rater's open rounds: at least `count`, unless the corpus is exhausted.

        Raises Paused while the owner has paused the survey.
        """
        if self.store.paused():
            raise Paused("the survey is paused; what you answered is stored, come back later")
        if time.monotonic() - self._expired > 600:
            self._expired = time.monotonic()
            self.store.expire(self.config.round_expires_h)
        with self.store.read() as db:
            found = self.store.open_rounds(db, rater)
        if len(found) >= count:
            return found
        with self.store.write() as db:
            progress = self._progress(db, rater)
            for _ in range(count - len(self.store.open_rounds(db, rater))):
                if not self._add(db, rater, progress):
                    break
            self.store.free_excluded(db, rater)
            return self.store.open_rounds(db, rater)

    def _progress(self, db: sa.Connection, rater: Rater) -> Progress:
        """What the rater has been given and has answered."""
        query = sa.select(
            sa.func.count(rounds.c.id),
            sa.func.count(answers.c.id),
            sa.func.count(sa.case((rounds.c.kind == "gold", 1))),
        ).join_from(rounds, answers, isouter=True)
        given, answered, gold = db.execute(query.where(rounds.c.rater == rater.id)).one()
        return Progress(given, answered, gold)

    def _add(self, db: sa.Connection, rater: Rater, progress: Progress) -> bool:
        """Gives the rater one more round; False when every kind is exhausted for them."""
        for kind in self._kinds(progress):
            if kind == "repeat":
                added = self._add_repeat(db, rater)
            elif kind == "gold":
                added = self._add_gold(db, rater)
            else:
                added = self._add_triplet(db, rater, kind)
            if added:
                progress.given += 1
                progress.gold += kind == "gold"
                return True
        return False

    def _kinds(self, progress: Progress) -> Iterator[str]:
        """A kind drawn by its share, then the kinds that replace it when it is exhausted.

        Of a rater's first rounds, EARLY_GOLD in every EARLY_BLOCK are gold, at random places, so
        that someone who does not listen is recognised early; later gold rounds make up for them.
        Test rounds begin after WARM_UP answers, so that a visitor who only opens the page takes
        no place of the test stream.
        """
        shares = {
            self.training_stream: self.config.shares.active,
            "random": self.config.shares.random,
            "repeat": self.config.shares.repeat,
            "gold": self.config.shares.gold,
        }
        early = progress.given < EARLY_BLOCKS * EARLY_BLOCK and shares["gold"] > 0
        if early:
            block, place = divmod(progress.given, EARLY_BLOCK)
            missing = EARLY_GOLD * (block + 1) - progress.gold
            if self._rng.random() < missing / (EARLY_BLOCK - place):
                yield "gold"
        weights = dict(shares)
        if early or progress.gold > shares["gold"] * progress.given:
            weights["gold"] = 0.0
        if progress.answered < WARM_UP and shares[self.training_stream] > 0:
            weights["random"] = 0.0
        total = sum(weights.values())
        first = ""
        if total > 0:
            p = np.asarray(list(weights.values())) / total
            first = list(weights)[self._rng.choice(len(weights), p=p)]
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

        It is drawn from the farthest tenth by the embeddings; without
        embeddings, from the tracks with no genre in common, where genres are known. In music of
        one artist, it is another track.
        """
        tracks = self.library.tracks
        own = tracks[track]
        others = [i for i in tracks if tracks[i].artist_key != own.artist_key]
        others = others or [i for i in tracks if i != track]
        if self.embeddings is not None and track in self.embeddings[0]:
            known, vectors = self.embeddings
            own_vectors = vectors[:, [known.index(track)]]  # (members, 1, dim)
            distance = np.square(vectors - own_vectors).sum(axis=-1).mean(axis=0)  # (tracks,)
            order = [known[i] for i in np.argsort(-distance)]
            allowed = set(others)
            far = [i for i in order if i in allowed]
            others = far[: max(1, len(far) // 10)] or others
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
        if not self._streams[stream].triplets:
            return []
        ids = sorted(self._streams[stream].tracks)
        at_least = self._streams[stream].min_artists
        artists = _codes([self.library.tracks[i].artist_key for i in ids])
        if stream == "active":
            assert self.embeddings is not None
            row = {track: i for i, track in enumerate(self.embeddings[0])}
            assert self._ensemble is not None
            vectors = self._ensemble[:, [row[track] for track in ids]]
            index = {track: i for i, track in enumerate(ids)}
            asked = {
                (index[a], index[b], index[c])
                for a, b, c in self._asked
                if a in index and b in index and c in index
            }
            temperature = self.config.temperature
            selected = select_uncertain(
                vectors, artists, POOL_SIZE, temperature, self._rng, asked, at_least
            )
        else:
            selected = draw_triplets(artists, POOL_SIZE, self._rng, at_least)
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
