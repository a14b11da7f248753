"""Import of human answers from several file formats, each row checked.

An invalid row is recorded with its number and reason, and the import goes on.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets_scripts.corpora.corpus import SPLITS, Corpus, CorpusError
from datasets_scripts.files import write_csv
from datasets_scripts.triplets.agreement import agreement
from datasets_scripts.triplets.table import (
    BadRow,
    Triplet,
    check,
    normalise_weights,
    read_rows,
    split_anew,
    split_with_corpus,
    track_of,
    write_triplets,
)

# A name of a track -> its id. None: every name is taken as an id.
TrackNames = Mapping[str, str] | None
Row = dict[str, Any]
MAGNATAGATUNE = tuple(f"clip{n}_{what}" for what in ("id", "numvotes") for n in (1, 2, 3))
VOTES = ("a", "b", "c", "votes_a", "votes_b", "votes_c")


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used. row: its number in the file, from 1 after the header."""

    row: int
    reason: str
    text: str


@dataclass
class ImportResult:
    """The result of one file: rows == used + unanswered + len(rejected), always."""

    rows: int
    used: int
    triplets: list[Triplet]
    rejected: list[RejectedRow]
    unanswered: int = 0

    def summary(self) -> str:
        """One line for the report."""
        return (
            f"{self.rows} rows: {self.used} used ({len(self.triplets)} answers), "
            f"{self.unanswered} not answered, {len(self.rejected)} rejected"
        )


def track_names(corpus: Corpus) -> dict[str, str]:
    """Every name of a corpus's tracks -> its id: the id, and an FMA number (`fma:107389`)."""
    names = {track.source: track.id for track in corpus.tracks if track.source.startswith("fma:")}
    return names | {track.id: track.id for track in corpus.tracks}


def read_table(path: Path, names: TrackNames = None) -> ImportResult:
    """Read a triplet table with rows of any kind; the survey's export is such a table."""
    return _read(read_rows(path), lambda row: [_resolve(Triplet(**row), names)])


def read_mecomp(path: Path, names: TrackNames = None) -> ImportResult:
    """Read MECOMP's CSV: song1,song2,song3,anchor,positive.

    anchor and positive are positions, 1 to 3, of the two tracks that are most alike; the third
    is the odd one. A row with neither was not answered. The tracks are named by FMA numbers, or,
    in a survey's export of other music, by their ids of 16 hexadecimal digits.
    """

    def parse(row: Row) -> list[Triplet] | None:
        a, b, c = (_mecomp_name(row, f"song{n}") for n in (1, 2, 3))
        answered = bool(row["anchor"].strip() or row["positive"].strip())
        odd = None
        if answered:
            anchor, positive = _integer(row, "anchor"), _integer(row, "positive")
            for name, position in (("anchor", anchor), ("positive", positive)):
                if not 1 <= position <= 3:
                    raise BadRow(f"{name} {position} is out of range: positions are 1, 2 and 3")
            if anchor == positive:
                raise BadRow(f"anchor and positive are both {anchor}")
            odd = (a, b, c)[6 - anchor - positive - 1]  # the three positions add up to 6
        triplet = _resolve(Triplet(a, b, c, odd, "mecomp"), names)
        return [triplet] if answered else None

    return _read(_csv(path, ("song1", "song2", "song3", "anchor", "positive")), parse)


def _mecomp_name(row: Row, column: str) -> str:
    """A track's id as it is (an FMA number has at most six digits), or `fma:` and its number."""
    if re.fullmatch(r"[0-9a-f]{16}", row[column]):
        return str(row[column])
    return f"fma:{_integer(row, column)}"


def read_votes(path: Path, names: TrackNames = None, columns: Sequence[str] = ()) -> ImportResult:
    """Read a table of votes: three tracks, and how many people chose each as the odd one.

    columns: six names, first the tracks', then their votes'; by default those of MagnaTagATune's
    comparisons (clip1_id ... clip3_numvotes) where the file has them, else a, b, c, votes_a,
    votes_b, votes_c. Commas or tabs. Every vote becomes an answer of its own.
    """
    if not columns:
        columns = MAGNATAGATUNE if MAGNATAGATUNE[0] in _header(path) else VOTES
    if len(columns) != 6:
        raise CorpusError(f"six columns are needed, three tracks and their votes, not {columns}")

    def parse(row: Row) -> list[Triplet] | None:
        a, b, c = (row[name].strip() for name in columns[:3])
        votes = [_integer(row, name) for name in columns[3:]]
        if min(votes) < 0:
            raise BadRow(f"{min(votes)} votes")
        undecided = _resolve(Triplet(a, b, c, None, "votes"), names)
        answers = [
            replace(undecided, odd=id)
            for id, count in zip(undecided.ids, votes, strict=True)
            for _ in range(count)
        ]
        return answers or None

    return _read(_csv(path, columns), parse)


