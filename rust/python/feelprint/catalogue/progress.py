"""How far the work is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress(what: str, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Show on standard error how many of all are done: a bar, or a line now and then."""
    every_s = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(total=total, initial=done, unit=f" {what}", mininterval=every_s) as bar:
        yield bar.update
