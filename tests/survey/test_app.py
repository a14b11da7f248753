"""The pages: consent, rounds, undo, the rater's data, access control and rate limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from survey.clips import ClipLibrary
from survey.config import Limits, SurveyConfig
from survey.database.schema import answers, raters, rounds
from survey.database.store import Store
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.site import Survey

from .conftest import CONFIG

LISTENED_S = [4.0, 4.0, 4.0]


class Person:
    """A browser without JavaScript: cookies, forms, and the calls that the page makes."""

    def __init__(self, app: Any, base: str = "http://testserver", address: str = "10.0.0.1"):
        self.http = TestClient(app, base_url=base, client=(address, 5000), follow_redirects=False)

    def csrf(self, path: str = "/") -> str:
        found = re.search(r'(?:name="csrf" value|data-csrf)="([0-9a-f]{64})"', self.text(path))
        assert found, path
        return found[1]

    def text(self, path: str) -> str:
        return self.http.get(path, follow_redirects=True).text

    def start(self, **fields: str) -> Any:
        data = {"csrf": self.csrf(), "consent": "yes", **fields}
        return self.http.post("/start", data=data)

    def call(self, path: str, body: Any) -> Any:
        return self.http.post(path, json=body, headers={"X-CSRF": self.csrf("/me")})

    def rounds(self) -> list[dict]:
        return self.call("/api/rounds", {}).json()["rounds"]

    def answer(self, token: str, place: int | None = 0, listened_s: list | None = None) -> Any:
        body = {"round": token, "place": place, "listened_s": listened_s or LISTENED_S}
        return self.call("/api/answer", body)


@pytest.fixture
def make(lite: Store, library: ClipLibrary) -> Callable[..., Any]:
    """Makes the application with a configuration of the test's own."""

    def made(config: SurveyConfig = CONFIG, owner_token: str | None = None) -> Any:
        assigner = Assigner(lite, library, config, seed=0)
        return create_app(Survey(config, lite, library, assigner, owner_token))

    return made


@pytest.fixture
def app(make: Callable[..., Any]) -> Any:
    """The application as most tests need it."""
    return make()


def test_a_whole_visit(app: Any, lite: Store) -> None:
    person = Person(app)
    assert "Start listening" in person.text("/")
    reply = person.start(headphones="headphones", age="25-34", training="some")
    assert (reply.status_code, reply.headers["location"]) == (303, "/round")
    page = person.text("/round")
    assert "Which is the odd one out?" in page
    first, second = person.rounds()
    assert first["token"] in page
    stored = person.answer(first["token"], 1).json()
    assert stored == {"answered": 1, "current": second}
    assert person.answer(first["token"], 1).json() == stored
    me = person.text("/me")
    assert "25-34" in me and "headphones" in me
    data = person.http.get("/me.json").json()
    assert len(data["answers"]) == 1 and data["answers"][0]["place"] == 1
    with lite.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(answers)).scalar() == 1


def test_consent_is_needed(app: Any, lite: Store) -> None:
    person = Person(app)
    data = {"csrf": person.csrf()}
    assert person.http.post("/start", data=data).status_code == 422
    assert person.http.get("/round").headers["location"] == "/"
    assert person.http.get("/me").headers["location"] == "/"
    with lite.read() as db:
        assert db.execute(sa.select(raters)).all() == []


def test_undo_deletes_the_last_answer(app: Any) -> None:
    person = Person(app)
    person.start()
    first, _ = person.rounds()
    person.answer(first["token"])
    form = {"csrf": person.csrf("/round"), "round": first["token"]}
    assert person.http.post("/undo", data=form).status_code == 303
    page = person.text("/round")
    assert 'data-answered="0"' in page and first["token"] not in page
    assert (
        person.http.post("/undo", data=form).status_code == 303
    )  # the second time changes nothing
    assert person.answer(first["token"]).status_code == 404  # and a late copy is refused


def test_private_link_signs_in_on_another_device(app: Any) -> None:
    person = Person(app)
    person.start()
    person.answer(person.rounds()[0]["token"])
    link = re.search(r'value="http://testserver(/back/[^"]+)"', person.text("/me"))
    assert link
    other = Person(app)
    assert "You have given 1 answer so far" in other.text(link[1])
    assert other.http.get("/round").headers["location"] == "/"  # the page alone does not sign in
    reply = other.http.post(link[1], data={"csrf": other.csrf(link[1])})
    assert reply.headers["location"] == "/round"
    assert 'data-answered="1"' in other.text("/round")
    assert Person(app).http.get(link[1][:-3] + "abc").status_code == 404


