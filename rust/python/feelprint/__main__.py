"""The command `feelprint`, in this process: `feelprint` or `python -m feelprint`."""

from __future__ import annotations

import signal
import sys

from feelprint import _feelprint


def main() -> int:
    """Run the command with the arguments of this process. Returns its exit status."""
    # Ctrl-C ends the command at once, as that of a program without Python.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _feelprint.main(["feelprint", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
