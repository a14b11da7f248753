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

    def loaded(self) -> None:
        expect(self.page.locator(".play:enabled")).to_have_count(3, timeout=15_000)

    def listen(self, *places: int) -> None:
        for place in places:
            self.page.locator(".play").nth(place).click()
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
    expect(page.locator("#says")).to_contain_text("That makes 5 answers")
    assert page.locator("#progress").evaluate("bar => [bar.value, bar.max]") == [5, 5]
    # Undo the last answer: its round is open again.
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
    for count, key in enumerate(("q", "w", "e", "r"), start=1):
        for place in range(3):
            # a clip that has not loaded cannot be played
            expect(page.locator(".listened").nth(place)).not_to_have_text("loading", timeout=60_000)
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
    # By Tab and Enter as well, without the letter keys.
    page.get_by_role("button", name="Keys are on").focus()
    press("Enter")
    press("1")
    expect(page.locator(".playing")).to_have_count(0)
    for place in range(3):
        page.locator(".play").nth(place).focus()
        press("Space")
        expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
    press("Tab")  # from the third clip's play button to its choice
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
    for path in ("/", "/me", "/credits"):
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
    me.consent()
    accessible(page)
    me.listen(0, 1)
    accessible(page)
    me.listen(2)
    accessible(page)
    page.locator(".choose").nth(0).click()
    me.answered(1)
    accessible(page)
    for path in ("/me", "/credits", "/nowhere", "/owner"):
        page.goto(me.base + path)
        if path == "/me":
            page.get_by_text("Every answer, newest first").click()
        accessible(page)
    page.get_by_label("Owner's token").fill(OWNER_TOKEN)
    page.get_by_role("button", name="Show the figures").click()
    expect(page.get_by_role("heading", name="Figures")).to_be_visible()
    accessible(page)
