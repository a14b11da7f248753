"""A survey of a folder of music: its start, songs that come and go, and a server without music."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest
import sqlalchemy as sa
from mutagen.flac import FLAC

from datasets_scripts.corpora import open as corpora
from survey import clips
from survey.cli import main
from survey.clips import ClipError, open_corpus, plan
from survey.config import SurveyError
from survey.database.schema import rounds, triplets
from survey.database.store import Store
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.site import Survey

from .conftest import CONFIG, make_item
from .server import served
from .test_app import Person


def make_folder(folder: Path, songs: range, seconds: float = 34.0) -> Path:
    """FLAC files, each by an artist of its own."""
    folder.mkdir(exist_ok=True)
    for number in songs:
        make_item(folder, number, seconds)
        tagged = FLAC(folder / f"{number}.flac")
        tagged["title"], tagged["artist"] = f"Song {number}", f"Artist {number}"
        tagged.save()
    return folder


@pytest.fixture
def no_cutting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cuts nothing, but records which tracks would have been cut."""
    cut: list[str] = []

    def record(corpus: object, track: clips.Track, *_: object) -> None:
        cut.append(track.id)

    monkeypatch.setattr(clips, "_cut_track", record)
    return cut


def test_the_start_cuts_nothing(tmp_path: Path, no_cutting: list[str]) -> None:
    music = make_folder(tmp_path / "music", range(8))
    library = plan(open_corpus(music, tmp_path), tmp_path / "clips", CONFIG, {})
    assert len(library.tracks) == 8 and no_cutting == []
    assert not list((tmp_path / "clips").glob("*.ogg"))


def test_a_clip_is_cut_when_it_is_first_needed_and_once(tmp_path: Path) -> None:
    music = make_folder(tmp_path / "music", range(4))
    library = plan(open_corpus(music, tmp_path), tmp_path / "clips", CONFIG, {})
    one, other = list(library.tracks)[:2]
    first = library.path(one, 0, "ogg")
    assert first.stat().st_size > 10_000
    assert {p.name.split("-")[0] for p in first.parent.glob("*.ogg")} == {one}
    stamp = first.stat().st_mtime_ns
    assert library.path(one, 0, "ogg").stat().st_mtime_ns == stamp
    (music / "3.flac").write_bytes(b"it was changed")
    changed = next(i for i, t in library.tracks.items() if t.title == "Song 3")
    with pytest.raises(ClipError, match="has changed since the start"):
        library.path(changed, 0, "ogg")
    library.cut_all()
    assert (library.folder / f"{other}-0.m4a").exists()


