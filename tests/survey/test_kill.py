"""SIGKILL under load, at random times: every acknowledged answer is stored exactly once."""

from __future__ import annotations

import http.client
import json
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from survey.clips import ClipLibrary, folder_name
from survey.config import load_config
from survey.database.schema import answers, open_database, rounds

from .server import Server, served

pytestmark = pytest.mark.slow

CONFIG = """
clip_s: 10.0
gold_tracks: 2
min_listened_s: 0.0
shares: {active: 0.6, random: 0.4, repeat: 0.0, gold: 0.0}
raters_per_triplet: {active: 1000, random: 1000}
limits: {pages_per_rater: 100000, answers_per_rater: 100000, per_address: 1000000,
  new_raters_per_address: 10000, owner_logins: 100}
"""
RATERS = 8
KILLS = 5


class Loader(threading.Thread):
    """A rater who answers without pauses, and sends again what got no reply."""

    def __init__(self, server: Server, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.stop = server, stop
        self.rng = random.Random(seed)
        self.acknowledged: dict[str, int] = {}
        self.cookie = self.csrf = ""
        self.error: BaseException | None = None

    def ask(self, method: str, path: str, body: str | None = None, kind: str = "") -> str:
        """One request, tried until there is a reply."""
        while True:
            headers = {"Cookie": self.cookie, "X-CSRF": self.csrf, "Content-Type": kind}
            try:
                link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
                link.request(method, path, body, headers)
                reply = link.getresponse()
                text = reply.read().decode()
                link.close()
            except (OSError, http.client.HTTPException):
                if self.stop.is_set():
                    raise SystemExit from None
                time.sleep(0.02)
                continue
            assert reply.status in (200, 303), (path, reply.status, text)
            if cookie := reply.getheader("Set-Cookie"):
                self.cookie = cookie.split(";")[0]
            return text

    def run(self) -> None:
        try:
            self.csrf = re.findall(r'value="([0-9a-f]{64})"', self.ask("GET", "/"))[0]
            form = f"csrf={self.csrf}&consent=yes"
            self.ask("POST", "/start", form, "application/x-www-form-urlencoded")
            self.csrf = re.findall(r'data-csrf="([0-9a-f]{64})"', self.ask("GET", "/round"))[0]
            while not self.stop.is_set():
                found = json.loads(self.ask("POST", "/api/rounds", "{}", "application/json"))
                if not found["rounds"]:
                    return
                token = found["rounds"][0]["token"]
                place = self.rng.randrange(3)
                body = json.dumps({"round": token, "place": place, "listened_s": [9.0, 9.0, 9.0]})
                for _ in range(self.rng.randint(1, 2)):  # some answers are sent twice
                    self.ask("POST", "/api/answer", body, "application/json")
                    self.acknowledged[token] = place
        except BaseException as error:
            if not isinstance(error, SystemExit):
                self.error = error


def test_no_acknowledged_answer_is_lost(
    database: str, library: ClipLibrary, tmp_path: Path
) -> None:
    (tmp_path / "survey.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "survey.yaml")
    (tmp_path / folder_name(config)).symlink_to(library.folder)
    options = ["--data", str(tmp_path), "--config", str(tmp_path / "survey.yaml")]
    rng = random.Random(7)
    stop = threading.Event()
    with served(*options, "--database", database) as server:
        loaders = [Loader(server, stop, n) for n in range(RATERS)]
        for loader in loaders:
            loader.start()
        reached = 0
        for _ in range(KILLS):
            reached += rng.randint(8, 22)
            while sum(len(loader.acknowledged) for loader in loaders) < reached:
                assert all(loader.error is None for loader in loaders)
                time.sleep(0.001)
            server.kill()
            server.start()
        stop.set()
        for loader in loaders:
            loader.join(30)
            assert not loader.is_alive()
        assert server.stop() in (0, -signal.SIGTERM)
    for loader in loaders:
        if loader.error is not None:
            raise loader.error
    engine = open_database(database)
    query = sa.select(rounds.c.token, answers.c.place).join_from(rounds, answers)
    with engine.connect() as db:
        found = [(row.token, row.place) for row in db.execute(query)]
        if engine.dialect.name == "sqlite":
            assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    engine.dispose()
    assert max(Counter(token for token, _ in found).values()) == 1
    acknowledged = {t: p for loader in loaders for t, p in loader.acknowledged.items()}
    assert len(acknowledged) >= 8 * KILLS
    assert acknowledged.items() <= dict(found).items()
    # Beyond those, at most one unacknowledged answer for each rater and kill was stored.
    assert len(found) - len(acknowledged) <= RATERS * (KILLS + 1)
