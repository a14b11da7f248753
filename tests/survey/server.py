"""The real server in its own process, for the tests with a browser and with SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER_TOKEN = "the-owner-of-these-tests"


class Server:
    """`feelprint-survey serve` on a free port; `url` is where it listens."""

    def __init__(self, *options: str) -> None:
        self._command = [sys.executable, "-m", "survey.cli", "serve", *options]
        self.port = 0
        self.start()

    def start(self) -> None:
        """Starts it, on the same port as before if there was one."""
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"FEELPRINT_SURVEY_OWNER": OWNER_TOKEN, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if " on http://" in line:
                self.url = line.split(" on ")[1].strip()
                self.port = int(self.url.rsplit(":", 1)[1])
                return
        raise AssertionError(f"the server ended with {self._process.wait()}")

    def kill(self) -> None:
        """Ends it by SIGKILL, without any cleanup."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Ends it by SIGTERM; returns its exit status."""
        self._process.terminate()
        return self._process.wait(timeout=20)


@contextmanager
def served(*options: str) -> Iterator[Server]:
    """A server for the length of a with block."""
    server = Server(*options)
    try:
        yield server
    finally:
        server.kill()
