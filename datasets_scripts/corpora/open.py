"""Open a corpus, or any folder of music as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datasets_scripts.corpora.corpus import Corpus
from datasets_scripts.corpora.folder import build_folder


def open_corpus(folder: Path, data: Path) -> Corpus:
    """The corpus in ``folder``, or one built from the music in it and kept in ``data``.

    Raises CorpusError for a folder without music, or a corpus that is not complete.
    """
    if (folder / "data").is_dir() or (folder / "data.partial").is_dir():
        return Corpus(folder)
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    built = data / f"corpus-{name}"
    if (built / "data").is_dir():
        print(f"using {built}, made of {folder} before; remove it to read the folder anew")
        return Corpus(built)
    return build_folder(folder, built)
