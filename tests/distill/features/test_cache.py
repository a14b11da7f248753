"""The cache: its keys, unusable tracks, damage, kills at random times, several processes."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate import debug_launcher
from tqdm import tqdm

from datasets_scripts.corpora.corpus import Corpus, Item, Track, file_sha256, write_corpus
from distill.config import CacheConfig
from distill.features.cache import (
    MelExtractor,
    ShardJob,
    TeacherExtractor,
    build_cache,
    group_tracks,
    make_shards,
    plan,
    segment_samples,
    skipped_tracks,
)
from distill.features.recordings import recordings
from distill.features.shards import CacheError, Shard, is_valid
from student import FeelprintConfig
from tests.tones import SAMPLE_RATE, melody, write_tones

STUDENT = FeelprintConfig()
SEGMENT_S = segment_samples(STUDENT, CacheConfig()) / STUDENT.sample_rate  # 3.06 s


class Loudness:
    """A teacher whose embedding is two levels of a window, without a network."""

    name, revision, licence, dim = "loud/ness", "1", "MIT", 2
    sample_rate, window, level_db = 8_000, 20_000, -13.0

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def key(self) -> dict[str, Any]:
        return {"name": self.name, "factor": self.factor}

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return self.factor * torch.stack([windows.std(dim=1), windows.abs().amax(dim=1)], dim=1)


def extractors(config: CacheConfig, *factors: float) -> list[Any]:
    teachers = [TeacherExtractor(Loudness(f), STUDENT, config, 4) for f in factors or (1.0,)]
    return [MelExtractor(STUDENT, config), *teachers]


def contents(folder: Path) -> dict[str, tuple[str, list[str], dict[str, str]]]:
    """Of every shard, which must be valid: checksum, names of the arrays, rejects."""
    made = {}
    for path in sorted(folder.rglob("*.safetensors")):
        assert is_valid(path)
        shard = Shard(path)
        made[str(path.relative_to(folder))] = (shard.crc32, sorted(shard.arrays), shard.rejects)
    return made


def track(path: Path, split: str = "train") -> Item:
    sha256 = file_sha256(path)
    kept = Track(sha256[:16], path.name, "", path.name, [], "test", "CC0-1.0", 1.0, sha256, split)
    return Item.of_file(kept, path, path.name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six training tracks of 7 s, two segments each, and six held out."""
    return Corpus(write_tones(tmp_path_factory.mktemp("few") / "tones", seconds=7.0, albums=4))


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(folder=str(tmp_path / "cache"), tracks_per_shard=2, augmentations=2)


@pytest.mark.slow
def test_a_second_run_writes_nothing(corpus: Corpus, config: CacheConfig) -> None:
    hours = build_cache([corpus], extractors(config), config, SEGMENT_S)
    # each track's two segments, and one excerpt of six of its augmented copy
    assert hours == pytest.approx(6 * (2 + 6) * SEGMENT_S / 3600, rel=1e-3)
    before = contents(Path(config.folder))
    stamps = [path.stat().st_mtime_ns for path in Path(config.folder).rglob("*.safetensors")]
    assert build_cache([corpus], extractors(config), config, SEGMENT_S) == 0
    assert contents(Path(config.folder)) == before
    assert stamps == [p.stat().st_mtime_ns for p in Path(config.folder).rglob("*.safetensors")]
    assert skipped_tracks([corpus], extractors(config)[0], config) == {}


def test_the_contents_of_the_shards(corpus: Corpus, config: CacheConfig) -> None:
    mel, teacher = extractors(config)
    build_cache([corpus], [mel, teacher], config, SEGMENT_S)
    found = recordings(plan([corpus], config), mel, [teacher], Path(config.folder))
    assert {r.track.split for r in found} == {"train"}  # held-out tracks are not cached
    assert len(found) == 2 * 6
    original = next(r for r in found if r.augmentation == 0)
    augmented = next(r for r in found if r.augmentation == 1 and r.track.id == original.track.id)
    assert original.segments == 2
    assert original.mel.shape == (6, 64, 32)
    assert np.array(original.nonsilent_ratio).tolist() == [1] * 6
    # the log-mel is of the track's samples
    album, number = int(original.track.album.split()[1]), int(original.track.title.split()[1])
    audio = melody(album, number, 7.0)[: STUDENT.window_length]
    with torch.inference_mode():
        want, _ = mel.front_end(torch.from_numpy(audio)[None])
    assert np.abs(original.mel[:1].astype(np.float32) - want.numpy()).mean() < 0.1
    # the teacher's input has the level that it expects
    level = 10 ** (Loudness.level_db / 20)
    assert np.array(original.teacher[0])[:, 0].mean() == pytest.approx(level, rel=0.2)
    assert not np.array_equal(original.mel[:6], augmented.mel[:6])


