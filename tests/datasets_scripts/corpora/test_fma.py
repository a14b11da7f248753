"""FMA, from a small archive of the same layout on a local server that breaks connections."""

from __future__ import annotations

import csv
import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets_scripts.corpora import download as downloads
from datasets_scripts.corpora import fma
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.corpora.download import download
from datasets_scripts.corpora.fma import build_fma
from tests.datasets_scripts.leaks import shared_keys
from tests.datasets_scripts.sounds import coded, wave

# number, artist, album, all genres, licence, subset, split; 133297 is a clip known to be broken
TRACKS = [
    (2, "Ann", "First", [21], "Attribution", "small", "training"),
    (5, "Ann", "First", [2, 21], "Attribution-NonCommercial", "small", "training"),
    (10, "Bob", "Second", [38], "Attribution", "small", "validation"),
    (1040, "Cleo", "Third", [100, 38], "Public Domain", "small", "test"),
    (133297, "Dan", "Fourth", [2], "Attribution", "small", "training"),
    (7, "Eve", "Fifth", [2], "Attribution", "small", "training"),  # cut short in the archive
    (8, "Flo", "Sixth", [], "Attribution", "medium", "training"),  # in the larger sets only
]
GENRES = [(2, 0, "International"), (21, 2, "Polka"), (38, 0, "Experimental"), (100, 38, "Noise")]


def table(rows: list[list[object]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def tree(folder: Path) -> dict[str, str]:
    """Write fma_metadata.zip and fma_small.zip; return their hashes."""
    head = [
        ["", "album", "artist", "set", "set", "track", "track", "track"],
        ["", "title", "name", "split", "subset", "genres_all", "license", "title"],
        ["track_id", "", "", "", "", "", "", ""],
    ]
    rows = [
        [n, album, artist, split, subset, str(genres), licence, f"Track, no. {n}"]
        for n, artist, album, genres, licence, subset, split in TRACKS
    ]
    genres = [["genre_id", "#tracks", "parent", "title", "top_level"]]
    genres += [[g, 9, parent, title, 0] for g, parent, title in GENRES]
    with zipfile.ZipFile(folder / "fma_metadata.zip", "w") as archive:
        archive.writestr("fma_metadata/tracks.csv", table(head + rows))
        archive.writestr("fma_metadata/genres.csv", table(genres))
    with zipfile.ZipFile(folder / "fma_small.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for n, *_, subset, _ in TRACKS:
            data = coded(wave(n, 4.0), "MP3") if n != 7 else b"ID3 but no music"
            if subset == "small":
                archive.writestr(f"fma_small/{n // 1000:03d}/{n:06d}.mp3", data)
    return {p.name: hashlib.sha1(p.read_bytes()).hexdigest() for p in folder.glob("*.zip")}


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `cuts` responses end after half of their length; ranges if `resumes`."""

    folder: Path
    cuts = 0
    resumes = True
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        file = self.server.folder / self.path.lstrip("/")
        if not file.exists():
            self.send_error(404)
            return
        data = file.read_bytes()
        start = 0
        if self.server.resumes and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(("127.0.0.1", 0), Handler)
    server.folder, server.asked = folder, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def built(server: Server, tmp_path: Path) -> Corpus:
    hashes = tree(server.folder)
    return build_fma("small", tmp_path / "out", tmp_path / "zips", url=address(server), sha1=hashes)


def test_tracks_keep_their_split_genres_and_licence(built: Corpus) -> None:
    found = {t.source: t for t in built.tracks}
    assert set(found) == {"fma:2", "fma:5", "fma:10", "fma:1040"}
    assert found["fma:2"].title == "Track, no. 2" and found["fma:2"].artist == "Ann"
    assert found["fma:5"].genres == ["International", "Polka"]  # the root first
    assert found["fma:1040"].genres == ["Experimental", "Noise"]
    assert found["fma:10"].split == "validation" and found["fma:1040"].split == "test"
    assert found["fma:5"].licence == "Attribution-NonCommercial"
    assert shared_keys(built.tracks) == {}
    tree = json.loads((built.folder / "genre_tree.json").read_text())
    assert tree == {
        "International": "", "Polka": "International", "Experimental": "", "Noise": "Experimental",
    }  # fmt: skip


def test_bad_clips_are_rejected_with_reasons(built: Corpus) -> None:
    with (built.folder / "rejects.csv").open() as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"fma_small/133/133297.mp3", "fma_small/000/000007.mp3"}
    assert "known to be broken" in reasons["fma_small/133/133297.mp3"]
    assert "not audio" in reasons["fma_small/000/000007.mp3"]


def test_licences_can_be_chosen(server: Server, tmp_path: Path) -> None:
    hashes = tree(server.folder)
    out, zips = tmp_path / "out", tmp_path / "zips"
    free = build_fma("small", out, zips, r"^(?!.*NonCommercial)", address(server), sha1=hashes)
    assert {t.source for t in free.tracks} == {"fma:2", "fma:10", "fma:1040"}
    with pytest.raises(CorpusError, match="not a regular expression"):
        build_fma("small", tmp_path / "x", zips, "(", address(server), sha1=hashes)


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    (server.folder / "a.zip").write_bytes(data)
    sha1 = hashlib.sha1(data).hexdigest()
    server.cuts = 3
    path = download(f"{address(server)}/a.zip", tmp_path / "a.zip", sha1, pause_s=0)
    assert path.read_bytes() == data
    assert server.asked == [None, "bytes=51200-", "bytes=76800-", "bytes=89600-"]
    download(f"{address(server)}/a.zip", path, sha1)
    assert len(server.asked) == 4  # what is there is not fetched again


def test_a_server_that_cannot_resume_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    (server.folder / "a.zip").write_bytes(b"abcdefgh" * 1000)
    server.resumes = False
    (tmp_path / "a.zip.part").write_bytes(b"abcd")
    sha1 = hashlib.sha1(b"abcdefgh" * 1000).hexdigest()
    assert download(f"{address(server)}/a.zip", tmp_path / "a.zip", sha1).stat().st_size == 8000


def test_a_whole_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (server.folder / "a.zip").write_bytes(b"abcd")
    (tmp_path / "a.zip.part").write_bytes(b"abcd")
    sha1 = hashlib.sha1(b"abcd").hexdigest()
    assert download(f"{address(server)}/a.zip", tmp_path / "a.zip", sha1).read_bytes() == b"abcd"


def test_a_wrong_hash_is_never_used(server: Server, tmp_path: Path) -> None:
    (server.folder / "a.zip").write_bytes(b"something else")
    with pytest.raises(CorpusError, match="not the published"):
        download(f"{address(server)}/a.zip", tmp_path / "a.zip", "0" * 40)
    assert [p.name for p in tmp_path.iterdir()] == ["served"]


def test_server_errors_are_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError, match="the server says 404"):
        download(f"{address(server)}/none.zip", tmp_path / "none.zip", "0" * 40)
    monkeypatch.setattr(downloads, "TRIES", 2)
    with pytest.raises(CorpusError, match="run the same command again to resume"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "0" * 40, pause_s=0)


def test_the_published_hashes_are_sha1s() -> None:
    assert all(len(h) == 40 and int(h, 16) for h in fma.SHA1.values())
    assert set(fma.SHA1) == {"fma_metadata.zip", *(f"fma_{size}.zip" for size in fma.SUBSETS)}
    with pytest.raises(CorpusError, match="none of"):
        build_fma("tiny", Path("x"), Path("y"))
