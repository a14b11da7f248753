"""A tiny corpus of synthetic music, for tests: every album has a sound of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from datasets_scripts.corpora.corpus import Item, Track, file_sha256, write_corpus

SAMPLE_RATE = 22_050  # Hz


def melody(album: int, track: int, seconds: float) -> np.ndarray:
    """Notes of a sawtooth whose register, brightness and pace are the album's: (samples,)."""
    rng = np.random.default_rng((album, track))
    note_s = 0.1 + 0.08 * album
    root = 110.0 * 2 ** (album / 2)
    harmonics = np.arange(1, 2 + 2 * album)
    parts = []
    for _ in range(int(np.ceil(seconds / note_s))):
        t = np.arange(int(note_s * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = root * 2 ** (rng.integers(12) / 12)
        tone = (np.sin(2 * np.pi * pitch * harmonics[:, None] * t) / harmonics[:, None]).sum(0)
        parts.append(tone * np.exp(-t / note_s))
    audio = np.concatenate(parts)[: int(seconds * SAMPLE_RATE)]
    return (0.3 * audio / np.abs(audio).max()).astype(np.float32)


def write_tones(
    folder: Path, seconds: float = 14.0, albums: int = 6, tracks: int = 3, validation: int = 0
) -> Path:
    """Write the corpus: `albums` of `tracks` each, the last two for test, some for validation."""
    files = folder.with_name(folder.name + "-files")
    files.mkdir(parents=True)
    items = []
    splits = ["train"] * (albums - validation - 2) + ["validation"] * validation + ["test"] * 2
    for album, split in enumerate(splits):
        for track in range(tracks):
            path = files / f"{album}-{track}.flac"
            soundfile.write(path, melody(album, track, seconds), SAMPLE_RATE)
            sha256 = file_sha256(path)
            known = Track(
                id=sha256[:16],
                title=f"track {track}",
                artist=f"artist {album}",
                album=f"album {album}",
                genres=[],
                source="tones",
                licence="CC0-1.0",
                duration_s=seconds,
                sha256=sha256,
                split=split,
            )
            items.append(Item.of_file(known, path, path.name))
    write_corpus(items, folder, "# tones\n")
    return folder
