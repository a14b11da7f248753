"""Who gets in: proxies, invite codes, HEAD, ended sessions; what the headers of clips betray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from survey.cli import main
from survey.clips import ClipError, ClipLibrary
from survey.config import SurveyConfig, SurveyError, check, load_config
from survey.database.schema import migrate, open_database, rounds, triplets
from survey.database.store import Store
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.site import Survey

from .conftest import CONFIG
from .test_app import LISTENED_S, Person, app, make

__all__ = ["app", "make"]  # fixtures


# -- proxies


def behind(make: Callable[..., Any], hops: int) -> Any:
    """The application behind `hops` proxies, with five requests a minute for each address."""
    return make(replace(CONFIG, proxy_hops=hops, limits=replace(CONFIG.limits, per_address=5)))


@pytest.mark.parametrize("hops", [1, 2])
def test_entries_before_the_proxies_own_change_nothing(make: Callable[..., Any], hops: int) -> None:
    """The visitor makes up a new address each time; the proxies append what they see."""
    site = behind(make, hops)
    appended = ["203.0.113.9", "10.0.0.2"][:hops]
    found = []
    for n in range(8):
        chain = ", ".join([f"198.51.100.{n}", f"192.0.2.{n}", *appended])
        reply = Person(site).http.get("/", headers={"X-Forwarded-For": chain})
        found.append(reply.status_code)
    assert found == [200] * 5 + [429] * 3
    other = ", ".join(["198.51.100.1", "203.0.113.10", "10.0.0.2"][: hops + 1])
    assert Person(site).http.get("/", headers={"X-Forwarded-For": other}).status_code == 200


def test_several_headers_are_one_chain(make: Callable[..., Any]) -> None:
    site = behind(make, 1)
    found = [
        Person(site)
        .http.get(
            "/",
            headers=[("X-Forwarded-For", f"198.51.100.{n}"), ("X-Forwarded-For", "203.0.113.9")],
        )
        .status_code
        for n in range(8)
    ]
    assert found == [200] * 5 + [429] * 3


def test_too_short_a_chain_is_not_believed(make: Callable[..., Any]) -> None:
    """With fewer entries than proxies, the request did not come through them."""
    site = behind(make, 2)
    found = [
        Person(site).http.get("/", headers={"X-Forwarded-For": f"198.51.100.{n}"}).status_code
        for n in range(8)
    ]
    assert found == [200] * 5 + [429] * 3  # all count for the peer, 10.0.0.1


def test_without_proxies_no_forwarded_address_is_believed(make: Callable[..., Any]) -> None:
    site = behind(make, 0)
    found = [
        Person(site).http.get("/", headers={"X-Forwarded-For": f"198.51.100.{n}"}).status_code
        for n in range(8)
    ]
    assert found == [200] * 5 + [429] * 3


def test_the_forwarded_scheme_is_that_of_the_proxy(make: Callable[..., Any]) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    poster = Person(behind(make, 1)).http.get("/poster", headers=headers).text
    assert '<p class="address">https://testserver</p>' in poster
    poster = Person(behind(make, 0)).http.get("/poster", headers=headers).text
    assert '<p class="address">http://testserver</p>' in poster


@pytest.mark.parametrize("proxy", ["*", "127.0.0.1,*", " * "])
def test_a_star_for_every_proxy_is_refused(proxy: str) -> None:
    with pytest.raises(SurveyError, match=r"trusted_proxy must name addresses.*proxy_hops"):
        check(SurveyConfig(trusted_proxy=proxy))


def test_a_star_in_a_file_counts_as_one_proxy_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier documents advised it for a Hugging Face Space, which has one proxy."""
    file = tmp_path / "survey.yaml"
    file.write_text('trusted_proxy: "*"\n')
    config = load_config(file)
    assert (config.trusted_proxy, config.proxy_hops) == ("", 1)
    assert "'*' is not used" in capsys.readouterr().err
    file.write_text('trusted_proxy: "*"\nproxy_hops: 2\n')
    with pytest.raises(SurveyError, match="trusted_proxy must name addresses"):
        load_config(file)


# -- invite codes


def test_only_who_knows_an_invite_code_may_begin(make: Callable[..., Any], lite: Store) -> None:
    site = make(replace(CONFIG, invite_codes={"choir-2026": "choir", "open day": "guests"}))
    person = Person(site)
    assert 'name="invite" value="choir-2026"' in person.text("/?invite=choir-2026")
    assert 'name="invite" value="&lt;b&gt;"' in person.text("/?invite=<b>")
    for wrong in ("", "choir", "CHOIR-2026", "x" * 40):
        reply = person.start(invite=wrong)
        assert reply.status_code == 403, wrong
        assert "this invite code is not known" in reply.text
    assert person.http.get("/round").headers["location"] == "/"
    assert lite.people() == []
    assert person.start(invite=" choir-2026 ").status_code == 303
    assert Person(site).start(invite="open day").status_code == 303
    assert [p.group for p in lite.people()] == ["choir", "guests"]


