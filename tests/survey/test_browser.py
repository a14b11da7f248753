"""Whole sessions in Debian's Chromium: by mouse, keyboard and phone, closed and offline."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from survey.cli import main
from survey.clips import ClipLibrary, folder_name
from survey.config import load_config

from .server import OWNER_TOKEN, Server, served

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CONFIG = """
clip_s: 10.0
gold_tracks: 2
min_listened_s: 0.4
repeat_after: 2
goal: 5
raters_per_triplet: {active: 100, random: 100}  # seven songs last for every rater of these tests
limits: {pages_per_rater: 100000, answers_per_rater: 100000, per_address: 1000000,
  new_raters_per_address: 10000, owner_logins: 100}
"""


@pytest.fixture(scope="module")
def data(library: ClipLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the clips, a configuration, and soon a database."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "survey.yaml").write_text(CONFIG)
    (folder / folder_name(load_config(folder / "survey.yaml"))).symlink_to(library.folder)
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    """The survey, served."""
    with served("--data", str(data), "--config", str(data / "survey.yaml")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    assert CHROMIUM.exists(), "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Watched:
    """A page that records every error, and every request to another host."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.page = context.new_page()
        self.base = server.url
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._console)
        context.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error" and "ERR_" not in message.text:
            self.troubles.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.base + "/", "blob:" + self.base)):
            self.troubles.append(f"a request to {request.url}")

    def consent(self) -> None:
        self.page.goto(self.base)
        self.page.get_by_label("You listen with").select_option("headphones")
        self.page.get_by_label("I am 16 or older").check()
        self.page.get_by_role("button", name="Start listening").click()
        self.loaded()
        self.practise()

    def practise(self) -> None:
        """The practice round, and the press that starts the first round."""
        expect(self.page.locator("#progress-text")).to_have_text("Practice round")
        self.listen(0, 1, 2)
        self.page.locator(".choose").nth(0).click()
        with self.page.expect_response("**/api/rounds"):
            self.page.get_by_role("button", name="Start the first round").click()
        self.loaded()

    def practise_in_any_language(self) -> None:
        """The same, by what does not depend on the language."""
        self.loaded()
        for place in range(3):
            self.play(place)
            note = self.page.locator(".listened").nth(place)
            expect(note).to_have_class(re.compile("enough"), timeout=60_000)
        self.page.locator(".choose").nth(0).click()
        with self.page.expect_response("**/api/rounds"):
            self.page.locator("#listen").click()
        self.loaded()

    def loaded(self) -> None:
        """The three clips of the round are in the browser: each has a length to seek in."""
        expect(self.page.locator(".play:enabled")).to_have_count(3, timeout=15_000)
        expect(self.page.locator(".seek:enabled")).to_have_count(3, timeout=15_000)

    def play(self, place: int) -> None:
        """Presses play, unless the clip plays by itself already."""
        if "playing" not in (self.page.locator(".clip").nth(place).get_attribute("class") or ""):
            self.page.locator(".play").nth(place).click()

    def listen(self, *places: int) -> None:
        for place in places:
            self.play(place)
            expect(self.page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)

    def answered(self, count: int) -> None:
        expect(self.page.locator("#progress-text")).to_have_text(
            re.compile(rf"^{count} of \d+ answered$"), timeout=15_000
        )


def new_page(browser: Browser, server: Server, **options: Any) -> Watched:
    return Watched(browser.new_context(**options), server)


def stored(data: Path) -> int:
    """The number of answers in the database, which the server has open."""
    with sqlite3.connect(data / "survey.db") as db:
        return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])


