"""Debian packages as a source of music: fetch and unpack them, and read their copyright files.

No command here needs root: `apt-get download` fetches, `dpkg-deb` unpacks.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datasets_scripts.corpora.corpus import CorpusError

ARCHIVES = (".zip", ".pk3")


class Rights(NamedTuple):
    """The rights in one path, by a copyright file. pattern: the `Files:` entry that matched."""

    licence: str
    holders: list[str]
    pattern: str


def fetch(package: str, folder: Path) -> Path:
    """Return the .deb of `package` in `folder`, after `apt-get download` if it is not there.

    Raises CorpusError where there is no apt, or the download fails.
    """
    found = sorted(folder.glob(f"{package}_*.deb"))
    if len(found) > 1:
        raise CorpusError(f"{folder} holds {len(found)} versions of {package}: keep one")
    if found:
        return found[0]
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise CorpusError(
                f"{tool} is not here: the music of {package} comes from Debian's archive, "
                "and needs Debian or Ubuntu. On any system, use your own music instead: "
                "--audio-dir FOLDER"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        command = ["apt-get", "-q", "download", package]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        debs = list(Path(scratch).glob("*.deb"))
        if done.returncode or len(debs) != 1:
            reason = (done.stderr.strip().splitlines() or ["no .deb came"])[-1]
            raise CorpusError(
                f"`{' '.join(command)}` failed: {reason}. If the network broke, run the same "
                "command again; if the package is unknown, run `apt-get update` as root; if this "
                "release has it no more, leave it out of a copy of the list (--config)"
            )
        os.replace(debs[0], folder / debs[0].name)
    return folder / debs[0].name


def version(deb: Path) -> str:
    """The version of a .deb file. Raises CorpusError for a file that is not a package."""
    done = subprocess.run(
        ["dpkg-deb", "--field", str(deb), "Version"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CorpusError(f"{deb} is not a whole Debian package: remove it and run again")
    return done.stdout.strip()


def members(deb: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files of a package whose names end so, also inside .zip/.pk3.

    A path inside an archive is written ARCHIVE!PATH. The package's copyright file comes too.
    Raises CorpusError for a package that ends early.
    """
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for entry in tar:
                    name = entry.name.removeprefix("./")
                    suffix = PurePosixPath(name).suffix.lower()
                    content = tar.extractfile(entry) if entry.isfile() else None
                    if content is None:
                        continue
                    if suffix in suffixes or fnmatch.fnmatch(name, "usr/share/doc/*/copyright"):
                        yield name, content.read()
                    elif suffix in ARCHIVES:
                        with tempfile.TemporaryFile() as scratch:
                            shutil.copyfileobj(content, scratch)
                            yield from _zip_members(scratch, name, suffixes)
        except tarfile.TarError as error:
            raise CorpusError(
                f"{deb} cannot be unpacked ({error}): remove it and run again"
            ) from None
        finally:
            process.stdout.close()
            process.wait()


def _zip_members(file, name: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(file) as archive:
            for inner in archive.namelist():
                if PurePosixPath(inner).suffix.lower() in suffixes:
                    yield f"{name}!{inner}", archive.read(inner)
    except zipfile.BadZipFile:
        return  # a few packages use the suffix for something else


class Copyright:
    """The machine-readable paragraphs of a Debian copyright file (DEP-5), if it has any.

    Its patterns name paths of the source package; installed paths differ in their first
    directories. So a pattern is compared by its end: the more directories agree, the better.

    Own parsing, because many files are not well formed: of the 826 on one Debian system,
    python-debian's Deb822 loses every paragraph of 26, some of which have dozens.
    """

    def __init__(self, text: str):
        """Read the `Files:` paragraphs of `text`; there are none in a free-form file."""
        self.paragraphs: list[tuple[list[str], list[str], str]] = []  # patterns, holders, licence
        for block in re.split(r"\n\s*\n", text):
            fields = _fields(block)
            licence = fields.get("license", "").split("\n")[0].strip()
            if fields.get("files") and licence:
                holders = [_holder(line) for line in fields.get("copyright", "").splitlines()]
                patterns = re.split(r"[\s,]+", fields["files"].strip())
                self.paragraphs.append((patterns, [h for h in holders if h], licence))

    def rights(self, path: str) -> Rights | None:
        """The rights in an installed path, or None where no paragraph applies."""
        best: tuple[float, Rights] | None = None
        parts = PurePosixPath(path.replace("!", "/")).parts
        # usr/share/games/NAME/ and usr/share/NAME/ are the package's own, not the source's
        skip = 4 if parts[:3] == ("usr", "share", "games") else 3 if parts[0] == "usr" else 0
        parts = parts[min(skip, len(parts) - 1) :]
        for patterns, holders, licence in self.paragraphs:
            for pattern in patterns:
                score = _match_score(pattern, parts)
                # of two that match equally, the later paragraph wins: DEP-5's own rule
                if score is not None and (best is None or score >= best[0]):
                    best = score, Rights(licence, holders, pattern)
        return best[1] if best else None


def _match_score(pattern: str, parts: tuple[str, ...]) -> float | None:
    """How many trailing components of `pattern` describe the path; None: it does not.

    `*` scores least, then the whole data folder (which is often not installed as a folder), then
    a suffix such as `*.ogg`.
    """
    components = PurePosixPath(pattern).parts
    if pattern == "*":
        return 0.0
    if (
        len(components) == 2
        and components[0].lower() in ("data", "assets")
        and components[1] == "*"
    ):
        return 0.25
    if re.fullmatch(r"\*\.\w+", pattern):
        return 0.5 if fnmatch.fnmatchcase(parts[-1], pattern) else None
    if components[0] == "debian":
        return None
    for skip in range(len(components)):
        tail = components[skip:]
        if (
            len(tail) == 1
        ):  # a file name alone counts only if it is more specific than `*` or `*.ogg`
            named = re.search(r"\w{2}", tail[0].rsplit(".", 1)[0])
            return 1.0 if named and fnmatch.fnmatchcase(parts[-1], tail[0]) else None
        if any(fnmatch.fnmatchcase("/".join(parts[i:]), "/".join(tail)) for i in range(len(parts))):
            return float(len(tail))
    return None


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in block.splitlines():
        match = re.match(r"([A-Za-z][\w-]*):\s*(.*)", line)
        if match:
            key = match[1].lower()
            fields[key] = match[2]
        elif key and line[:1] in " \t":
            fields[key] += "\n" + line.strip()
    return fields


def _holder(line: str) -> str:
    """The name in a line of a Copyright field, without years, addresses and signs."""
    line = re.sub(r"<[^>]*>|\([^)]*@[^)]*\)|\(c\)|©|https?://\S+|[Cc]opyright", " ", line)
    line = re.sub(r"\b(19|20)\d\d\b(\s*[-–,]\s*(?=\d))?", " ", line)
    line = re.sub(r"\((www|found)[^)]*\)", " ", line)
    return re.sub(r"\s+", " ", line).strip(" ,;:.-–")
