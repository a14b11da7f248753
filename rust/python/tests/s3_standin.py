"""An object store for the tests: `s3://` is a local folder, whose files appear in one step.

It takes the place of s3fs in every process that finds the distribution that `install` writes.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem

ROOT = Path(os.environ.get("S3_STANDIN", "/nowhere"))


def install(folder: Path) -> None:
    """Write a distribution, to be on the path of Python, that gives fsspec this file system."""
    info = folder / "s3_standin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: s3-standin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\ns3 = s3_standin:Store\n")
    shutil.copy(__file__, folder / "s3_standin.py")


class Store(AbstractFileSystem):  # type: ignore[misc]
    """Objects whose names have `poison` kill the process that reads them, and those with `flaky`
    cannot be read the first time."""

    protocol = "s3"
    cachable = False
    read: ClassVar[list[str]] = []

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        file = ROOT / name
        if not file.exists():
            raise FileNotFoundError(name)
        kind = "directory" if file.is_dir() else "file"
        return {"name": name, "type": kind, "size": file.stat().st_size}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        name = self._strip_protocol(path)
        found = self.info(name)
        if found["type"] == "directory":
            names = [f"{name}/{it}" for it in sorted(os.listdir(ROOT / name))]
        else:
            names = [name]
        return [self.info(it) for it in names] if detail else names

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        name = self._strip_protocol(path)
        self.read.append(name)
        if "poison" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        mark = ROOT / f"{name.replace('/', '-')}.mark"
        if "flaky" in name and not mark.exists():
            mark.touch()
            raise ConnectionResetError(f"{name}: connection reset")
        self.info(name)
        return (ROOT / name).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        file = ROOT / self._strip_protocol(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = ROOT / uuid.uuid4().hex
        partial.write_bytes(value)
        try:
            os.link(partial, file) if mode == "create" else os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def rm_file(self, path: str) -> None:
        (ROOT / self._strip_protocol(path)).unlink()

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        assert mode == "rb", mode
        self.info(path)
        return open(ROOT / self._strip_protocol(path), "rb")