def test_guesses_of_invite_codes_are_limited(make: Callable[..., Any]) -> None:
    limits = replace(CONFIG.limits, new_raters_per_address=4)
    site = make(replace(CONFIG, invite_codes={"choir-2026": "choir"}, limits=limits))
    found = [Person(site).start(invite=f"guess-{n}").status_code for n in range(6)]
    assert found == [403] * 4 + [429] * 2


def test_without_codes_none_is_asked(app: Any, lite: Store) -> None:
    assert 'name="invite"' not in Person(app).text("/")
    assert Person(app).start(invite="anything").status_code == 303
    assert [p.group for p in lite.people()] == [""]


# -- the owner's buttons and commands


def test_a_paused_survey_gives_no_rounds_and_keeps_everything(
    make: Callable[..., Any], lite: Store
) -> None:
    site = make(owner_token="a-long-owner-token")
    person, owner = Person(site), Person(site)
    person.start()
    person.answer(person.rounds()[0]["token"])
    current = person.rounds()[0]
    owner.http.post("/owner", data={"csrf": owner.csrf("/owner"), "token": "a-long-owner-token"})
    form = {"csrf": owner.csrf("/owner"), "paused": "yes"}
    assert (
        person.http.post("/owner/pause", data=form | {"csrf": person.csrf("/me")}).status_code
        == 403
    )
    assert not lite.paused()
    assert owner.http.post("/owner/pause", data=form).status_code == 303
    assert "The survey is paused" in owner.text("/owner")
    page = person.http.get("/round", headers={"Accept-Language": "de"})
    assert page.status_code == 503 and int(page.headers["retry-after"]) > 0
    assert "Die Umfrage macht gerade Pause" in page.text
    assert person.call("/api/rounds", {}).status_code == 503
    assert "what you answered is stored" in person.call("/api/rounds", {}).json()["error"]
    assert person.answer(current["token"]).status_code == 200  # what was under way is stored
    assert "Your answers" in person.text("/me")
    owner.http.post("/owner/pause", data=form | {"paused": "no"})
    assert person.http.get("/round").status_code == 200


def test_the_commands_pause_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'survey.db'}")
    migrate(engine)
    for command, paused in (("pause", True), ("resume", False)):
        assert main([command, "--data", str(tmp_path)]) == 0
        assert Store(engine, 0.0).paused() == paused
    assert "paused: raters are given no rounds\nresumed" in capsys.readouterr().out
    engine.dispose()


def test_a_rater_is_left_out_by_a_button(make: Callable[..., Any], lite: Store) -> None:
    site = make(owner_token="a-long-owner-token")
    person, owner = Person(site), Person(site)
    person.start()
    person.answer(person.rounds()[0]["token"])
    (rater,) = (p.name for p in lite.people())
    owner.http.post("/owner", data={"csrf": owner.csrf("/owner"), "token": "a-long-owner-token"})
    assert "<dt>Answers</dt>\n<dd><strong>1</strong>" in owner.text("/owner")
    form = {"csrf": owner.csrf("/owner"), "rater": rater, "excluded": "yes"}
    stranger = form | {"csrf": person.csrf("/me")}
    assert person.http.post("/owner/exclude", data=stranger).status_code == 403
    assert owner.http.post("/owner/exclude", data=form | {"rater": "nobody"}).status_code == 404
    assert owner.http.post("/owner/exclude", data=form).status_code == 303
    page = owner.text("/owner")  # at once, and not when the figures are a minute old
    assert "<dt>Answers</dt>\n<dd><strong>0</strong>" in page and "no: include" in page
    assert person.http.get("/round").status_code == 200  # the rater does not notice
    owner.http.post("/owner/exclude", data=form | {"excluded": "no"})
    assert "<dt>Answers</dt>\n<dd><strong>1</strong>" in owner.text("/owner")


# -- HEAD


def test_head_is_get_without_its_body(make: Callable[..., Any]) -> None:
    site = make(owner_token="a-long-owner-token")
    person = Person(site)
    person.start()
    paths = ["/", "/round", "/me", "/me.json", "/credits", "/check", "/poster", "/qr.svg", "/owner",
             "/healthz", "/static/style.css", "/nowhere", "/practice/0.ogg"]  # fmt: skip
    for path in paths:
        head, get = person.http.head(path), person.http.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        for name in ("content-type", "content-security-policy", "cache-control"):
            assert head.headers.get(name) == get.headers.get(name), (path, name)
    assert int(person.http.head("/").headers["content-length"]) > 1000
    assert person.http.head("/start").status_code == 405  # what GET says of a form's address


