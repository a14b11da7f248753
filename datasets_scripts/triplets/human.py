"""People's answers from the files that they come in, each row checked.

A bad row is kept with its number and reason, and the rest goes on.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets_scripts.corpora.corpus import SPLITS, Corpus, CorpusError
from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.table import (
    BadRow,
    Triplet,
    check,
    read_rows,
    split_by_ties,
    split_with_corpus,
    track_of,
    weigh,
    write_triplets,
)

# How a song may be called -> its id. None instead of it: any id is taken as it stands.
Songs = Mapping[str, str] | None
Row = dict[str, Any]
MAGNATAGATUNE = tuple(f"clip{n}_{what}" for what in ("id", "numvotes") for n in (1, 2, 3))
VOTES = ("a", "b", "c", "votes_a", "votes_b", "votes_c")


@dataclass(frozen=True)
class Rejected:
    """A row that is no answer to use. row: its number in the file; the first below the head is 1."""  # noqa: E501

    row: int
    reason: str
    text: str


@dataclass
class Reading:
    """What came out of a file: rows == used + unanswered + len(rejected), always."""

    rows: int
    used: int
    triplets: list[Triplet]
    rejected: list[Rejected]
    unanswered: int = 0

    def summary(self) -> str:
        """One line for the report."""
        return (
            f"{self.rows} rows: {self.used} used ({len(self.triplets)} answers), "
            f"{self.unanswered} not answered, {len(self.rejected)} rejected"
        )


def songs_of(corpus: Corpus) -> dict[str, str]:
    """Every name of a corpus's songs: the id, and its source where that is one (`fma:107389`)."""
    names = {track.source: track.id for track in corpus.tracks if track.source.startswith("fma:")}
    return names | {track.id: track.id for track in corpus.tracks}


def read_table(path: Path, songs: Songs = None) -> Reading:
    """Read a triplet table with rows of any kind; the survey's export is such a table."""
    return _read(read_rows(path), lambda row: [_found(Triplet(**row), songs)])


def read_mecomp(path: Path, songs: Songs = None) -> Reading:
    """Read MECOMP's CSV: song1,song2,song3,anchor,positive.

    anchor and positive are positions, 1 to 3, of the two songs that belong together; the third
    is the odd one. A row with neither was not answered. The songs are FMA's numbers: `fma:N`.
    """

    def parse(row: Row) -> list[Triplet] | None:
        a, b, c = (f"fma:{_whole(row, f'song{n}')}" for n in (1, 2, 3))
        answered = bool(row["anchor"].strip() or row["positive"].strip())
        odd = None
        if answered:
            anchor, positive = _whole(row, "anchor"), _whole(row, "positive")
            for name, place in (("anchor", anchor), ("positive", positive)):
                if not 1 <= place <= 3:
                    raise BadRow(f"{name} {place} is out of range: positions are 1, 2 and 3")
            if anchor == positive:
                raise BadRow(f"anchor and positive are both {anchor}")
            odd = (a, b, c)[6 - anchor - positive - 1]  # the three positions add up to 6
        triplet = _found(Triplet(a, b, c, odd, "mecomp"), songs)
        return [triplet] if answered else None

    return _read(_csv(path, ("song1", "song2", "song3", "anchor", "positive")), parse)


def read_votes(path: Path, songs: Songs = None, columns: Sequence[str] = ()) -> Reading:
    """Read a table of votes: three songs, and how many people called each the odd one.

    columns: six names, the songs' and then their votes'; by default those of MagnaTagATune's
    comparisons (clip1_id ... clip3_numvotes) where the file has them, else a, b, c, votes_a,
    votes_b, votes_c. Commas or tabs. Every vote becomes an answer of its own.
    """
    if not columns:
        columns = MAGNATAGATUNE if MAGNATAGATUNE[0] in _head(path) else VOTES
    if len(columns) != 6:
        raise CorpusError(f"six columns are needed, three songs and their votes, not {columns}")

    def parse(row: Row) -> list[Triplet] | None:
        a, b, c = (row[name].strip() for name in columns[:3])
        votes = [_whole(row, name) for name in columns[3:]]
        if min(votes) < 0:
            raise BadRow(f"{min(votes)} votes")
        blank = _found(Triplet(a, b, c, None, "votes"), songs)
        answers = [
            replace(blank, odd=song)
            for song, count in zip(blank.songs, votes, strict=True)
            for _ in range(count)
        ]
        return answers or None

    return _read(_csv(path, columns), parse)


