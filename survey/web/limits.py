"""Rate limits: token buckets by rater or by address."""

from __future__ import annotations

import ipaddress
import threading
import time

from starlette.types import Scope


class RateLimitExceeded(Exception):
    """Too many requests; the next is allowed after `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many requests; try again in {wait_s:.0f} s")
        self.wait_s = wait_s


class RateLimiter:
    """Token buckets of this process: `per_minute` requests a minute for each key, in any rhythm.

    Full buckets are dropped, so that only the keys of the last minute take memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], tuple[float, float, int]] = {}
        self._swept = time.monotonic()

    def take(self, what: str, key: str, per_minute: int) -> None:
        """Takes a token from the bucket of (what, key); RateLimitExceeded when it is empty."""
        time_s = time.monotonic()
        rate = per_minute / 60
        with self._lock:
            if time_s - self._swept > 60:
                self._swept = time_s
                self._buckets = {
                    k: b for k, b in self._buckets.items() if time_s - b[1] < 60 * (1 - b[0] / b[2])
                }
            level, since, _ = self._buckets.get((what, key), (float(per_minute), time_s, 0))
            level = min(per_minute, level + (time_s - since) * rate)
            if level < 1:
                raise RateLimitExceeded((1 - level) / rate)
            self._buckets[what, key] = (level - 1, time_s, per_minute)


def address_of(scope: Scope) -> str:
    """The peer's address; of an IPv6 address its /64, which belongs to one household or host.

    Behind a trusted proxy, uvicorn has replaced it by the forwarded address.
    """
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