def test_head_of_a_clip_does_not_count_as_listening(make: Callable[..., Any], lite: Store) -> None:
    person = Person(make())
    person.start()
    clips = person.rounds()[0]["clips"]

    def fetched() -> int:
        with lite.read() as db:
            return int(db.execute(sa.select(rounds.c.fetched).order_by(rounds.c.id)).scalar() or 0)

    for place in range(3):
        reply = person.http.head(f"{clips[place]}.ogg")
        assert (reply.status_code, reply.content) == (200, b"")
        assert int(reply.headers["content-length"]) > 10_000
    assert fetched() == 0
    for place in range(3):
        person.http.get(f"{clips[place]}.m4a")
    assert fetched() == 0b111


# -- the owner's secret, and sessions that ended


def test_a_short_owner_secret_is_refused(
    library: ClipLibrary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "clips-15s-16lufs-50gold").symlink_to(library.folder)
    monkeypatch.setenv("FEELPRINT_SURVEY_OWNER", "hunter2")
    assert main(["serve", "--data", str(tmp_path), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "FEELPRINT_SURVEY_OWNER has 7 characters, and needs 16 or more" in said
    assert "hunter2" not in said


def test_after_forget_me_the_old_cookie_opens_nothing(app: Any) -> None:
    person = Person(app)
    person.start()
    first = person.rounds()[0]
    csrf = person.csrf("/me")
    old = person.http.cookies["survey"]
    person.http.post("/leave", data={"csrf": csrf})
    ghost = Person(app)
    ghost.http.cookies.set("survey", old, domain="testserver.local", path="/")
    for path in ("/round", "/me", "/sets/1"):
        assert ghost.http.get(path).headers["location"] == "/", path
    assert ghost.http.get("/me.json").status_code == 401
    assert ghost.http.get(f"{first['clips'][0]}.ogg").status_code == 401
    assert ghost.http.get("/practice/0.ogg").status_code == 401
    body = {"round": first["token"], "place": 0, "listened_s": LISTENED_S}
    assert ghost.http.post("/api/answer", json=body, headers={"X-CSRF": csrf}).status_code == 401
    form = {"csrf": csrf, "sure": "yes"}
    assert ghost.http.post("/me/delete", data=form).status_code == 401


# -- clips


DISTINCT = {"content-length"}  # of the file itself, as its bytes are


def clip_headers(person: Person, path: str) -> dict[str, str]:
    reply = person.http.get(path)
    assert reply.status_code == 200
    return {k: v for k, v in reply.headers.items() if k not in DISTINCT}


def test_headers_of_a_clip_are_those_of_every_other(
    app: Any, library: ClipLibrary, lite: Store
) -> None:
    """A gold round, its second excerpt, a repeat and the practice round look as every other."""
    person = Person(app)
    person.start()
    seen: dict[str, list[dict[str, str]]] = {"practice": []}
    for place in range(3):
        seen["practice"].append(clip_headers(person, f"/practice/{place}.ogg"))
    for _ in range(25):
        found = person.rounds()
        if not found:
            break
        with lite.read() as db:
            query = sa.select(rounds.c.kind).where(rounds.c.token == found[0]["token"])
            kind = db.execute(query).scalar_one()
        for clip in found[0]["clips"]:
            part = person.http.get(f"{clip}.m4a", headers={"Range": "bytes=0-9"})
            assert part.status_code == 206 and not {"etag", "last-modified"} & part.headers.keys()
            seen.setdefault(kind, []).append(clip_headers(person, f"{clip}.ogg"))
        person.answer(found[0]["token"])
    assert {"practice", "gold", "repeat"} < seen.keys()
    every = [headers for of_kind in seen.values() for headers in of_kind]
    assert all(headers == every[0] for headers in every)
    assert not {"etag", "last-modified", "content-disposition"} & every[0].keys()


def test_a_clip_that_cannot_be_cut_names_neither_its_track_nor_gold(
    lite: Store, library: ClipLibrary
) -> None:
    track = library.two_excerpt_tracks[0]

    def refuse(_: str) -> None:
        raise ClipError(f"the track {track} has no second excerpt: its end is silent")

    broken = ClipLibrary(library.folder, cut=refuse)
    broken.folder = library.folder / "nowhere"
    site = create_app(Survey(CONFIG, lite, broken, Assigner(lite, broken, CONFIG, seed=0)))
    person = Person(site)
    person.start()
    reply = person.http.get(f"{person.rounds()[0]['clips'][0]}.ogg")
    assert reply.status_code == 404
    assert reply.json() == {"error": "there is no such clip"}
    with lite.read() as db:  # its round is dropped, and is asked of nobody else
        assert db.execute(sa.select(sa.func.count()).where(triplets.c.quota == 0)).scalar()


def test_a_conditional_request_gets_the_whole_clip(app: Any) -> None:
    """A 304 would tell that the file has not changed since another round."""
    person = Person(app)
    person.start()
    clip = f"{person.rounds()[0]['clips'][0]}.ogg"
    whole = person.http.get(clip).content
    for header in ({"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, {"If-None-Match": "*"}):
        reply = person.http.get(clip, headers=header)
        assert (reply.status_code, reply.content) == (200, whole)