READERS: dict[str, Callable[[Path, Songs], Reading]] = {
    "mecomp": read_mecomp,
    "table": read_table,
    "votes": read_votes,
}


def import_human(
    path: Path, kind: str, out: Path, corpus: Corpus | None = None, split: str = "corpus"
) -> str:
    """Read a file of answers, weigh them, measure agreement, and write what is good.

    kind: one of READERS. With a corpus, ids are checked against it and the answers written by
    split, `out`/{train,validation,test}.parquet: the corpus's own ("corpus"), or afresh
    ("ties"). Without one, all go to `out`/all.parquet. Rejected rows, and answers that span two
    splits, go to `out`/rejects.csv. Returns the report. Raises CorpusError for a file that
    cannot be read, or holds no answer.
    """
    if split not in ("corpus", "ties"):
        raise CorpusError(f"split {split!r} is neither 'corpus' nor 'ties'")
    reading = READERS[kind](path, songs_of(corpus) if corpus else None)
    report = [f"{path}: {reading.summary()}"]
    rejected = list(reading.rejected)
    if not reading.triplets:
        write_rejected(out / "rejects.csv", rejected)
        raise CorpusError(f"{report[0]}: no answer to use; see {out / 'rejects.csv'}")
    answers = weigh(reading.triplets)
    report.append(agreement(answers).summary())
    if corpus is None:
        by_split = {"all": answers}
    elif split == "ties":
        by_split = split_by_ties(answers, corpus.tracks)
    else:
        by_split, spanning = split_with_corpus(answers, corpus.tracks)
        reason = "spans splits, or shares an artist or album with one held out more strictly"
        rejected += [Rejected(0, reason, ",".join(t.songs)) for t in spanning]
        report.append(f"{len(spanning)} answers not placed: they span splits of the corpus")
    write_rejected(out / "rejects.csv", rejected)
    for name in (*SPLITS, "all"):
        if by_split.get(name):
            write_triplets(by_split[name], out / f"{name}.parquet")
            report.append(f"{out / f'{name}.parquet'}: {len(by_split[name])} answers")
    return "\n".join(report)


def _found(triplet: Triplet, songs: Songs) -> Triplet:
    """Check a triplet, and call its songs by their ids."""
    triplet = check(triplet)
    if songs is None:
        return triplet
    unknown = [song for song in triplet.songs if track_of(song) not in songs]
    if unknown:
        raise BadRow(f"unknown id: {', '.join(unknown)}")

    def id_of(song: str) -> str:
        return songs[track_of(song)] + song[len(track_of(song)) :]

    a, b, c = (id_of(song) for song in triplet.songs)
    odd = None if triplet.odd is None else id_of(triplet.odd)
    return check(replace(triplet, a=a, b=b, c=c, odd=odd))


def _read(rows: Sequence[Row | BadRow], parse: Callable[[Row], list[Triplet] | None]) -> Reading:
    reading = Reading(len(rows), 0, [], [])
    for number, row in enumerate(rows, 1):
        try:
            if isinstance(row, BadRow):
                raise row
            found = parse(row)
        except BadRow as error:
            cells = row.values() if isinstance(row, dict) else ()
            text = ",".join("" if cell is None else str(cell) for cell in cells)
            reading.rejected.append(Rejected(number, str(error), text))
            continue
        if found is None:
            reading.unanswered += 1
        else:
            reading.used += 1
            reading.triplets += found
    return reading


def _head(path: Path) -> list[str]:
    return next(iter(_lines(path)), [])


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from None
    lines = text.splitlines()
    tab = bool(lines) and "\t" in lines[0]
    return [line for line in csv.reader(lines, delimiter="\t" if tab else ",") if line]


def _csv(path: Path, columns: Sequence[str]) -> list[Row | BadRow]:
    head, *lines = _lines(path) or [[]]
    missing = [name for name in columns if name not in head]
    if missing:
        raise CorpusError(f"{path} has no columns {missing}; it has {head}")
    return [
        dict(zip(head, line, strict=True))
        if len(line) == len(head)
        else BadRow(f"{len(line)} cells, not {len(head)}: {','.join(line)}")
        for line in lines
    ]


def _whole(row: Row, name: str) -> int:
    try:
        return int(row[name])
    except ValueError:
        raise BadRow(f"{name} {row[name]!r} is not a whole number") from None


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write the rejected rows: row, reason, and the row's own text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "reason", "text"))
        writer.writerows((r.row, r.reason, r.text) for r in rejected)
    os.replace(temporary, path)