@pytest.mark.parametrize("seconds", np.random.default_rng(0).uniform(3.1, 40, 12).tolist())
def test_extractors_agree_on_the_segments_of_any_length(
    tmp_path: Path, seconds: float, config: CacheConfig
) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "one.wav", rng.standard_normal(int(seconds * 8_000)) * 0.1, 8_000)
    write_corpus([track(tmp_path / "one.wav")], tmp_path / "corpus", "")
    corpus = Corpus(tmp_path / "corpus")
    mel, teacher = extractors(config)
    make_shards(ShardJob(corpus, tuple(corpus.tracks), 0), [mel, teacher], tmp_path, SEGMENT_S)
    found = recordings([ShardJob(corpus, tuple(corpus.tracks), 0)], mel, [teacher], tmp_path)[0]
    assert found.segments == int(seconds / SEGMENT_S)
    assert len(found.mel) == len(found.nonsilent_ratio) == 3 * found.segments


def test_unusable_tracks_are_named_and_the_others_cached(
    tmp_path: Path, config: CacheConfig
) -> None:
    files = {"good": melody(0, 0, 8.0), "short": melody(0, 1, 2.0), "silent": np.zeros(200_000)}
    for name, audio in files.items():
        soundfile.write(tmp_path / f"{name}.wav", audio, SAMPLE_RATE)
    good = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.wav").write_bytes(b"this is no music at all, however long it may be")
    (tmp_path / "empty.wav").write_bytes(b"")
    items = [track(path) for path in sorted(tmp_path.glob("*.wav"))]
    write_corpus(items, tmp_path / "corpus", "")
    corpus = Corpus(tmp_path / "corpus")
    mel, teacher = extractors(config)
    build_cache([corpus], [mel, teacher], config, SEGMENT_S)
    title = {t.id: t.title for t in corpus.tracks}
    reasons = {title[i]: why for i, why in skipped_tracks([corpus], mel, config).items()}
    assert set(reasons) == {p.name for p in tmp_path.glob("*.wav")} - {"good.wav"}
    assert "shorter than 3.1 s" in reasons["short.wav"]
    assert reasons["silent.wav"] == "silent"
    assert "truncated" in reasons["cut.wav"]
    assert "empty" in reasons["empty.wav"]
    found = recordings(plan([corpus], config), mel, [teacher], Path(config.folder))
    assert {r.track.title for r in found} == {"good.wav"}
    assert all(np.isfinite(np.array(r.teacher[0])).all() for r in found)


def test_a_track_with_sound_only_after_its_last_segment_is_silent(
    tmp_path: Path, config: CacheConfig
) -> None:
    late = np.zeros(round(6.5 * SAMPLE_RATE))  # two segments and 0.4 s
    late[-1000:] = 0.1
    soundfile.write(tmp_path / "late.wav", late, SAMPLE_RATE)
    write_corpus([track(tmp_path / "late.wav")], tmp_path / "corpus", "")
    corpus, plain = Corpus(tmp_path / "corpus"), dataclasses.replace(config, augmentations=1)
    build_cache([corpus], extractors(plain), plain, SEGMENT_S)
    assert skipped_tracks([corpus], extractors(plain)[0], plain) == {corpus.tracks[0].id: "silent"}


def test_the_keys_change_with_what_the_arrays_depend_on(
    corpus: Corpus, config: CacheConfig
) -> None:
    job = plan([corpus], config)[0]

    def path(extractor: Any, job: ShardJob = job) -> Path:
        return job.path(Path("cache"), extractor)

    mel, teacher = extractors(config)
    longer = dataclasses.replace(config, segment_windows=4)
    quieter = Loudness()
    quieter.level_db = -20.0
    others = [
        path(MelExtractor(dataclasses.replace(STUDENT, n_mels=48), config)),
        path(MelExtractor(dataclasses.replace(STUDENT, floor=1e-4), config)),
        path(MelExtractor(STUDENT, longer)),
        path(TeacherExtractor(Loudness(2.0), STUDENT, config, 4)),
        path(TeacherExtractor(Loudness(), STUDENT, longer, 4)),
        path(TeacherExtractor(quieter, STUDENT, config, 4)),
        path(mel, dataclasses.replace(job, augmentation=1)),
        path(mel, dataclasses.replace(job, tracks=job.tracks[1:])),
    ]
    assert len({path(mel), path(teacher), *others}) == 2 + len(others)
    # and not with what they do not depend on
    assert path(MelExtractor(dataclasses.replace(STUDENT, dim=64), config)) == path(mel)
    assert path(TeacherExtractor(Loudness(), STUDENT, config, 99)) == path(teacher)