READERS: dict[str, Callable[[Path, TrackNames], ImportResult]] = {
    "mecomp": read_mecomp,
    "table": read_table,
    "votes": read_votes,
}


def import_human(
    path: Path, kind: str, out: Path, corpus: Corpus | None = None, split: str = "corpus"
) -> str:
    """Read a file of answers, normalise their weights, measure agreement, write the valid ones.

    kind: one of READERS. With a corpus, ids are checked against it and the answers written by
    split, `out`/{train,validation,test}.parquet: the corpus's own ("corpus"), or a new one that
    keeps connected triplets together ("groups"). Without one, all go to `out`/all.parquet.
    Rejected rows, and answers that span two splits, go to `out`/rejects.csv. Returns the report.
    Raises CorpusError for a file that cannot be read, or holds no answer.
    """
    if split not in ("corpus", "groups"):
        raise CorpusError(f"split {split!r} is neither 'corpus' nor 'groups'")
    result = READERS[kind](path, track_names(corpus) if corpus else None)
    report = [f"{path}: {result.summary()}"]
    rejected = list(result.rejected)
    if not result.triplets:
        write_rejected(out / "rejects.csv", rejected)
        raise CorpusError(f"{report[0]}: no answer to use; see {out / 'rejects.csv'}")
    answers = normalise_weights(result.triplets)
    report.append(agreement(answers).summary())
    if corpus is None:
        by_split = {"all": answers}
    elif split == "groups":
        by_split = split_anew(answers, corpus.tracks)
    else:
        by_split, spanning = split_with_corpus(answers, corpus.tracks)
        reason = "spans splits, or shares an artist or album with a stricter split"
        rejected += [RejectedRow(0, reason, ",".join(t.ids)) for t in spanning]
        report.append(f"{len(spanning)} answers not placed: they span splits of the corpus")
    write_rejected(out / "rejects.csv", rejected)
    for name in (*SPLITS, "all"):
        if by_split.get(name):
            write_triplets(by_split[name], out / f"{name}.parquet")
            report.append(f"{out / f'{name}.parquet'}: {len(by_split[name])} answers")
    return "\n".join(report)


def _resolve(triplet: Triplet, names: TrackNames) -> Triplet:
    """Check a triplet, and replace the names of its tracks by their ids."""
    triplet = check(triplet)
    if names is None:
        return triplet
    unknown = [name for name in triplet.ids if track_of(name) not in names]
    if unknown:
        raise BadRow(f"unknown id: {', '.join(unknown)}")

    def id_of(name: str) -> str:
        return names[track_of(name)] + name[len(track_of(name)) :]

    a, b, c = (id_of(name) for name in triplet.ids)
    odd = None if triplet.odd is None else id_of(triplet.odd)
    return check(replace(triplet, a=a, b=b, c=c, odd=odd))


def _read(
    rows: Sequence[Row | BadRow], parse: Callable[[Row], list[Triplet] | None]
) -> ImportResult:
    result = ImportResult(len(rows), 0, [], [])
    for number, row in enumerate(rows, 1):
        try:
            if isinstance(row, BadRow):
                raise row
            found = parse(row)
        except BadRow as error:
            cells = row.values() if isinstance(row, dict) else ()
            text = ",".join("" if cell is None else str(cell) for cell in cells)
            result.rejected.append(RejectedRow(number, str(error), text))
            continue
        if found is None:
            result.unanswered += 1
        else:
            result.used += 1
            result.triplets += found
    return result


def _header(path: Path) -> list[str]:
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
    header, *lines = _lines(path) or [[]]
    missing = [name for name in columns if name not in header]
    if missing:
        raise CorpusError(f"{path} has no columns {missing}; it has {header}")
    return [
        dict(zip(header, line, strict=True))
        if len(line) == len(header)
        else BadRow(f"{len(line)} cells, not {len(header)}: {','.join(line)}")
        for line in lines
    ]


def _integer(row: Row, name: str) -> int:
    try:
        return int(row[name])
    except ValueError:
        raise BadRow(f"{name} {row[name]!r} is not a whole number") from None


def write_rejected(path: Path, rejected: Iterable[RejectedRow]) -> None:
    """Write the rejected rows: row, reason, and the row's own text."""
    write_csv(path, ("row", "reason", "text"), ((r.row, r.reason, r.text) for r in rejected))