def test_deleting_removes_the_rater(app: Any, lite: Store) -> None:
    person = Person(app)
    person.start()
    person.answer(person.rounds()[0]["token"])
    link = re.search(r'value="http://testserver(/back/[^"]+)"', person.text("/me"))
    assert link
    form = {"csrf": person.csrf("/me")}
    assert person.http.post("/me/delete", data=form).status_code == 422  # the box must be checked
    reply = person.http.post("/me/delete", data=form | {"sure": "yes"})
    assert "1 answer, and everything else" in reply.text
    for table in (raters, rounds, answers):
        with lite.read() as db:
            assert db.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
    assert person.http.get("/round").headers["location"] == "/"
    assert Person(app).http.get(link[1]).status_code == 404


def test_leaving_keeps_the_rater(app: Any, lite: Store) -> None:
    person = Person(app)
    person.start()
    person.http.post("/leave", data={"csrf": person.csrf("/me")})
    assert person.http.get("/round").headers["location"] == "/"
    with lite.read() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(raters)).scalar() == 1


def test_listening_too_briefly_is_refused(make: Callable[..., Any], lite: Store) -> None:
    lite.min_listened_s = 3.0
    person = Person(make())
    person.start()
    person.text("/round")
    reply = person.answer(person.rounds()[0]["token"], 0, [1.0, 9.0, 9.0])
    assert reply.status_code == 422
    assert reply.json() == {"error": "an answer counts once each clip was heard for 3 seconds"}


def test_when_every_round_was_answered_the_page_says_so(
    make: Callable[..., Any], library: ClipLibrary
) -> None:
    person = Person(make())
    person.start()
    for _ in range(200):
        found = person.rounds()
        if not found:
            break
        person.answer(found[0]["token"])
    assert "You have answered every round" in person.text("/round")
    assert "no round left" in person.text("/round")


# -- clips


def test_only_the_rater_of_a_round_gets_its_clips(app: Any, library: ClipLibrary) -> None:
    person = Person(app)
    person.start()
    clip = person.rounds()[0]["clips"][0]
    for suffix, kind in (("ogg", "audio/ogg"), ("m4a", "audio/mp4")):
        reply = person.http.get(f"{clip}.{suffix}")
        assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
        assert reply.headers["cache-control"] == "private, max-age=3600"
        assert len(reply.content) > 10_000
    part = person.http.get(f"{clip}.m4a", headers={"Range": "bytes=10-19"})  # as Safari requests it
    assert part.status_code == 206 and len(part.content) == 10
    other = Person(app)
    assert other.http.get(f"{clip}.ogg").status_code == 401
    other.start()
    assert other.http.get(f"{clip}.ogg").status_code == 404


def test_no_clip_by_path_or_guess(app: Any, library: ClipLibrary) -> None:
    person = Person(app)
    person.start()
    track = next(iter(library.tracks))
    token = person.rounds()[0]["token"]
    for path in (
        f"/clip/{track}-0.ogg",
        f"/clip/{track}/0.ogg",
        f"/clip/{token}/0.ogg",  # the token of the round, not of its clips
        "/clip/AAAAAAAAAAAAAAAAAAAAAA/0.ogg",
        "/clip/../library.json",
        "/clip/..%2f..%2flibrary.json/0.ogg",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        f"/static/../../clips/{track}-0.ogg",
        "/openapi.json",
        "/docs",
    ):
        assert person.http.get(path).status_code in (404, 422), path


def test_clip_addresses_do_not_name_the_track(app: Any, library: ClipLibrary) -> None:
    person = Person(app)
    person.start()
    page = person.text("/round")
    for track in library.tracks.values():
        assert track.id not in page and track.title not in page
    tokens = {c.split("/")[2] for r in person.rounds() for c in r["clips"]}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", t) for t in tokens)


# -- access control


FORMS = ["/start", "/undo", "/me/delete", "/leave", "/api/answer", "/api/rounds", "/owner",
         "/owner/pause", "/owner/exclude"]  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
def test_no_post_without_its_own_csrf_token(make: Callable[..., Any], path: str) -> None:
    app = make(owner_token="a-long-owner-token")
    person, other = Person(app), Person(app)
    person.start()
    other.start()
    fields = {"consent": "yes", "round": "A" * 22, "sure": "yes", "token": "a-long-owner-token"}
    body = {"round": "A" * 22, "place": 0, "listened_s": LISTENED_S}
    for token in ("", "0" * 64, other.csrf("/me")):
        if path.startswith("/api/"):
            reply = person.http.post(path, json=body, headers={"X-CSRF": token})
        else:
            reply = person.http.post(path, data=fields | {"csrf": token})
        assert reply.status_code == 403, (path, token)
    assert person.http.get("/round").status_code == 200