def test_a_rater_does_not_wait_for_the_clips_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background cuts the practice round first, and pauses while a rater waits."""
    order: list[str] = []
    running, most = [], []

    def cut(corpus: object, track: clips.Track, two: bool, folder: Path, config: object) -> None:
        order.append(track.id)
        running.append(track.id)
        most.append(len(running))
        time.sleep(0.1)
        running.remove(track.id)
        for suffix in ("ogg", "m4a"):
            (folder / f"{track.id}-0.{suffix}").write_bytes(b"x")
            (folder / f"{track.id}-1.{suffix}").write_bytes(b"x")
        (folder / f"{track.id}.json").write_text(json.dumps({"excerpts": 1}))

    monkeypatch.setattr(clips, "_cut_track", cut)
    music = make_folder(tmp_path / "music", range(12))
    library = plan(open_corpus(music, tmp_path), tmp_path / "clips", CONFIG, {})
    *_, wanted, practice = library.tracks
    background = threading.Thread(target=library.cut_all, args=([practice],))
    background.start()
    while not order:
        time.sleep(0.001)
    library.path(wanted, 0, "ogg")
    background.join()
    assert order[0] == practice and order.index(wanted) <= 3
    assert sorted(order) == sorted(library.tracks)  # each once
    assert max(most) <= 2


def test_a_song_that_cannot_be_cut_is_asked_no_more(tmp_path: Path, lite: Store) -> None:
    music = make_folder(tmp_path / "music", range(8))
    library = plan(open_corpus(music, tmp_path), tmp_path / "clips", CONFIG, {})
    assigner = Assigner(lite, library, CONFIG, seed=0)
    person = Person(create_app(Survey(CONFIG, lite, library, assigner)))
    person.start()
    found = person.rounds()[0]
    with lite.read() as db:
        query = sa.select(triplets).join(rounds).where(rounds.c.token == found["token"])
        row = db.execute(query).one()
    for file in music.iterdir():
        file.write_bytes(b"broken")
    assert person.http.get(f"{found['clips'][0]}.ogg").status_code == 404
    gone = {row.a, row.b, row.c} - library.tracks.keys()
    assert len(gone) == 1
    assert found["token"] not in {r["token"] for r in person.rounds()}
    with lite.read() as db:
        left = sa.select(triplets.c.id).where(triplets.c.quota > 0)
        held = sa.or_(*(triplets.c[n].in_(gone) for n in "abc"))
        assert db.execute(left.where(held)).all() == []


def test_songs_that_come_and_go_are_followed(
    tmp_path: Path, lite: Store, no_cutting: list[str]
) -> None:
    music = make_folder(tmp_path / "music", range(12))

    def start() -> tuple[clips.ClipLibrary, Assigner]:
        asked = lite.streams_asked()
        found = plan(open_corpus(music, tmp_path), tmp_path / "clips", CONFIG, asked)
        return found, Assigner(lite, found, CONFIG, seed=0)

    first, assigner = start()
    rater = lite.add_rater("", "", "")
    for _ in range(6):
        current = assigner.rounds(rater, 1)[0]
        lite.show(current)
        lite.answer(rater, current.token, 0, [4.0, 4.0, 4.0])
    make_folder(music, range(12, 15))
    (music / "0.flac").unlink()
    (music / "1.flac").rename(music / "moved.flac")
    second, assigner = start()
    titles = {t.title for t in second.tracks.values()}
    assert titles == {f"Song {n}" for n in range(1, 15)}
    assert len(second.tracks.keys() & first.tracks.keys()) == 11  # a moved file keeps its id
    other = lite.add_rater("", "", "")
    gone = first.tracks.keys() - second.tracks.keys()
    for _ in range(10):
        current = assigner.rounds(other, 1)[0]
        assert not gone & {track for track, _ in current.clips}
        lite.show(current)
        lite.answer(other, current.token, 1, [4.0, 4.0, 4.0])
    assert no_cutting == []


def test_a_limit_keeps_the_songs_of_the_last_start(tmp_path: Path, no_cutting: list[str]) -> None:
    music = make_folder(tmp_path / "music", range(10))
    first = {t.id for t in open_corpus(music, tmp_path, limit=6).tracks}
    make_folder(music, range(10, 14))
    assert {t.id for t in open_corpus(music, tmp_path, limit=6).tracks} == first
    assert first < {t.id for t in open_corpus(music, tmp_path, limit=9).tracks}


def test_a_slow_disk_does_not_delay_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    music = make_folder(tmp_path / "music", range(16))
    real: Callable[..., dict] = corpora._describe

    def slow(file: Path, folder: Path) -> dict:
        time.sleep(0.25)
        return real(file, folder)

    monkeypatch.setattr(corpora, "_describe", slow)
    begun = time.monotonic()
    some = len(open_corpus(music, tmp_path, within_s=0.4).tracks)
    assert time.monotonic() - begun < 3
    assert 4 <= some < 16
    assert f"the next start reads up to {16 - some} more" in capsys.readouterr().out
    assert len(open_corpus(music, tmp_path, within_s=60.0).tracks) == 16
    assert "next start" not in capsys.readouterr().out
    with pytest.raises(SurveyError, match="could be read within 0 s"):
        open_corpus(music, tmp_path / "anew", within_s=0.0)


def test_a_server_without_the_music_has_its_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prepare` on the machine with the folder, then only the clips on the server."""
    music = make_folder(tmp_path / "music", range(9))
    at_home, on_server = tmp_path / "home", tmp_path / "server"
    settings = tmp_path / "survey.yaml"
    settings.write_text("clip_s: 10.0\ngold_tracks: 2\nmin_listened_s: 0.0\n")
    options = ["--corpus", str(music), "--data", str(at_home), "--config", str(settings)]
    assert main(["prepare", *options]) == 0
    assert "9 songs have clips, 2 of them for gold rounds" in capsys.readouterr().out
    (made,) = at_home.glob("clips-*")
    shutil.copytree(made, on_server / made.name)
    shutil.rmtree(music)
    with served("--data", str(on_server), "--config", str(settings)) as server:
        visitor = build_opener(ProxyHandler({}), HTTPCookieProcessor())
        page = visitor.open(server.url).read().decode()
        csrf = page.split('name="csrf" value="')[1].split('"')[0]
        form = urlencode({"csrf": csrf, "consent": "yes"}).encode()
        page = visitor.open(f"{server.url}/start", form).read().decode()
        headers = {
            "X-CSRF": page.split('data-csrf="')[1].split('"')[0],
            "Content-Type": "application/json",
        }

        def call(path: str, body: dict) -> dict:
            request = Request(server.url + path, json.dumps(body).encode(), headers)
            return dict(json.load(visitor.open(request)))

        found = call("/api/rounds", {})["rounds"][0]
        for clip in found["clips"]:
            for suffix in ("ogg", "m4a"):
                assert len(visitor.open(f"{server.url}{clip}.{suffix}").read()) > 10_000
        body = {"round": found["token"], "place": 0, "listened_s": [4.0, 4.0, 4.0]}
        assert call("/api/answer", body)["answered"] == 1
    assert main(["serve", "--data", str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "name the music with --corpus DIR" in capsys.readouterr().err


def test_the_library_of_an_earlier_version_is_split_anew(tmp_path: Path, lite: Store) -> None:
    """It had the corpus's own splits, of which the test split is too small for a test stream."""
    blank = {"title": "", "album": "", "genres": [], "source": "", "licence": ""}
    rows = [
        blank
        | {
            "id": f"{n:016x}",
            "artist": f"Artist {n}",
            "split": "test" if n < 4 else "train",
            "excerpts": 2 if n < 5 else 1,
        }
        for n in range(40)
    ]
    (tmp_path / "library.json").write_text(json.dumps({"tracks": rows, "left_out": []}))
    library = clips.ClipLibrary(tmp_path)
    assigner = Assigner(lite, library, CONFIG, seed=0)
    streams = assigner._streams
    assert streams["random"].triplets >= 100 and streams["random_train"].triplets >= 1000
    assert not streams["random"].tracks & streams["random_train"].tracks
    rater = lite.add_rater("", "", "")
    for _ in range(40):
        current = assigner.rounds(rater, 1)[0]
        lite.show(current)
        lite.answer(rater, current.token, 0, [4.0, 4.0, 4.0])
    again = Assigner(lite, library, CONFIG, seed=1)._streams  # what was asked stays in its stream
    for name, stream in streams.items():
        assert stream.tracks == again[name].tracks, name