def test_an_additional_track_changes_one_group(tones: Path) -> None:
    tracks = sorted(Corpus(tones).tracks, key=lambda t: t.id)

    def groups(of: list[Track]) -> list[tuple[str, ...]]:
        return [tuple(t.id for t in group) for group in group_tracks(of, 4)]

    before = groups(tracks)
    assert [i for group in before for i in group] == [t.id for t in tracks]
    assert len(before) > 3
    for left in range(len(tracks)):
        after = groups(tracks[:left] + tracks[left + 1 :])
        assert (
            len(set(before) - set(after)) <= 2
        )  # its own, and the next where it was the last of one


def test_only_training_splits_are_augmented(tmp_path: Path, config: CacheConfig) -> None:
    items = []
    for number, split in enumerate(("train", "validation", "test")):
        path = tmp_path / f"{split}.wav"
        soundfile.write(path, melody(0, number, 8.0), SAMPLE_RATE)
        items.append(track(path, split))
    write_corpus(items, tmp_path / "corpus", "")

    def planned(*train_splits: str) -> list[tuple[str, int]]:
        splits = dataclasses.replace(config, train_splits=train_splits)
        jobs = plan([Corpus(tmp_path / "corpus")], splits)
        return sorted((job.tracks[0].split, job.augmentation) for job in jobs)

    assert planned("train") == [("train", 0), ("train", 1), ("validation", 0)]
    both = [(split, copy) for split in ("train", "validation") for copy in (0, 1)]
    assert planned("train", "validation") == both


@pytest.mark.slow
def test_two_teachers_of_one_name_do_not_mix(corpus: Corpus, config: CacheConfig) -> None:
    mel, one, ten = extractors(config, 1.0, 10.0)
    build_cache([corpus], [mel, one, ten], config, SEGMENT_S)
    for found in recordings(plan([corpus], config), mel, [one, ten], Path(config.folder)):
        quiet, loud = (np.array(made).astype(np.float64) for made in found.teacher)
        assert np.allclose(10 * quiet, loud, rtol=2e-3)


class Recorder(Loudness):
    """Takes windows longer than a segment, and keeps them."""

    window = round(5.5 * Loudness.sample_rate)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        self.windows = windows
        return super().__call__(windows)


def test_a_window_longer_than_a_segment_ends_with_the_audio(config: CacheConfig) -> None:
    teacher = Recorder()
    extractor = TeacherExtractor(teacher, STUDENT, config, 8)
    audio = np.linspace(0.1, 1, round(3 * SEGMENT_S * teacher.sample_rate) + 2)
    assert extractor(audio)["teacher"].shape == (3, 2)
    assert (teacher.windows[:, -1] > 0).all()  # no window reaches into padding
    assert teacher.windows[2, -1] == teacher.windows.max()


def test_a_window_of_several_segments_stands_for_all_of_them(config: CacheConfig) -> None:
    teacher = Recorder()
    teacher.window = round(2.99 * SEGMENT_S * teacher.sample_rate)
    extractor = TeacherExtractor(teacher, STUDENT, config, 8)
    rising = np.linspace(0.1, 1, round(8 * SEGMENT_S * teacher.sample_rate) + 2)
    embeddings = extractor(rising)["teacher"]
    assert embeddings.shape == (8, 2)
    assert len(teacher.windows) == 3
    assert teacher.windows[2, -1] == teacher.windows.max()  # the last window ends with the audio
    level = embeddings[:, 1]
    assert (np.diff(level)[[0, 1, 3, 4, 6]] == 0).all() and (np.diff(level)[[2, 5]] > 0).all()
    short = extractor(rising[: round(2 * SEGMENT_S * teacher.sample_rate) + 2])["teacher"]
    assert len(short) == 2 and teacher.windows.shape[1] < teacher.window


def test_a_value_that_float16_cannot_hold_is_an_error(config: CacheConfig) -> None:
    extractor = TeacherExtractor(Loudness(1e9), STUDENT, config, 8)
    with pytest.raises(CacheError, match=r"loud/ness made a value that float16 cannot hold"):
        extractor(melody(0, 0, 4.0))


# --- damage, kills, several processes ------------------------------------------------------


@pytest.mark.slow
def test_damaged_shards_are_written_again(corpus: Corpus, config: CacheConfig) -> None:
    build_cache([corpus], extractors(config), config, SEGMENT_S)
    folder = Path(config.folder)
    before = contents(folder)
    flipped, cut_short, renamed, *_, missing = sorted(folder.rglob("*.safetensors"))
    data = bytearray(flipped.read_bytes())
    data[-1000] ^= 4
    flipped.write_bytes(data)
    cut_short.write_bytes(cut_short.read_bytes()[:-7])
    renamed.write_bytes(renamed.read_bytes().replace(b"/mel", b"/mal", 1))
    missing.unlink()
    assert is_valid(renamed)  # the checksum is of the arrays, not of their names
    assert build_cache([corpus], extractors(config), config, SEGMENT_S) > 0
    assert contents(folder) == before