def test_every_post_is_in_that_list(make: Callable[..., Any]) -> None:
    app = make(owner_token="a-long-owner-token")
    posts = {path for path, calls in app.openapi()["paths"].items() if "post" in calls}
    assert posts == {*FORMS, "/back/{link}"}
    link = "/back/" + "x" * 40
    assert Person(app).http.post(link, data={"csrf": ""}).status_code == 403


def test_forged_cookies_are_refused(app: Any) -> None:
    person = Person(app)
    person.start()
    value = person.http.cookies["survey"]
    head, rest = value.split(".", 1)
    signed_part, signature = value.rsplit(".", 1)
    # change the first character: the last one holds unused bits
    signed = f"{signed_part}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    for forged in (signed, head[:-2] + "fQ." + rest, "x"):
        person.http.cookies.clear()
        person.http.cookies.set("survey", forged, domain="testserver.local", path="/")
        assert person.http.get("/me.json").status_code == 401, forged


def test_a_new_start_changes_the_session(app: Any) -> None:
    """A CSRF token from before signing in is refused after it."""
    person = Person(app)
    before = person.csrf()
    person.start()
    reply = person.http.post("/leave", data={"csrf": before})
    assert reply.status_code == 403


def test_cookie_attributes(make: Callable[..., Any]) -> None:
    plain = Person(make()).http.get("/").headers["set-cookie"].lower()
    assert plain.startswith("survey=")
    assert "httponly" in plain and "samesite=lax" in plain and "secure" not in plain
    secure = make(replace(CONFIG, public_url="https://music.example"), owner_token="t" * 20)
    person = Person(secure, base="https://music.example")
    reply = person.http.get("/")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("__Host-survey=") and "; Secure" in cookie and "Path=/" in cookie
    assert "Domain" not in cookie
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    form = {"csrf": person.csrf("/owner"), "token": "t" * 20}
    owner = person.http.post("/owner", data=form).headers["set-cookie"].lower()
    assert owner.startswith("__host-survey-owner=")
    assert "samesite=strict" in owner and "secure" in owner and "httponly" in owner


def test_strict_policy_everywhere_and_no_foreign_address(make: Callable[..., Any]) -> None:
    app = make(owner_token="a-long-owner-token")
    person = Person(app)
    person.start()
    clip = person.rounds()[0]["clips"][0] + ".ogg"
    paths = ["/", "/round", "/me", "/me.json", "/credits", "/owner", "/nowhere", clip]
    for path in [*paths, "/static/style.css", "/static/round.js", "/static/icon.svg"]:
        reply = person.http.get(path)
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        if path != clip:
            text = reply.text.replace("http://www.w3.org/2000/svg", "")
            text = text.replace("http://testserver", "")
            assert not re.search(r"https?://|\ssrc=\"//", text), path
            assert not re.search(r"<[^>]+\s(style|on\w+)=|<style|<script>", text), path


def test_markup_in_names_is_text(lite: Store, library: ClipLibrary) -> None:
    evil = ClipLibrary(library.folder)
    name = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
    evil.tracks = {i: replace(t, title=name, licence=name) for i, t in evil.tracks.items()}
    app = create_app(Survey(CONFIG, lite, evil, Assigner(lite, evil, CONFIG)))
    person = Person(app)
    person.start()
    person.answer(person.rounds()[0]["token"])
    for path in ("/credits", "/me"):
        text = person.text(path)
        assert "<script>alert" not in text and "<img src=x" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "body",
    [
        {"round": "short", "place": 0, "listened_s": LISTENED_S},
        {"round": "A" * 22, "place": 3, "listened_s": LISTENED_S},
        {"round": "A" * 22, "place": -1, "listened_s": LISTENED_S},
        {"round": "A" * 22, "place": "0", "listened_s": LISTENED_S},
        {"round": "A" * 22, "place": True, "listened_s": LISTENED_S},
        {"round": "A" * 22, "place": 0, "listened_s": [1.0, 2.0]},
        {"round": "A" * 22, "place": 0, "listened_s": [-1.0, 2.0, 3.0]},
        {"round": "A" * 22, "place": 0, "listened_s": [1e300, 2.0, 3.0]},
        {"round": "A" * 22, "place": 0, "listened_s": LISTENED_S, "more": 1},
        {"round": "A" * 21 + "\0", "place": 0, "listened_s": LISTENED_S},
        {"place": 0, "listened_s": LISTENED_S},
        [],
        "x",
    ],
)
def test_wrong_answers_are_refused(app: Any, body: Any) -> None:
    person = Person(app)
    person.start()
    reply = person.call("/api/answer", body)
    assert reply.status_code == 422
    assert set(reply.json()) == {"error"}


