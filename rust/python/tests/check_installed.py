"""Checks the wheel in an environment that has nothing else: its size, its only dependency, the time
of its import, and its command.

    python check_installed.py feelprint-*.whl
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distributions, requires
from pathlib import Path

MAX_BYTES = 15_000_000
MAX_IMPORT_S = 0.1


def main() -> None:
    """Check the wheel whose file is the argument."""
    wheel = Path(sys.argv[1])
    size = wheel.stat().st_size
    assert size < MAX_BYTES, f"{wheel}: {size} bytes, expected less than {MAX_BYTES}"
    installed = {it.metadata["Name"].lower() for it in distributions()}
    assert installed - {"pip", "setuptools"} == {"feelprint", "numpy"}, installed
    needed = [it for it in requires("feelprint") or [] if "extra ==" not in it]
    assert [it.partition(">")[0] for it in needed] == ["numpy"], needed
    code = "from time import perf_counter as t; s = t(); import feelprint; print(t() - s)"
    words = [sys.executable, "-c", code]
    times = [float(subprocess.check_output(words)) for _ in range(5)]
    assert min(times) < MAX_IMPORT_S, f"the import takes {min(times):.3f} s"
    command = shutil.which("feelprint", path=str(Path(sys.executable).parent))
    assert command, "the wheel installs no command feelprint"
    version = subprocess.check_output([command, "--version"], text=True)
    print(f"{wheel.name}: {size / 1e6:.1f} MB, import {1e3 * min(times):.0f} ms, {version}", end="")


if __name__ == "__main__":
    main()