def test_a_shard_of_other_tracks_is_not_used(corpus: Corpus, config: CacheConfig) -> None:
    mel, teacher = extractors(config)
    build_cache([corpus], [mel, teacher], config, SEGMENT_S)
    one, two = plan([corpus], config)[:2]
    folder = Path(config.folder)
    one.path(folder, mel).write_bytes(two.path(folder, mel).read_bytes())
    assert not one.is_complete(folder, mel)
    assert two.is_complete(folder, mel)
    with pytest.raises(CacheError, match="run the cache stage again"):
        recordings([one], mel, [teacher], folder)


class Slow(Loudness):
    """Slow enough that a kill comes at any point of the work."""

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().__call__(windows)


@pytest.mark.slow
def test_after_kills_at_random_times_the_cache_is_completed(
    corpus: Corpus, config: CacheConfig, tmp_path: Path
) -> None:
    reference = dataclasses.replace(config, folder=str(tmp_path / "undisturbed"))
    build_cache([corpus], extractors(reference), reference, SEGMENT_S)
    want = contents(Path(reference.folder))
    rng = np.random.default_rng(0)
    # a child that is killed while it holds tqdm's lock between processes would block its parent
    tqdm.set_lock(threading.RLock())
    fork = multiprocessing.get_context("fork")
    kills = 0
    for _ in range(6):
        teacher = TeacherExtractor(Slow(), STUDENT, config, 4)
        made = [MelExtractor(STUDENT, config), teacher]
        process = fork.Process(target=build_cache, args=([corpus], made, config, SEGMENT_S))
        process.start()
        process.join(rng.uniform(0.02, 0.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        # every shard that exists is one of the undisturbed run's
        assert contents(Path(config.folder)).items() <= want.items()
    assert kills
    build_cache([corpus], extractors(config), config, SEGMENT_S)
    assert contents(Path(config.folder)) == want


def test_stale_temporary_files_are_removed(config: CacheConfig) -> None:
    folder = Path(config.folder) / "logmel-x"
    folder.mkdir(parents=True)
    old, new = folder / "a.12.part", folder / "b.13.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7_200,) * 2)
    build_cache([], extractors(config), config, SEGMENT_S)
    assert not old.exists()
    assert new.exists()  # another process may be writing it


def _share(folder: str, corpus: Path) -> None:
    from accelerate import PartialState

    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    config = CacheConfig(folder=folder, tracks_per_shard=2, augmentations=2)
    rank, world = state.process_index, state.num_processes
    hours = build_cache([Corpus(corpus)], extractors(config), config, SEGMENT_S, rank, world)
    (Path(folder) / f"hours-{rank}-of-{world}").write_text(str(hours))
    state.wait_for_everyone()


@pytest.mark.slow
def test_two_processes_share_the_work(corpus: Corpus, config: CacheConfig, tmp_path: Path) -> None:
    alone = dataclasses.replace(config, folder=str(tmp_path / "alone"))
    hours = build_cache([corpus], extractors(alone), alone, SEGMENT_S)
    folder = Path(config.folder)
    debug_launcher(_share, (config.folder, corpus.folder), num_processes=2)
    assert contents(folder) == contents(Path(alone.folder))
    shares = [float((folder / f"hours-{rank}-of-2").read_text()) for rank in (0, 1)]
    assert min(shares) > 0.1 * hours
    assert sum(shares) == pytest.approx(hours)


def test_shares_do_not_depend_on_existing_shards(corpus: Corpus, config: CacheConfig) -> None:
    """The second process starts when the first is half done, and still writes its own share."""
    jobs = plan([corpus], config)
    for job in jobs[::2][:2]:  # two of the first one's shards exist when the second starts
        make_shards(job, extractors(config), Path(config.folder), SEGMENT_S)
    build_cache([corpus], extractors(config), config, SEGMENT_S, 1, 2)
    build_cache([corpus], extractors(config), config, SEGMENT_S, 0, 2)
    assert all(job.is_complete(Path(config.folder), p) for job in jobs for p in extractors(config))


def test_a_missing_shard_says_what_to_run(corpus: Corpus, config: CacheConfig) -> None:
    mel, teacher = extractors(config)
    with pytest.raises(CacheError, match="run the cache stage first"):
        recordings(plan([corpus], config), mel, [teacher], Path(config.folder))