def test_a_page_of_the_last_release_may_still_send_its_answer(app: Any) -> None:
    person = Person(app)
    person.start()
    old = {"round": person.rounds()[0]["token"], "place": 1, "heard_s": LISTENED_S}
    assert person.call("/api/answer", old | {"listened_s": LISTENED_S}).status_code == 422
    assert person.call("/api/answer", old | {"heard_s": [4.0, 4.0]}).status_code == 422
    assert person.call("/api/answer", old).json()["answered"] == 1
    given = person.http.get("/me.json").json()["answers"][0]
    assert [given[f"listened_{n}_s"] for n in range(3)] == LISTENED_S


def test_large_and_endless_bodies_are_refused(app: Any) -> None:
    person = Person(app)
    assert person.http.post("/start", content=b"x" * 20_000).status_code == 413
    assert person.http.post("/start", content=iter([b"x"] * 10)).status_code == 411


# -- rate limits


def test_limits_by_address(make: Callable[..., Any]) -> None:
    limits = replace(CONFIG.limits, per_address=20)
    app = make(replace(CONFIG, limits=limits))
    one, two = Person(app, address="10.0.0.1"), Person(app, address="10.0.0.2")
    found = [one.http.get("/credits").status_code for _ in range(25)]
    assert found[:20] == [200] * 20 and set(found[20:]) == {429}
    assert int(one.http.get("/").headers["retry-after"]) >= 1
    assert one.http.get("/healthz").status_code == 200
    assert two.http.get("/").status_code == 200


def test_an_ipv6_prefix_is_one_address(make: Callable[..., Any]) -> None:
    app = make(replace(CONFIG, limits=replace(CONFIG.limits, per_address=5)))
    found = [
        Person(app, address=f"2001:db8:1:2::{n:x}").http.get("/").status_code for n in range(8)
    ]
    assert found == [200] * 5 + [429] * 3
    assert Person(app, address="2001:db8:1:3::1").http.get("/").status_code == 200


def test_limits_by_rater_consents_and_owner(make: Callable[..., Any]) -> None:
    limits = Limits(
        pages_per_rater=1000,
        answers_per_rater=3,
        per_address=1000,
        new_raters_per_address=2,
        owner_logins=2,
    )
    app = make(replace(CONFIG, limits=limits), owner_token="a-long-owner-token")
    person = Person(app)
    person.start()
    token = person.rounds()[0]["token"]
    assert [person.answer(token).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [Person(app).start().status_code for _ in range(2)] == [303, 429]
    form = {"csrf": person.csrf("/owner"), "token": "wrong"}
    assert [person.http.post("/owner", data=form).status_code for _ in range(3)] == [403, 403, 429]
    slow = make(replace(CONFIG, limits=replace(limits, pages_per_rater=4)))
    person = Person(slow, address="10.0.0.9")
    person.start()
    assert 429 in [person.http.get("/me").status_code for _ in range(6)]


# -- the owner's page


def test_no_owner_token_no_owner_page(app: Any) -> None:
    assert Person(app).http.get("/owner").status_code == 404


def test_owner_page_needs_the_owner_token(make: Callable[..., Any]) -> None:
    app = make(owner_token="a-long-owner-token")
    person = Person(app)
    person.start()
    assert "Owner&#39;s token" in person.text("/owner") or "Owner's token" in person.text("/owner")
    wrong = {"csrf": person.csrf("/owner"), "token": "another"}
    assert person.http.post("/owner", data=wrong).status_code == 403
    assert "Repeat consistency" not in person.text("/owner")
    right = wrong | {"token": "a-long-owner-token"}
    assert person.http.post("/owner", data=right).status_code == 303
    assert "Repeat consistency" in person.text("/owner")
    # The same cookie is refused once the owner's token has changed.
    cookie = person.http.cookies["survey-owner"]
    changed = Person(make(owner_token="another-owner-token"))
    changed.http.cookies.set("survey-owner", cookie)
    assert "Repeat consistency" not in changed.text("/owner")


def test_static_files_hold_no_secret(app: Any) -> None:
    folder = Path(__file__).parents[2] / "survey" / "web" / "static"
    assert {p.name for p in folder.iterdir()} == {
        "check.js",
        "icon.svg",
        "kept.js",
        "preview.png",
        "round.js",
        "share.js",
        "style.css",
    }
