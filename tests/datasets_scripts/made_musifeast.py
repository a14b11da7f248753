"""A made-up MUSIFEAST-17: a few tones, with ratings in two groups that differ."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from datasets_scripts.musifeast import ALL_RATERS, COLUMNS, GROUPS, MEASURES
from tests.datasets_scripts.sounds import coded
from tests.tones import SAMPLE_RATE, melody

CLIPS = 24
SECONDS = 3.2


def clip_name(n: int) -> str:
    return f"genre{n % 3}_{n:02d}"


def rows(seed: int) -> list[dict[str, str]]:
    """One row per clip. Even clips are happy and calm, odd ones are sad and excited."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(CLIPS):
        row = {
            "CLIP_NAME": clip_name(n),
            "GENRE": f"genre{n % 3}",
            "TRACK_TITLE": f"title {n}",
            "ARTIST": f"artist {n // 2 if n < 4 else n}",  # the first four clips are by two artists
            "VOCALISATION": "yes" if n % 4 == 0 else "no",
        }
        for measure in MEASURES:
            high = (n % 2 == 0) == (measure == "valence")
            row[f"{measure}_M"] = str((4 if high else 2) + rng.uniform(-0.2, 0.2))
            row[f"{measure}_SD"] = str(rng.uniform(0.5, 1.0))
        made.append(row)
    return made


def write_table(path: Path, table: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["", *COLUMNS], restval="1")
        writer.writeheader()
        writer.writerows(table)


def write_musifeast(folder: Path, clips: str = "clips") -> Path:
    """Write tables and clips, as `clips`/*.ogg or `stimuli`/*.mp3."""
    for seed, group in enumerate((ALL_RATERS, *GROUPS)):
        write_table(folder / "data" / f"MUSIFEAST17_{group}.csv", rows(seed))
    (folder / clips).mkdir()
    suffix, format = {"clips": ("ogg", "OGG"), "stimuli": ("mp3", "MP3")}[clips]
    for n in range(CLIPS):
        audio = melody(n % 2 * 3, n, SECONDS)
        (folder / clips / f"{clip_name(n)}.{suffix}").write_bytes(coded(audio, format, SAMPLE_RATE))
    return folder
