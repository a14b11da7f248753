"""The report's page: it holds every figure, fetches nothing, and escapes text."""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_scripts.corpora.corpus import Track
from distill.reporting import library_map
from distill.reporting.card import summary
from distill.reporting.page import curve, forest, render
from distill.reporting.templating import TEMPLATES
from student import Feelprint
from tests.distill.reporting.made_report import TINY, made_report
from tests.tones import melody


def songs(count: int, clip_bytes: int = 10**6) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    tracks = []
    for n in range(count):
        track = Track(
            f"{n:016x}", f"song {n} </script><b>", "", f"album {n % 3}", [], "debian", "CC0-1.0",
            61.0, "", "test" if n % 2 else "train",
        )  # fmt: skip
        attention = rng.random(60)
        vector = rng.standard_normal(32)
        tracks.append(
            (
                track,
                {
                    "embedding": vector / np.linalg.norm(vector),
                    "attention": attention / attention.sum(),
                    "clip": rng.integers(0, 255, 1_000).astype(np.uint8),
                    "clip_start_s": np.array([12.0], np.float32),
                },
            )
        )
    return library_map.map_data(tracks, 1.02, clip_bytes)


def test_the_page_holds_every_figure_and_fetches_nothing():
    report = made_report()
    page = render(report, summary(report), songs(12), {"finetune/loss": [[0, 1.0], [25, 0.5]]})
    # The map is a page of its own, whose policy lets it fetch nothing but sound; that it asks for
    # nothing is tested in the browser.
    frame = re.search(r'<iframe srcdoc="([^"]*)"', page)
    inner = html.unescape(frame[1])
    assert "Content-Security-Policy\" content=\"default-src 'none';" in inner
    page = page.replace(frame[0], "<iframe")
    for part in (page, re.sub(r"<script>.*?</script>", "", inner, flags=re.S)):
        assert not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', part)
        policy = "media-src 'self' file: http: https: data:"
        assert "http" not in re.sub("http(-equiv|://www.w3.org/2000/svg)", "", part).replace(
            policy, ""
        )
        assert "$" not in re.sub(r"`[^`]*`", "", part)  # no placeholder remains
    assert "{{" not in page and "{{ d" not in inner
    for row in report["figures"].values():
        for value in row.values():
            assert f"{100 * value['value']:.1f}" in page
    for words in ("prefers-color-scheme: dark", "No person has answered", "bliss", "finetune/loss"):
        assert words in page


def test_a_title_cannot_break_out_of_the_page():
    page = render(made_report(), "x", songs(3), {})
    inner = html.unescape(re.search(r'<iframe srcdoc="([^"]*)"', page)[1])
    data = re.search(r'id="data">(.*?)</script>', inner, re.S)
    assert json.loads(data[1])["titles"][0] == "song 0 </script><b>"
    assert "<" not in data[1] and json.loads(data[1]) == songs(3)
    assert "<script>alert" not in render(made_report(run="<script>alert"), "x", None, {})


def test_a_song_has_its_nearest_ten_with_distances_and_top_attention():
    made = songs(30)
    assert made["n_near"] == 10
    assert len(made["near"]) == len(made["distances"]) == 300
    for song in range(30):
        distances = made["distances"][10 * song : 10 * song + 10]
        assert len(distances) == 10 and distances == sorted(distances)
        assert song not in made["near"][10 * song : 10 * song + 10]
        attention = made["attention"][song]
        assert len(attention["top_s"]) == 3 and max(attention["bars"]) == 1.0
        assert 0 <= made["x"][song] <= 65_535 and 0 <= made["y"][song] <= 65_535


def test_songs_are_coloured_by_album_artist_and_split():
    album, artist, split = songs(31)["groups"]
    assert [group["label"] for group in (album, artist, split)] == ["album", "artist", "split"]
    assert album["names"] == ["album 0", "album 1", "album 2"]  # 11, 10 and 10 songs
    assert [album["names"][n] for n in album["of"][:4]] == [f"album {n % 3}" for n in range(4)]
    assert artist["names"] == [""] and split["names"] == ["train", "test"]


def test_clips_stop_at_the_limit_and_the_page_says_so():
    made = songs(10, clip_bytes=4_500)
    assert [bool(url) for url in made["files"]] == [True] * 4 + [False] * 6
    assert made["notes"][0] == "CC0-1.0 · 5 s from 0:12" and made["notes"][9] == "CC0-1.0"
    assert "6 have no clip" in render(made_report(), "x", made, {})


def test_a_corpus_of_three_songs_has_a_map_too():
    made = songs(3)
    assert len(set(made["x"])) == 3
    assert made["n_near"] == 2 and len(made["near"]) == 6


def test_the_notice_names_the_library_in_the_page():
    rust = Path(__file__).parents[3] / "rust"
    library = (TEMPLATES / "deck.min.js").read_bytes()
    assert library == (rust / "src" / "map" / "deck.min.js").read_bytes()
    notice = (rust / "NOTICE").read_text(encoding="utf-8")
    assert hashlib.sha256(library).hexdigest() in notice
    assert f"{len(library):,} bytes" in notice
    pinned = json.loads((rust / "src" / "map" / "deck" / "package.json").read_text())
    for name, version in pinned["devDependencies"].items():
        assert version in notice or name == "esbuild", name


def test_held_out_songs_come_first_on_the_map():
    tracks = [
        Track(f"{n:03d}", "", "", str(n // 10), [], "", "", 1.0, "", s)
        for n, s in enumerate(["test"] * 8 + ["train"] * 60)
    ]
    picked = library_map.select_tracks(tracks, "test", 20)
    assert len(picked) == 20 and sum(t.split == "test" for t in picked) == 8
    assert len({t.album for t in picked if t.split == "train"}) >= 6
    assert len(library_map.select_tracks(tracks, "test", 5)) == 5


def test_a_song_embedded_in_chunks_equals_the_whole():
    model, audio = Feelprint(TINY).eval(), melody(1, 1, 80.0)
    embedding, attention = library_map.embed_track(model, audio)
    import torch

    with torch.inference_mode():
        whole = model(torch.from_numpy(audio)[None])[0].numpy()
    assert np.abs(embedding - whole).max() < 1e-5
    assert attention.sum() == pytest.approx(1.0, abs=1e-4)
    assert len(attention) == -(-len(audio) // TINY.window_length)


def test_a_clip_is_a_small_ogg_file():
    clip = library_map.opus(melody(2, 0, 5.0), 22_050)
    assert clip[:4] == b"OggS" and len(clip) < 40_000


def test_a_forest_marks_chance_and_the_model():
    table = made_report()["figures"]
    svg = forest("triplet", table, 0.5)
    assert svg.count("<circle") == len(table) and 'class="chance"' in svg and "row ours" in svg


def test_a_curve_skips_values_that_are_not_finite():
    svg = curve("loss", [[0, 1.0], [1, float("nan")], [2, 0.5]])
    assert "nan" not in svg
    assert curve("loss", [[0, float("nan")]]) == ""


def test_the_page_compares_with_people_or_says_that_it_does_not():
    page = render(made_report(), "", None, {})
    row = next(line for line in page.splitlines() if "<td>this model</td>" in line)
    assert "0.712 [0.662, 0.762]" in row and "0.512 [0.462, 0.562]" in row
    ceiling = next(line for line in page.splitlines() if "raters of two countries" in line)
    assert ceiling.count("<td>0.") == 3  # nobody rated genres twice
    assert "Not measured: the report was made" not in page
    skipped = render(made_report(people=None), "", None, {})
    assert "without the clips of MUSIFEAST-17" in skipped and "two countries" not in skipped
