"""The dataset card of a corpus: its counts, columns, licences and genres as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from datasets_scripts.corpora.corpus import SPLITS, Track

Rows = Sequence[Sequence[object]]


def card(
    title: str,
    about: str,
    tracks: Sequence[Track],
    tables: Mapping[str, tuple[Sequence[str], Rows]] | None = None,
) -> str:
    """Markdown with the YAML header that the Hub reads. tables: heading -> (column names, rows)."""
    head = ["---", "license: other", "task_categories:", "- audio-classification", "tags:"]
    head += ["- music", "- audio", "configs:", "- config_name: default", "  data_files:"]
    for split in SPLITS:
        if any(t.split == split for t in tracks):
            head += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    lines = [*head, "---", f"# {title}", "", about, "", "## Counts", ""]
    counts = []
    for split in [*SPLITS, "all"]:
        part = [t for t in tracks if split in (t.split, "all")]
        if part:
            hours = sum(t.duration_s for t in part) / 3600
            albums = len({t.album for t in part if t.album})
            counts.append((split, len(part), f"{hours:.2f}", albums))
    lines += _table(("split", "tracks", "hours", "albums"), counts)
    lines += ["", "## Columns", "", COLUMNS, "", "## Licences", ""]
    licences = Counter(t.licence or "not named" for t in tracks)
    lines += _table(("licence", "tracks"), licences.most_common())
    genres = Counter(g for t in tracks for g in t.genres)
    if genres:
        lines += ["", "## Genres", "", "As tagged; the most common.", ""]
        lines += _table(("genre", "tracks"), genres.most_common(40))
    for heading, (names, rows) in (tables or {}).items():
        lines += ["", f"## {heading}", "", *_table(names, rows)]
    return "\n".join(lines) + "\n"


COLUMNS = """\
`id` (first 16 digits of the sha256), `audio` (the file's own bytes, and its name), `title`,
`artist`, `album` (empty when unknown), `genres`, `source`, `licence`, `duration_s` (seconds,
decoded), `sha256` (of the audio bytes), `split`.

    datasets.load_dataset("parquet", data_files="data/*.parquet", streaming=True)

Decoding the audio column needs torchcodec; `Audio(decode=False)` gives the bytes without it."""


def _table(names: Sequence[str], rows: Rows) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return lines + [f"| {' | '.join(row)} |" for row in cells]
