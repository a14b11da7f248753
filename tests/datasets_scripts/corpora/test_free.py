"""The free corpus, from packages built here: which files are kept, and who holds the rights."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from datasets_scripts.config import read_config
from datasets_scripts.corpora import debian, free
from datasets_scripts.corpora.corpus import Corpus, CorpusError
from datasets_scripts.corpora.debian import Copyright
from datasets_scripts.corpora.free import ExtractedTrack, FreeConfig, build_free, is_duplicate
from student.config import ConfigError
from tests.datasets_scripts.sounds import coded, wave

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2001-2009 The Game Team
License: GPL-2+

Files: data/music/*
Copyright: © 2005, Ann Composer <ann@example.org>
License: CC-BY-SA-3.0
 The text of it.

Files: data/music/boss.ogg
Copyright: 2007 Bob Player (www.example.org)
           2008, 2009 Cleo
License: CC-BY-4.0

Files: debian/*
Copyright: 2010 A Maintainer
License: MIT
"""


def build_deb(folder: Path, name: str, files: dict[str, bytes], copyright: str = COPYRIGHT) -> None:
    """Write a real .deb with these files under usr/share/games/NAME."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    root = folder / f"{name}-root"
    for path, content in files.items():
        file = root / "usr/share/games" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (root / "usr/share/doc" / name).mkdir(parents=True)
    (root / "usr/share/doc" / name / "copyright").write_text(copyright)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: a\nDescription: b\n"
    )
    command = ["dpkg-deb", "-Znone", "-b", str(root), str(folder / f"{name}_1.0-1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root)


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debs")
    track = {n: coded(wave(n, 31.0)) for n in range(5)}
    build_deb(
        folder,
        "alpha",
        {
            "music/town.ogg": track[0],
            "music/boss.ogg": track[1],
            "sounds/rain.ogg": coded(wave(7, 32.0)),
            "sounds/click.ogg": coded(wave(8, 1.0)),
            "music/tune.xm": b"Extended Module: ",
            "music/cut.ogg": track[2][: len(track[2]) // 2],
            "music/readme.txt": b"not looked at",
        },
    )
    build_deb(
        folder,
        "beta",
        {
            "pak0.pk3": zipped({"music/deep.ogg": track[3], "maps/a.bsp": b""}),
            "again.flac": coded(wave(0, 31.0), "FLAC"),  # alpha's town in another coding
            "same.ogg": track[1],  # and the same bytes as its boss
            "quiet.wav": coded(0 * wave(0, 31.0), "WAV"),
        },
        "Free text: the music is by somebody, and free.\n",
    )
    return folder


CONFIG = FreeConfig(
    packages={"train": ["alpha"], "test": ["beta"]},
    not_music={"alpha": ["sounds/rain.ogg"]},
    licences={"beta": {"*": "GPL-3"}},
)


@pytest.fixture(scope="module")
def corpus(debs: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_free(CONFIG, debs, tmp_path_factory.mktemp("free") / "out")


def test_kept_tracks(corpus: Corpus) -> None:
    found = {t.title: t for t in corpus.tracks}
    assert set(found) == {"town", "boss", "deep"}
    assert found["town"].album == "alpha" and found["town"].split == "train"
    assert found["deep"].album == "beta" and found["deep"].split == "test"
    assert all(t.duration_s == pytest.approx(31.0, abs=0.1) for t in corpus.tracks)


def test_rejects_have_reasons(corpus: Corpus) -> None:
    with (corpus.folder / "rejects.csv").open() as file:
        reasons = {row["path"].rsplit("/", 1)[1]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {
        "rain.ogg",
        "tune.xm",
        "cut.ogg",
        "again.flac",
        "same.ogg",
        "quiet.wav",
    }
    assert "not music" in reasons["rain.ogg"] and "tracker" in reasons["tune.xm"]
    assert "truncated" in reasons["cut.ogg"] and "silence" in reasons["quiet.wav"]
    assert (
        "duplicate of alpha" in reasons["again.flac"]
        and "duplicate of alpha" in reasons["same.ogg"]
    )
    assert "1 sounds under 30 s" in (corpus.folder / "README.md").read_text()


def test_rights_of_each_track(corpus: Corpus) -> None:
    with (corpus.folder / "attribution.csv").open() as file:
        rows = {row["title"]: row for row in csv.DictReader(file)}
    assert rows["town"]["licence"] == "CC-BY-SA-3.0" and rows["town"]["artist"] == "Ann Composer"
    assert rows["boss"]["holders"] == "Bob Player; Cleo" and rows["boss"]["licence"] == "CC-BY-4.0"
    assert rows["deep"]["licence"] == "GPL-3" and "read by a person" in rows["deep"]["rests_on"]
    assert (corpus.folder / "copyright" / "alpha.txt").read_text() == COPYRIGHT
    assert "alpha | 1.0-1 |" in (corpus.folder / "README.md").read_text()


def test_a_killed_build_unpacks_no_package_twice(
    debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    opened = []
    members = debian.members

    def watched(deb: Path, suffixes: tuple[str, ...]):
        opened.append(deb.name.split("_")[0])
        if deb.name.startswith("beta") and opened.count("beta") == 1:
            raise KeyboardInterrupt
        return members(deb, suffixes)

    monkeypatch.setattr(debian, "members", watched)
    with pytest.raises(KeyboardInterrupt):
        build_free(CONFIG, debs, out)
    assert not (out / "data").exists()
    assert len(build_free(CONFIG, debs, out)) == 3
    assert opened == ["alpha", "beta", "beta"]
    assert not (out / "work").exists()


def test_a_package_without_readable_rights_is_not_used(debs: Path, tmp_path: Path) -> None:
    config = FreeConfig(packages={"train": ["beta"]})
    with pytest.raises(CorpusError, match="name the licence under `licences`"):
        build_free(config, debs, tmp_path / "out")


def test_without_apt_the_error_names_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CorpusError, match="--audio-dir FOLDER"):
        debian.fetch("alpha", tmp_path)


def test_a_download_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(command: list[str], cwd: str, **options: object) -> subprocess.CompletedProcess:
        (Path(cwd) / "alpha_1_all.deb").write_text("half")
        return subprocess.CompletedProcess(command, 100, "", "E: Connection failed\n")

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", failing)
    with pytest.raises(
        CorpusError, match=r"Connection failed.*run the same command again.*--config"
    ):
        debian.fetch("alpha", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_cut_short_is_no_package(debs: Path, tmp_path: Path) -> None:
    deb = tmp_path / "alpha_1.0-1_all.deb"
    whole = (debs / deb.name).read_bytes()
    deb.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match="remove it and run again"):
        list(debian.members(deb, (".ogg",)))


@pytest.mark.parametrize(
    ("path", "licence"),
    [
        ("usr/share/games/x/music/a/b.ogg", "CC-BY-SA-3.0"),
        ("usr/share/games/x/music/boss.ogg", "CC-BY-4.0"),
        ("usr/share/games/x/music.pk3!boss.ogg", "CC-BY-4.0"),
        ("usr/share/games/x/sounds/a.ogg", "GPL-2+"),
        ("usr/share/debian/sounds/a.ogg", "GPL-2+"),  # debian/* is the packaging, not this
    ],
)
def test_source_patterns_match_installed_paths(path: str, licence: str) -> None:
    rights = Copyright(COPYRIGHT).rights(path)
    assert rights is not None and rights.licence == licence


def test_is_duplicate() -> None:
    def extracted(envelope: list[int]) -> ExtractedTrack:
        return ExtractedTrack("p", "a", "a", "", 1.0, envelope, "", "", [])

    a = [-20, -10, -30, -12, -25, -8, -40, -15]
    assert is_duplicate(extracted(a), extracted([level - 6 for level in a]))  # only softer
    assert not is_duplicate(extracted(a), extracted(a[::-1]))
    assert not is_duplicate(extracted(a), extracted([-20] * 8))


def test_configs_of_the_project() -> None:
    configs = Path(free.__file__).parents[2] / "configs"
    config = read_config(FreeConfig, configs / "free_splits.yaml")
    assert sum(map(len, config.packages.values())) == 62
    assert 10 <= len(config.packages["test"]) <= 15
    demo = read_config(FreeConfig, configs / "demo_splits.yaml")
    assert sum(map(len, demo.packages.values())) <= 5 and demo.packages["test"]
    assert set(demo.packages["test"]) <= set(config.packages["test"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("packages: {train: [a], test: [a]}", "in two splits: \\['a'\\]"),
        ("packages: {dev: [a]}", "unknown splits: \\['dev'\\]"),
        ("packages: {train: [a]}\nnot_music: {b: [x]}", "not in packages: \\['b'\\]"),
        (
            "packages: {train: [a]}\nlicenses: {}",
            "unknown key licenses; known keys: licences, not_music, packages",
        ),
        ("packages: {train: a}", "packages.train: expected a list, got 'a'"),
        ("not_music: {}", "missing key packages"),
        ("packages: [", "not YAML"),
    ],
)
def test_invalid_config_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(FreeConfig, tmp_path / "c.yaml")
