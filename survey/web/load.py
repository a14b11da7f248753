"""Load test: simultaneous raters, as locust users, against a survey on this machine.

    feelprint-survey config > load.yaml     # then set limits.per_address and
                                            # limits.new_raters_per_address to 1000000
    feelprint-survey --corpus DIR --data DATA --config load.yaml
    locust --locustfile survey/web/load.py --host http://127.0.0.1:8000 --headless \\
        --users 300 --spawn-rate 15 --run-time 2m --reset-stats

Without ``--reset-stats``, the time in which the raters arrive counts too.

A rater listens for 10 to 20 seconds a round, answers, requests the round after the next, and
loads its three clips, as the page does; every tenth round they load the page again, and every
twentieth the page of their own data. All requests go to this machine.
"""

from __future__ import annotations

import re
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.exception import StopUser


@events.test_start.add_listener
def only_this_machine(environment: Any, **_: Any) -> None:
    """Ends the run unless the host is the loopback."""
    if not re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?$", environment.host or ""):
        environment.process_exit_code = 2
        environment.runner.quit()
        raise SystemExit("load.py sends only to http://127.0.0.1:PORT")


class Rater(FastHttpUser):
    """One rater, from the consent on."""

    wait_time = between(10, 20)

    def on_start(self) -> None:
        """Consents, and loads the first round's page and its clips."""
        page = self.client.get("/", name="page: start").text or ""
        form = {"csrf": re.findall(r'name="csrf" value="(\w+)"', page)[0], "consent": "yes"}
        self.client.post("/start", data=form, name="page: consent", allow_redirects=False)
        self.answered = 0
        self.loaded: set[str] = set()
        self.load_page()
        self.rounds = self.look_ahead()
        self.wait()  # listen before the first answer

    def load_page(self) -> None:
        """Loads the round's page, whose CSRF token every call needs."""
        page = self.client.get("/round", name="page: round").text or ""
        found = re.findall(r'data-csrf="(\w+)"', page)
        if not found:
            raise StopUser("this rater has answered every round")
        self.headers = {"X-CSRF": found[0]}

    def look_ahead(self) -> list[dict[str, Any]]:
        """The current and the next round; loads the clips of both that are not loaded yet."""
        reply = self.client.post("/api/rounds", json={}, headers=self.headers, name="next round")
        rounds: list[dict[str, Any]] = reply.json()["rounds"]
        for clip in [c for r in rounds for c in r["clips"] if c not in self.loaded]:
            self.client.get(clip + ".ogg", name="clip")
            self.loaded.add(clip)
        return rounds

    @task
    def answer(self) -> None:
        """Answers the current round, and loads the one after the next."""
        if not self.rounds:
            raise StopUser("this rater has answered every round")
        body = {"round": self.rounds[0]["token"], "place": 1, "listened_s": [4.0, 5.0, 3.5]}
        with self.client.post(
            "/api/answer", json=body, headers=self.headers, name="answer", catch_response=True
        ) as reply:
            if reply.status_code == 200:
                self.answered += 1
                reply.success()
        if self.answered % 10 == 5:
            self.load_page()
        if self.answered % 20 == 10:
            self.client.get("/me", name="page: me")
        self.rounds = self.look_ahead()
