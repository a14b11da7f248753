"""Large files over HTTP: resumed after a broken connection, used only when their hash is right."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from datasets_scripts.corpora.corpus import CorpusError

BLOCK = 1 << 20
TRIES = 5
TIMEOUT_S = 60


def download(url: str, path: Path, sha1: str, pause_s: float = 2.0) -> Path:
    """Fetch `url` to `path`; bytes that an earlier run left in `path`.part are not fetched again.

    A file is renamed to `path` after its hash was verified. The partial file has a fixed name and
    is kept after an error, unlike that of `files.atomic_path`: resuming needs it. Raises
    CorpusError when the server cannot be reached after TRIES tries without progress, the disk is
    too small, or the hash is wrong (then the file is removed).
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part)
            break
        except (OSError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise CorpusError(f"{url}: the server says {error.code} {error.reason}") from None
            after = part.stat().st_size if part.exists() else 0
            tries = 0 if after > before else tries + 1
            if tries >= TRIES:
                raise CorpusError(
                    f"{url}: {error}. {after} bytes are in {part}; "
                    "run the same command again to resume"
                ) from None
            time.sleep(pause_s)
    digest = hashlib.sha1()
    with part.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != sha1:
        part.unlink()
        raise CorpusError(
            f"{url}: sha1 {digest.hexdigest()}, not the published {sha1}: it was removed; "
            "run the same command again to fetch it anew"
        )
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path) -> None:
    """Append what is missing to `part`. Raises OSError when the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            return
        raise
    with response:
        if have and response.status != 206:  # a server that cannot resume
            have = 0
        left = response.headers.get("Content-Length")
        if left and int(left) > shutil.disk_usage(part.parent).free:
            raise CorpusError(f"{part.parent} has no room for the {left} bytes left of {url}")
        total = have + int(left) if left else None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
                have += len(block)
        if total is not None and have < total:
            raise ConnectionError(f"the connection ended at {have} of {total} bytes")
