"""The triplet table, imported answers, their agreement, splits without shared artists or albums."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_scripts.corpora.corpus import Corpus, CorpusError, Track, write_corpus
from datasets_scripts.triplets import table
from datasets_scripts.triplets.agreement import agreement, ceiling, krippendorff_alpha
from datasets_scripts.triplets.human import import_human, read_mecomp, read_table, read_votes
from datasets_scripts.triplets.table import (
    Triplet,
    normalise_weights,
    read_triplets,
    split_anew,
    split_with_corpus,
    write_triplets,
)
from tests.datasets_scripts.sounds import items, track_of

# Rows of MECOMP's published table: the first two answered, the third not; then bad ones.
MECOMP = """\
song1,song2,song3,anchor,positive
107389,25033,142433,1,2
73675,53586,5940,1,3
38450,108808,12189,,
107389,25033,107389,1,2
107389,25033,142433,0,2
107389,25033,142433,2,2
107389,25033,142433,x,2
107389,25033,999,1,2
107389,25033,142433,1,
107389,25033,142433,1
"""
KNOWN = {f"fma:{n}": f"id{n}" for n in (107389, 25033, 142433, 73675, 53586, 5940)}
KNOWN |= {f"fma:{n}": f"id{n}" for n in (38450, 108808, 12189)}


def test_mecomp_s_rows(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(MECOMP)
    found = read_mecomp(tmp_path / "m.csv", KNOWN)
    first, second = found.triplets
    assert (first.ids, first.odd) == (("id107389", "id25033", "id142433"), "id142433")
    assert second.odd == "id53586"  # anchor 1 and positive 3 leave the second
    assert (found.rows, found.used, found.unanswered) == (10, 2, 1)
    assert found.rows == found.used + found.unanswered + len(found.rejected)
    reasons = {bad.row: bad.reason for bad in found.rejected}
    assert sorted(reasons) == [4, 5, 6, 7, 8, 9, 10]
    assert "named twice" in reasons[4] and "anchor 0 is out of range" in reasons[5]
    assert reasons[6] == "anchor and positive are both 2" and "not a whole number" in reasons[7]
    assert reasons[8] == "unknown id: fma:999" and "positive ''" in reasons[9]
    assert reasons[10].startswith("4 cells, not 5")
    assert found.rejected[0].text == "107389,25033,107389,1,2"


def test_votes_of_both_shapes(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("a,b,c,votes_a,votes_b,votes_c\nx,y,z,2,0,1\nx,y,z,0,0,0\n")
    found = read_votes(tmp_path / "v.csv")
    assert [t.odd for t in found.triplets] == ["x", "x", "z"]
    assert (found.rows, found.used, found.unanswered) == (2, 1, 1)
    (tmp_path / "m.csv").write_text(
        "clip1_id\tclip2_id\tclip3_id\tclip1_numvotes\tclip2_numvotes\tclip3_numvotes\tmore\n"
        "1\t2\t3\t0\t1\t0\tx\n1\t2\t3\t0\t-1\t0\tx\n"
    )
    found = read_votes(tmp_path / "m.csv")
    assert [t.odd for t in found.triplets] == ["2"] and found.rejected[0].reason == "-1 votes"
    named = ["s1", "s2", "s3", "n1", "n2", "n3"]
    (tmp_path / "o.csv").write_text(",".join(named) + "\np,q,r,1,0,0\n")
    assert read_votes(tmp_path / "o.csv", columns=named).triplets[0].odd == "p"
    with pytest.raises(CorpusError, match="has no columns"):
        read_votes(tmp_path / "o.csv")


def test_written_table_is_read_back(tmp_path: Path) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    rows = [
        Triplet("a", "b", "c", "b", "survey", "r1", when, 0.5),
        Triplet("a@1.5", "a@30", "c", None, "survey"),
    ]
    write_triplets(rows, tmp_path / "t.parquet")
    assert read_triplets(tmp_path / "t.parquet") == rows
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == ["a", "b", "c", "odd", "source", "rater", "when", "weight"]
    assert schema.field("when").type == pa.timestamp("us", tz="UTC")


BAD = [
    (replace(Triplet("a", "b", "c", "b", "s"), odd="d"), "the odd one, d, is none of the three"),
    (Triplet("a", "b", "a", "b", "s"), "named twice: a, b, a"),
    (Triplet("a", "", "c", "a", "s"), "a track without an id"),
    (Triplet("a", "b", "c", "b", "s", weight=0.0), "weight 0.0"),
    (Triplet("a", "b", "c", "b", "s", weight=float("nan")), "weight nan"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_invalid_row_in_a_table(bad: Triplet, reason: str, tmp_path: Path) -> None:
    good = Triplet("a", "b", "c", "b", "s")
    write_triplets([good, bad, good], tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found.triplets == [good, good]
    assert [(r.row, reason in r.reason) for r in found.rejected] == [(2, True)]
    with pytest.raises(CorpusError, match="row 2: "):
        read_triplets(tmp_path / "t.parquet")


def test_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        read_triplets(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "u.parquet")
    with pytest.raises(CorpusError, match=r"has no columns \['b', 'c', 'odd'"):
        read_triplets(tmp_path / "u.parquet")


def test_weights_of_a_triplet_sum_to_one() -> None:
    rows = [
        Triplet("a", "b", "c", odd, "s", rater) for odd, rater in zip("aab", "123", strict=True)
    ]
    rows += [Triplet("c", "a", "b", "a", "s", "4"), Triplet("d", "e", "f", "d", "s", "1")]
    weights = [t.weight for t in normalise_weights(rows)]
    assert weights == [0.25, 0.25, 0.25, 0.25, 1.0]  # the fourth shows the same three


def test_krippendorff_s_own_example() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part C: nominal, 0.743."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[int(a) for a in unit if a != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_at_its_extremes() -> None:
    assert krippendorff_alpha([[0, 0], [1, 1, 1], [2, 2]]) == 1.0
    assert krippendorff_alpha([[0, 0], [0, 0]]) == 1.0
    # by hand: 2 units, values 0 1 | 0 1: D_o = 1; D_e = 8 of 12 ordered pairs; 1 - 12/8
    assert krippendorff_alpha([[0, 1], [0, 1]]) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="no unit"):
        krippendorff_alpha([[0], []])


def test_the_ceiling_by_hand() -> None:
    assert ceiling([[0, 0, 0]]) == 1.0
    assert ceiling([[0, 0, 1]]) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert ceiling([[0, 1], [2, 2]]) == pytest.approx(0.5)
    assert ceiling([[0, 0, 0, 1]]) == pytest.approx(0.75)


def test_agreement_of_a_table() -> None:
    rows = [Triplet("a", "b", "c", odd, "s", f"r{n}") for n, odd in enumerate("aac")]
    rows += [Triplet("b", "c", "a", None, "s", "r9"), Triplet("d", "e", "f", "d", "s", "r1")]
    found = agreement(rows)
    assert (found.answers, found.undecided, found.raters, found.triplets) == (4, 1, 4, 1)
    assert found.ceiling == pytest.approx(1 / 3)
    assert agreement(rows[-1:]).alpha is None
    assert "no agreement to measure" in agreement(rows[-1:]).summary()


def test_agreement_is_not_that_of_the_active_rounds() -> None:
    """Active rounds are those on which people disagree: pooled, they would lower the ceiling."""
    random = [Triplet(f"a{n}", "b", "c", "b", "survey-random", r) for n in range(9) for r in "xyz"]
    active = [
        Triplet(f"d{n}", "b", "c", odd, "survey-active", rater)
        for n in range(9)
        for rater, odd in (("x", "b"), ("y", "c"))
    ]
    found = agreement(random + active)
    assert (found.ceiling, found.alpha, found.triplets) == (1.0, 1.0, 9)
    assert (found.answers, found.active) == (45, 18)
    assert "without the 18 to active rounds" in found.summary()
    alone = agreement(active)
    assert (alone.ceiling, alone.triplets, alone.active) == (0.0, 9, 0)
    assert "active" not in alone.summary()
    train = [replace(t, source="survey-random_train") for t in random]
    assert agreement(train).ceiling == 1.0


def tracks() -> list[Track]:
    """Twelve artists of two tracks each: eight to train, two to validate, two to test."""
    made = []
    for artist in range(12):
        split = "train" if artist < 8 else "validation" if artist < 10 else "test"
        for n in range(2):
            known = {"artist": f"artist {artist}", "album": f"album {artist}", "split": split}
            made.append(track_of(bytes([artist, n]), **known))
    return made


def no_artist_or_album_twice(by_split: dict[str, list[Triplet]], known: list[Track]) -> bool:
    by_id = {t.id: t for t in known}
    seen: dict[str, set[str]] = {}
    for split, rows in by_split.items():
        for track in (by_id[s] for row in rows for s in row.ids):
            for key in (f"artist {track.artist.casefold()}", f"album {track.album.casefold()}"):
                seen.setdefault(key, set()).add(split)
    return all(len(splits) == 1 for splits in seen.values())


def test_triplets_follow_the_corpus_s_split() -> None:
    known = tracks()
    inside = Triplet(known[0].id, known[1].id, known[4].id, known[4].id, "s")
    tested = Triplet(known[20].id, known[21].id, known[22].id, known[22].id, "s")
    across = Triplet(known[0].id, known[1].id, known[22].id, known[22].id, "s")
    by_split, spanning = split_with_corpus([inside, tested, across], known)
    assert by_split == {"train": [inside], "test": [tested]} and spanning == [across]
    assert no_artist_or_album_twice(by_split, known)
    assert not no_artist_or_album_twice({"train": [inside, across], "test": [tested]}, known)


def test_leaking_corpus_gives_no_leaking_triplets() -> None:
    """A compilation: an artist of the training split has a track on an album of the test split."""
    known = tracks()
    known[0] = replace(known[0], album="ALBUM 11")
    leaking = Triplet(known[0].id, known[1].id, known[4].id, known[4].id, "s")
    fine = Triplet(known[2].id, known[3].id, known[4].id, known[4].id, "s")
    tested = Triplet(known[22].id, known[23].id, known[20].id, known[20].id, "s")
    assert not no_artist_or_album_twice({"train": [leaking, fine], "test": [tested]}, known)
    by_split, spanning = split_with_corpus([leaking, fine, tested], known)
    assert by_split == {"train": [fine], "test": [tested]} and spanning == [leaking]
    assert no_artist_or_album_twice(by_split, known)


def test_split_anew_keeps_groups_together() -> None:
    known = [track_of(bytes([n]), artist=f"a{n}", album=f"b{n}") for n in range(90)]
    rows = [
        Triplet(known[n].id, known[n + 1].id, known[n + 2].id, known[n].id, "s")
        for n in range(0, 90, 3)
    ]
    rows.append(Triplet(known[0].id, known[1].id, known[5].id, known[5].id, "s"))
    by_split = split_anew(rows, known)
    assert sum(map(len, by_split.values())) == len(rows) and len(by_split["test"]) >= 3
    assert no_artist_or_album_twice(by_split, known)


def test_import_writes_valid_rows(tmp_path: Path) -> None:
    made = [
        i._replace(track=replace(i.track, source=f"fma:{n}", artist=f"a{n}"))
        for n, i in enumerate(items(tmp_path, 6))
    ]
    made[5] = made[5]._replace(track=replace(made[5].track, split="test"))
    write_corpus(made, tmp_path / "corpus", "")
    (tmp_path / "m.csv").write_text(
        "song1,song2,song3,anchor,positive\n0,1,2,1,2\n2,1,0,2,3\n3,4,1,1,2\n0,1,5,1,2\n0,0,1,1,2\n"
    )
    corpus = Corpus(tmp_path / "corpus")
    report = import_human(tmp_path / "m.csv", "mecomp", tmp_path / "out", corpus)
    assert "5 rows: 4 used (4 answers), 0 not answered, 1 rejected" in report
    assert "1 answers not placed" in report and "ceiling" in report
    rows = read_triplets(tmp_path / "out" / "train.parquet")
    assert [t.weight for t in rows] == [0.5, 0.5, 1.0]
    assert rows[0].a == corpus.tracks[0].id and not (tmp_path / "out" / "test.parquet").exists()
    with (tmp_path / "out" / "rejects.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["5", "0"]
    import_human(tmp_path / "m.csv", "mecomp", tmp_path / "groups", corpus, split="groups")
    assert len(read_triplets(tmp_path / "groups" / "train.parquet")) == 4  # all share track 1
    (tmp_path / "none.csv").write_text("song1,song2,song3,anchor,positive\n1,2,3,,\n")
    with pytest.raises(CorpusError, match="1 not answered, 0 rejected: no answer to use"):
        import_human(tmp_path / "none.csv", "mecomp", tmp_path / "none")
    assert table.track_of("id@3.5") == "id"
