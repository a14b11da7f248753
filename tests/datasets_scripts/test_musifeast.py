"""MUSIFEAST-17: both layouts, ratings and triplets beside the corpus, and tables that are wrong."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datasets_scripts.__main__ import main
from datasets_scripts.audio import decode
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.musifeast import GROUPS, LICENCE, SCHEMA, build_musifeast, read_table
from datasets_scripts.publish import prepare
from datasets_scripts.triplets.rated import TRIPLETS_PER_ANCHOR
from datasets_scripts.triplets.table import read_triplets
from tests.datasets_scripts.made_musifeast import (
    CLIPS,
    SECONDS,
    clip_name,
    rows,
    write_musifeast,
    write_table,
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_musifeast(tmp_path / "musifeast")


@pytest.mark.parametrize("clips", ["clips", "stimuli"])
def test_both_layouts_become_a_corpus(tmp_path: Path, clips: str) -> None:
    corpus = build_musifeast(write_musifeast(tmp_path / "in", clips), tmp_path / "out")
    assert len(corpus) == CLIPS and {t.split for t in corpus.tracks} == {"test"}
    first = next(t for t in corpus.tracks if t.title == "title 4")
    assert (first.artist, first.genres, first.album) == ("artist 4", ["genre1"], "")
    assert {t.licence for t in corpus.tracks} == {LICENCE}
    assert len(decode(corpus.audio_bytes(first.id), 8_000)) == pytest.approx(
        8_000 * SECONDS, rel=0.03
    )
    assert (tmp_path / "out" / "rejects.csv").read_text().splitlines() == ["path,reason"]


def test_ratings_are_those_of_the_tables(published: Path, tmp_path: Path) -> None:
    corpus = build_musifeast(published, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "ratings.parquet")
    assert table.schema == SCHEMA
    ratings = {row["clip"]: row for row in table.to_pylist()}
    titles = {t.id: t.title for t in corpus.tracks}
    for n, (everyone, british) in enumerate(
        zip(rows(0), rows(1 + GROUPS.index("UK18to30")), strict=True)
    ):
        row = ratings[clip_name(n)]
        assert titles[row["id"]] == f"title {n}" and row["vocalisation"] is (n % 4 == 0)
        assert row["valence_mean"] == float(everyone["valence_M"])
        assert row["clip_familiarity_sd"] == float(everyone["clip_familiarity_SD"])
        assert row["UK18to30_arousal_mean"] == float(british["arousal_M"])
    folds = Counter(row["fold"] for row in ratings.values())
    assert set(folds) == set(range(5)) and max(folds.values()) - min(folds.values()) <= 3
    assert ratings[clip_name(0)]["fold"] == ratings[clip_name(1)]["fold"]  # of one artist


def test_triplets_are_of_alike_and_unlike_clips_by_others(published: Path, tmp_path: Path) -> None:
    corpus = build_musifeast(published, tmp_path / "out")
    number = {t.id: int(t.title.split()[1]) for t in corpus.tracks}
    artist = {t.id: t.artist for t in corpus.tracks}
    triplets = read_triplets(tmp_path / "out" / "triplets.parquet")
    for t in triplets:
        assert t.odd == t.c and t.source == "musifeast17" and 0 < t.weight < 1
        a, b, c = (number[id] % 2 for id in (t.a, t.b, t.c))
        assert a == b != c
        assert artist[t.a] not in (artist[t.b], artist[t.c])
    assert Counter(t.a for t in triplets) == dict.fromkeys(number, TRIPLETS_PER_ANCHOR)
    assert len({(t.a, t.b, t.c) for t in triplets}) == len(triplets)


def test_clips_that_cannot_be_used_are_named(published: Path, tmp_path: Path) -> None:
    (published / "clips" / f"{clip_name(5)}.ogg").unlink()
    (published / "clips" / f"{clip_name(6)}.ogg").write_text("no music")
    data = (published / "clips" / f"{clip_name(7)}.ogg").read_bytes()
    (published / "clips" / f"{clip_name(8)}.ogg").write_bytes(data)
    (published / "clips" / "unrated.ogg").write_bytes(data)
    assert len(build_musifeast(published, tmp_path / "out")) == CLIPS - 3
    with (tmp_path / "out" / "rejects.csv").open() as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.pop(f"clips/{clip_name(6)}.ogg").startswith("not audio")
    duplicate = reasons.pop(f"clips/{clip_name(8)}.ogg")
    assert duplicate == f"the same bytes as {clip_name(7)}.ogg"
    assert reasons == {
        f"clips/{clip_name(5)}.ogg": "rated, but there is no such file",
        "clips/unrated.ogg": "a clip without ratings",
    }
    assert pq.read_table(tmp_path / "out" / "ratings.parquet").num_rows == CLIPS - 3


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("valence_M", "5.2", r"valence_M is '5.2', expected a rating of 1 to 5"),
        ("arousal_M", "0", r"arousal_M is '0', expected a rating of 1 to 5"),
        ("arousal_M", "nan", r"arousal_M is 'nan', expected a rating of 1 to 5"),
        ("enjoyment_M", "NA", r"enjoyment_M is 'NA', expected a rating of 1 to 5"),
        ("valence_M", "high", r"valence_M is 'high', expected a number"),
        ("valence_SD", "-1", r"valence_SD is -1, expected 0 or more"),
        ("valence_SD", "NA", r"standard deviation of valence or arousal .* not known"),
        ("VOCALISATION", "maybe", r"VOCALISATION is 'maybe', expected yes or no"),
        ("ARTIST", "NA", r"expected a GENRE and an ARTIST"),
        ("CLIP_NAME", clip_name(0), r"no name or is there twice"),
    ],
)
def test_a_table_with_an_impossible_value(
    published: Path, tmp_path: Path, column: str, value: str, message: str
) -> None:
    table = rows(0)
    table[3][column] = value
    write_table(published / "data" / "MUSIFEAST17_all.csv", table)
    with pytest.raises(CorpusError, match=message):
        build_musifeast(published, tmp_path / "out")
    assert not (tmp_path / "out" / "data").exists()


def test_a_group_of_one_rater_has_no_deviation(published: Path, tmp_path: Path) -> None:
    table = rows(1)
    table[3]["valence_SD"] = "NA"
    write_table(published / "data" / f"MUSIFEAST17_{GROUPS[0]}.csv", table)
    build_musifeast(published, tmp_path / "out")
    ratings = pq.read_table(tmp_path / "out" / "ratings.parquet").to_pylist()
    unknown = [row["clip"] for row in ratings if row[f"{GROUPS[0]}_valence_sd"] is None]
    assert unknown == [clip_name(3)]


def test_tables_of_another_version(published: Path, tmp_path: Path) -> None:
    all_raters = published / "data" / "MUSIFEAST17_all.csv"
    whole = all_raters.read_text()
    all_raters.write_text(whole.replace("arousal_M", "energy_M"))
    with pytest.raises(CorpusError, match=r"MUSIFEAST17_all.csv has no columns \['arousal_M'\]"):
        build_musifeast(published, tmp_path / "out")
    all_raters.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(CorpusError, match=r"differ in 1 clips \(the first: genre2_23\)"):
        build_musifeast(published, tmp_path / "out")
    all_raters.write_text(whole.splitlines()[0] + "\n")
    with pytest.raises(CorpusError, match="holds no clips"):
        read_table(all_raters)
    all_raters.unlink()
    with pytest.raises(CorpusError, match=r"MUSIFEAST17_all.csv cannot be read"):
        build_musifeast(published, tmp_path / "out")


def test_what_is_no_clone(published: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has neither of .*stimuli/\*\.mp3 or .*clips/\*\.ogg"):
        build_musifeast(tmp_path, tmp_path / "out")
    (published / "stimuli").mkdir()
    (published / "stimuli" / "a.mp3").touch()
    with pytest.raises(CorpusError, match="has both of"):
        build_musifeast(published, tmp_path / "out")


def test_the_command_reports_and_publishing_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["musifeast", str(published), "--out", str(out)])
    said = capsys.readouterr().out
    assert f"| test | {CLIPS} |" in said and f"| {LICENCE} | {CLIPS} |" in said
    with pytest.raises(CorpusError, match=r"MUSIFEAST-17, .* must not be published"):
        prepare(out, tmp_path / "dry")
    with pytest.raises(SystemExit, match="holds a corpus already"):
        main(["musifeast", str(published), "--out", str(out)])
    assert {t.source for t in Corpus(out).tracks} == {"musifeast17"}