def accessible(page: Page) -> None:
    """axe finds no violation in either colour scheme."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = Axe().run(page)
        assert found.violations_count == 0, f"{page.url}, {scheme}:\n{found.generate_report()}"


def test_a_session_by_mouse(browser: Browser, server: Server, data: Path) -> None:
    before = stored(data)
    me = new_page(browser, server)
    me.consent()
    page = me.page
    choose = page.get_by_role("button", name=re.compile("is the odd one out"))
    # Nothing can be chosen before all three have been heard; the page says which one is missing.
    page.get_by_role("button", name="Stop", exact=True).click()
    page.reload()
    me.loaded()
    choose.nth(0).click(force=True)
    expect(page.locator("#says")).to_contain_text("First listen to clip 1")
    me.listen(0)
    expect(page.locator(".clip").nth(0)).to_have_class(re.compile("playing"))
    page.locator(".play").nth(1).click()  # the second plays, so the first stops
    expect(page.locator(".playing")).to_have_count(1)
    expect(page.locator(".clip").nth(1)).to_have_class(re.compile("playing"))
    expect(page.locator(".listened").nth(1)).to_have_text("heard", timeout=60_000)
    me.listen(2)
    choose.nth(1).click()
    me.answered(1)
    expect(page.locator("#says")).to_contain_text("Stored")
    me.loaded()
    assert stored(data) == before + 1
    for count in (2, 3, 4):
        me.listen(0, 1, 2)
        choose.nth(count % 3).click()
        me.answered(count)
    me.listen(0, 1, 2)
    page.get_by_role("button", name="Can't tell").click()
    me.answered(5)
    expect(page.locator("#thanks")).to_contain_text("That makes 5 answers")
    assert page.locator("#progress").evaluate("bar => [bar.value, bar.max]") == [5, 5]
    # Undo the last answer: its round is open again.
    page.get_by_role("link", name="Next set").click()
    me.answered(5)
    page.get_by_role("button", name="Undo last answer").click()
    me.answered(4)
    assert stored(data) == before + 4
    # Read what is stored, and delete it.
    page.get_by_role("link", name="Your answers").click()
    page.get_by_text("Every answer, newest first").click()
    expect(page.locator("tbody tr")).to_have_count(4)
    page.get_by_label("Yes, delete all my answers").check()
    page.get_by_role("button", name="Delete everything").click()
    expect(page.get_by_role("heading")).to_have_text("Everything is deleted")
    assert stored(data) == before
    assert me.troubles == []


def test_a_session_by_keyboard_alone(browser: Browser, server: Server) -> None:
    me = new_page(browser, server)
    page, press = me.page, me.page.keyboard.press
    page.goto(me.base)
    while page.evaluate("() => document.activeElement.name") != "consent":
        press("Tab")
    press("Space")
    press("Tab")
    press("Enter")
    me.loaded()
    press("Space")  # the first sound needs a key or a click
    for place in range(3):
        if place:
            press(str(place + 1))
        expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
    press("w")
    expect(page.get_by_role("button", name="Start the first round")).to_be_focused()
    press("Enter")
    me.loaded()
    for count, key in enumerate(("q", "w", "e", "r"), start=1):
        for place in range(3):
            if place:  # the first plays by itself
                press(str(place + 1))
            expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
        expect(page.locator(".playing")).to_have_count(1)
        press("Space")
        expect(page.locator(".playing")).to_have_count(0)
        press(key)
        me.answered(count)
        me.loaded()
        # The focus is on the new round's heading, so that a screen reader starts there.
        assert page.evaluate("() => document.activeElement.id") == "heading"
    # On a clip's bar, arrows seek and space still stops.
    expect(page.locator(".playing")).to_have_count(1)
    page.locator(".seek").nth(0).focus()
    press("ArrowRight")
    press("Space")
    expect(page.locator(".playing")).to_have_count(0)
    press("Space")
    expect(page.locator(".playing")).to_have_count(1)
    # By Tab and Enter as well, without the letter keys.
    page.get_by_role("button", name="Keys are on").focus()
    press("Enter")
    press("2")
    expect(page.locator(".clip").nth(1)).not_to_have_class(re.compile("playing"))
    page.get_by_role("button", name="Stop", exact=True).focus()
    press("Enter")
    expect(page.locator(".playing")).to_have_count(0)
    for place in range(3):
        page.locator(".play").nth(place).focus()
        press("Space")
        expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
    press("Tab")  # from the third clip's play button, by the bar to seek in, to its choice
    press("Tab")
    press("Enter")
    me.answered(5)
    assert me.troubles == []


def test_a_session_on_a_phone(browser: Browser, server: Server) -> None:
    me = new_page(
        browser,
        server,
        viewport={"width": 360, "height": 740},
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
    )
    page = me.page
    me.consent()
    for count in (1, 2):
        for place in range(3):
            if place:
                page.locator(".play").nth(place).tap()
            expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
        # All controls of a round fit on the screen, and are large enough for a thumb.
        for control in page.locator(".play, .choose, #cant-tell").all():
            box = control.bounding_box()
            assert box is not None
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 740
            assert min(box["width"], box["height"]) >= 44
        page.locator(".choose").nth(0).tap()
        me.answered(count)
        me.loaded()
    for path in ("/", "/me", "/credits", "/check", "/poster"):
        page.goto(me.base + path)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 360, path
    assert me.troubles == []


def test_the_tab_is_closed_during_a_round(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    me = Watched(context, server)
    me.consent()
    me.listen(0, 1, 2)
    me.page.locator(".choose").nth(2).click()
    me.answered(1)
    me.loaded()
    me.listen(0)
    before = me.page.locator("#round").get_attribute("data-csrf")
    link = me.base
    me.page.close()
    back = Watched(context, server)
    back.page.goto(link)
    back.page.get_by_role("link", name="Go on where you were").click()
    back.loaded()
    back.answered(1)
    assert back.page.locator("#round").get_attribute("data-csrf") == before
    # The interrupted round starts again from zero seconds.
    expect(back.page.locator(".listened")).to_have_text(["not heard yet"] * 3)
    back.listen(0, 1, 2)
    back.page.locator(".choose").nth(0).click()
    back.answered(2)
    # The private link works in a browser without cookies.
    back.page.get_by_role("link", name="Your answers").click()
    private = back.page.get_by_label("Your private link").input_value()
    other = new_page(browser, server)
    other.page.goto(private)
    other.page.get_by_role("button", name="Go on listening").click()
    other.loaded()
    other.answered(2)
    assert me.troubles == back.troubles == other.troubles == []


def test_the_connection_drops(browser: Browser, server: Server, data: Path) -> None:
    context = browser.new_context()
    me = Watched(context, server)
    page = me.page
    me.consent()
    me.listen(0, 1, 2)
    before = stored(data)
    context.set_offline(True)
    page.locator(".choose").nth(1).click()
    expect(page.locator("#says")).to_contain_text("No connection. Your answer is kept here")
    expect(page.locator("#progress-text")).to_have_text(re.compile("^0 of"))  # not shown as stored
    assert stored(data) == before
    context.set_offline(False)
    me.answered(1)
    me.loaded()
    assert stored(data) == before + 1
    # The reply is lost after the server stored the answer; then the tab is closed.
    me.listen(0, 1, 2)

    def lose(route: Any) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route("**/api/answer", lose)
    page.locator(".choose").nth(0).click()
    expect(page.locator("#says")).to_contain_text("No connection.")
    page.close()
    assert stored(data) == before + 2
    back = Watched(context, server)
    back.page.goto(f"{me.base}/round")
    back.answered(2)
    back.loaded()
    assert stored(data) == before + 2  # sent again, stored once
    # The answer that was kept is confirmed, and removed from the browser.
    expect(back.page.locator("#says")).to_contain_text("Stored")
    assert back.page.evaluate("() => localStorage.getItem('feelprint-unsent-answer')") is None
    assert me.troubles == back.troubles == []


def test_an_answer_kept_by_an_earlier_version_of_the_page_is_sent(
    browser: Browser, server: Server, data: Path
) -> None:
    me = new_page(browser, server)
    me.consent()
    before = stored(data)
    me.page.wait_for_timeout(1300)  # the server's own check: three clips of min_listened_s
    me.page.evaluate(
        """() => {
          const round = JSON.parse(document.getElementById("round").dataset.round).token;
          const pending = { round, place: 1, heard_s: [3.5, 4, 5] };
          localStorage.setItem("feelprint-unsent-answer", JSON.stringify(pending));
        }"""
    )
    me.page.reload()
    me.answered(1)
    assert stored(data) == before + 1
    with sqlite3.connect(data / "survey.db") as db:
        newest = "SELECT listened_0_s, listened_1_s, listened_2_s FROM answers ORDER BY id DESC"
        assert db.execute(newest).fetchone() == (3.5, 4, 5)
    assert me.troubles == []


def test_the_next_clips_load_in_advance(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    me = Watched(context, server)
    clips: list[str] = []
    context.on("response", lambda r: clips.append(r.url) if "/clip/" in r.url else None)
    me.consent()
    for _ in range(100):
        if len(clips) >= 6:
            break
        me.page.wait_for_timeout(50)
    assert len(clips) == len(set(clips)) == 6
    me.listen(0, 1, 2)
    me.page.route("**/clip/**", lambda route: route.abort())  # from now on no clip can be loaded
    me.page.locator(".choose").nth(0).click()
    me.answered(1)
    me.loaded()
    me.listen(0, 1, 2)


def test_axe_finds_nothing(browser: Browser, server: Server) -> None:
    me = new_page(browser, server)
    page = me.page
    page.goto(me.base)
    accessible(page)
    page.get_by_label("I am 16 or older").check()
    page.get_by_role("button", name="Start listening").click()
    me.loaded()
    accessible(page)
    me.practise()
    accessible(page)
    me.listen(0, 1)
    accessible(page)
    me.listen(2)
    accessible(page)
    page.locator(".choose").nth(0).click()
    me.answered(1)
    accessible(page)
    for count in range(2, 6):
        me.listen(0, 1, 2)
        page.locator(".choose").nth(0).click()
        me.answered(count)
    accessible(page)  # the end of the set
    shared = page.get_by_label("Link to share").input_value()
    for path in (
        "/me",
        "/credits",
        "/check",
        "/poster",
        shared.removeprefix(me.base),
        "/nowhere",
        "/owner",
    ):
        page.goto(me.base + path)
        if path == "/me":
            page.get_by_text("Every answer, newest first").click()
        accessible(page)
    page.get_by_label("Owner's token").fill(OWNER_TOKEN)
    page.get_by_role("button", name="Show the figures").click()
    expect(page.get_by_role("heading", name="Figures")).to_be_visible()
    accessible(page)


def test_clips_follow_by_themselves_and_an_undo_brings_all_back(
    browser: Browser, server: Server
) -> None:
    me = new_page(browser, server)
    me.consent()
    page = me.page
    heard, cards = page.locator(".listened"), page.locator(".clip")
    # The first round began by the press that ended the practice. A seek shortens each clip.
    for place in range(3):
        expect(cards.nth(place)).to_have_class(re.compile("playing"), timeout=15_000)
        expect(heard.nth(place)).to_have_text("heard", timeout=30_000)
        page.locator(".seek").nth(place).fill("9.5")
    expect(page.locator(".playing")).to_have_count(0, timeout=15_000)
    page.wait_for_timeout(500)
    expect(page.locator(".playing")).to_have_count(0)  # now it waits for the choice
    expect(page.locator("#definition")).to_contain_text("least like the other two")
    page.locator(".choose").nth(1).click()
    me.answered(1)
    expect(cards.nth(0)).to_have_class(re.compile("playing"), timeout=15_000)
    page.keyboard.press("u")
    expect(page.locator("#says")).to_contain_text("You had chosen clip 2")
    expect(cards.nth(1)).to_have_class(re.compile("was-chosen"))
    expect(heard).to_have_text(["heard"] * 3)
    page.keyboard.press("e")  # nothing needs to be listened to again
    me.answered(1)
    # Switched off, clips wait for a press.
    page.get_by_role("button", name="Clips follow by themselves").click()
    me.listen(0, 1, 2)
    page.keyboard.press("r")
    me.answered(2)
    page.wait_for_timeout(500)
    expect(page.locator(".playing")).to_have_count(0)
    assert me.troubles == []


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_practice_gives_feedback_and_stores_nothing(
    browser: Browser, server: Server, data: Path, choice: int
) -> None:
    me = new_page(browser, server)
    page = me.page
    page.goto(me.base)
    page.get_by_label("I am 16 or older").check()
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_role("heading")).to_have_text("Practice: which is the odd one out?")
    before = stored(data)
    odd = page.evaluate("() => JSON.parse(document.getElementById('round').dataset.practice).odd")
    me.listen(0, 1, 2)
    page.locator(".choose").nth(choice).click()
    expected = "Yes: the other two" if choice == odd else f"Here it was clip {odd + 1}"
    expect(page.locator("#says")).to_contain_text(expected)
    page.get_by_role("button", name="Start the first round").click()
    expect(page.get_by_role("heading")).to_have_text("Which is the odd one out?")
    me.answered(0)
    assert stored(data) == before
    page.reload()  # once is enough
    me.loaded()
    expect(page.get_by_role("heading")).to_have_text("Which is the odd one out?")
    assert me.troubles == []


def test_a_set_ends_with_a_break_and_a_link_to_share(browser: Browser, server: Server) -> None:
    me = new_page(browser, server)
    me.consent()
    page = me.page
    for count in range(1, 6):
        me.listen(0, 1, 2)
        page.locator(".choose").nth(2).click()
        me.answered(count)
    expect(page.get_by_role("heading", level=1)).to_have_text("Set 1 is done")
    assert page.url == f"{me.base}/sets/1"
    expect(page.locator("#agreement")).to_contain_text(re.compile("Others|Nobody else"))
    songs = page.locator(".heard-songs > li")
    expect(songs).to_have_count(5)
    expect(songs.first).to_contain_text(re.compile(r"Song \d.*Artist \d.*CC0-1.0", re.DOTALL))
    expect(page.locator(".heard-songs .odd")).to_have_count(5)
    shared = page.get_by_label("Link to share").input_value()
    friend = new_page(browser, server)
    friend.page.goto(shared)
    preview = friend.page.locator("meta[property^='og:']")
    found = {p.get_attribute("property"): p.get_attribute("content") for p in preview.all()}
    assert found["og:title"] == "Which song is the odd one out?"
    assert found["og:url"] == shared
    assert friend.page.request.get(str(found["og:image"])).headers["content-type"] == "image/png"
    expect(friend.page.locator("#story")).to_have_text(str(found["og:description"]))
    friend.page.get_by_role("link", name="Listen and choose").click()
    expect(friend.page.get_by_role("button", name="Start listening")).to_be_visible()
    page.get_by_role("link", name="Next set").click()
    me.loaded()
    me.answered(5)
    assert me.troubles == friend.troubles == []


def test_pages_speak_the_browsers_language(browser: Browser, server: Server) -> None:
    for locale, start, question in (
        ("de-AT", "Los geht’s", "Welcher Song passt nicht dazu?"),
        ("ja", "聴いてみる", "仲間はずれはどれ？"),
    ):
        me = new_page(browser, server, locale=locale)
        page = me.page
        page.goto(me.base)
        assert page.locator("html").get_attribute("lang") == locale.split("-")[0]
        page.locator("input[name=consent]").check()
        page.get_by_role("button", name=start).click()
        me.practise_in_any_language()
        expect(page.get_by_role("heading")).to_have_text(question)
        accessible(page)
        assert me.troubles == []


@pytest.mark.parametrize("locale", ["en", "de", "fr", "es", "ja"])
def test_a_phone_on_its_side_shows_every_button(
    browser: Browser, server: Server, locale: str
) -> None:
    me = new_page(
        browser,
        server,
        viewport={"width": 740, "height": 360},
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
        locale=locale,
    )
    page = me.page
    page.goto(me.base)
    page.locator("input[name=consent]").check()
    page.locator("form button").click()
    me.practise_in_any_language()
    # Without the browser's own bars, and with them on phones of several sizes.
    for width, height in ((740, 360), (844, 340), (667, 331), (568, 320), (740, 304), (640, 300)):
        page.set_viewport_size({"width": width, "height": height})
        for control in page.locator(".play, .choose, #cant-tell, #undo, #listen").all():
            box = control.bounding_box()
            assert box is not None
            where = f"{control} in {width} x {height}: {box}"
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, where
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, where
            assert min(box["width"], box["height"]) >= 44, where
        for shown in ("#heading", "#definition", "#progress-text"):
            assert page.locator(shown).bounding_box()["height"] > 10, shown  # type: ignore[index]
    assert me.troubles == []


def test_an_answer_that_is_refused_is_not_dropped_without_a_word(
    browser: Browser, server: Server, data: Path
) -> None:
    context = browser.new_context()
    me = Watched(context, server)
    me.consent()
    other = Watched(context, server)
    other.page.goto(f"{me.base}/round")
    other.loaded()
    me.listen(0, 1, 2)
    me.page.locator(".choose").nth(0).click()
    me.answered(1)
    before = stored(data)
    other.listen(0, 1, 2)
    other.page.locator(".choose").nth(1).click()  # the same round, answered differently
    expect(other.page.locator("#says")).to_contain_text("Your last answer was not stored")
    other.answered(1)
    other.loaded()
    assert stored(data) == before
    # Signed out meanwhile: the start page says that an answer waits, and it is sent afterwards.
    other.page.goto(f"{me.base}/me")
    private = other.page.get_by_label("Your private link").input_value()
    me.page.reload()
    me.loaded()
    me.listen(0, 1, 2)
    other.page.get_by_role("button", name="Forget me here").click()
    me.page.locator(".choose").nth(0).click()
    expect(me.page.locator("#kept")).to_be_visible()
    assert stored(data) == before
    me.page.goto(private)
    me.page.get_by_role("button", name="Go on listening").click()
    me.answered(2)
    expect(me.page.locator("#says")).to_contain_text("Stored: 2 answered.")
    assert stored(data) == before + 1


def test_a_pause_during_a_session_is_said(browser: Browser, server: Server, data: Path) -> None:
    me = new_page(browser, server)
    me.consent()
    before = stored(data)
    assert main(["pause", "--data", str(data)]) == 0
    try:
        for _ in range(2):  # the rounds that were given already
            me.listen(0, 1, 2)
            me.page.locator(".choose").nth(0).click()
            me.page.wait_for_timeout(200)
        expect(me.page.get_by_role("heading")).to_have_text("That did not work", timeout=15_000)
        expect(me.page.locator(".lead")).to_contain_text("the survey is paused")
        assert stored(data) == before + 2
    finally:
        assert main(["resume", "--data", str(data)]) == 0
    me.page.goto(f"{me.base}/round")
    me.answered(2)


def test_an_answer_that_another_tab_sent_meanwhile_does_not_stop_the_page(
    browser: Browser, server: Server
) -> None:
    me = new_page(browser, server)
    me.consent()
    me.page.add_init_script(  # the page finds its key, and then no value any more
        """const keys = Object.keys;
        Object.keys = (of) => {
          if (of !== localStorage || sessionStorage.getItem("once")) return keys(of);
          sessionStorage.setItem("once", "1");
          return ["feelprint-unsent-answer x"];
        };"""
    )
    me.page.reload()
    me.loaded()
    me.answered(0)
    expect(me.page.locator("#says")).to_have_text("")
    assert me.troubles == []


def test_music_starts_within_two_seconds_on_a_slow_line(browser: Browser, server: Server) -> None:
    """At 400 kbit/s, with 100 ms to the server, and nothing loaded in advance."""
    me = new_page(browser, server)
    me.consent()
    page = me.page
    line = page.context.new_cdp_session(page)
    slow = {
        "offline": False,
        "latency": 100,
        "downloadThroughput": 50_000,
        "uploadThroughput": 50_000,
    }
    line.send("Network.enable")
    line.send("Network.setCacheDisabled", {"cacheDisabled": True})
    line.send("Network.emulateNetworkConditions", slow)
    page.reload()
    for place in (0, 2):  # the first, and one that is last in the queue
        started = page.evaluate(
            """async (place) => {
              const bar = document.querySelectorAll(".seek")[place];
              const from = performance.now();
              document.querySelectorAll(".play")[place].click();
              while (Number(bar.value) === 0 && performance.now() - from < 20000)
                await new Promise((resolve) => setTimeout(resolve, 20));
              return (performance.now() - from) / 1000;
            }""",
            place,
        )
        print(f"clip {place + 1} plays after {started:.2f} s")
        assert started < 2, place
    assert me.troubles == []


def test_the_page_says_that_loading_takes_long(browser: Browser, server: Server) -> None:
    me = new_page(browser, server)
    me.consent()
    page = me.page
    page.route("**/clip/**", lambda route: page.wait_for_timeout(4000) or route.continue_())
    page.reload()
    page.locator(".play").nth(0).click()
    expect(page.locator("#says")).to_contain_text("takes longer than usual", timeout=4000)


def with_full_storage(browser: Browser, server: Server) -> Watched:
    """A rater whose browser can keep nothing."""
    context = browser.new_context()
    context.add_init_script(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
    )
    me = Watched(context, server)
    me.consent()
    return me


def test_a_refusal_that_cannot_be_kept_over_a_reload_is_said_before_it(
    browser: Browser, server: Server
) -> None:
    me = with_full_storage(browser, server)
    me.listen(0, 1, 2)
    me.page.route(
        "**/api/answer", lambda route: route.fulfill(status=404, body='{"error": "gone"}')
    )
    me.page.locator(".choose").nth(0).click()
    expect(me.page.locator("#says")).to_contain_text("Your last answer was not stored")
    me.page.wait_for_timeout(1000)
    expect(me.page.locator("#says")).to_contain_text("Your last answer was not stored")


def test_without_its_clips_the_practice_is_skipped(browser: Browser, server: Server) -> None:
    me = new_page(browser, server)
    page = me.page
    page.route("**/practice/**", lambda route: route.fulfill(status=404, body="{}"))
    page.goto(me.base)
    page.get_by_label("I am 16 or older").check()
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_role("heading")).to_have_text("Which is the odd one out?")
    me.loaded()
    me.answered(0)


def test_a_browser_that_keeps_nothing_says_so(browser: Browser, server: Server, data: Path) -> None:
    me = with_full_storage(browser, server)
    me.listen(0, 1, 2)
    before = stored(data)
    me.page.context.set_offline(True)
    me.page.locator(".choose").nth(1).click()
    expect(me.page.locator("#says")).to_contain_text("leave this page open")
    me.page.context.set_offline(False)
    me.answered(1)
    assert stored(data) == before + 1
    assert me.troubles == []
