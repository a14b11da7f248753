"""The page of the map in Debian's Chromium, by mouse, keyboard and phone, without a network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from distill.reporting.page import map_page
from tests.tones import melody

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")
# WebGL by the processor: the machine of the tests has no graphics card.
FLAGS = ["--no-sandbox", "--no-first-run", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
HOSTILE = '</script><img src=x onerror="window.broken=1"><b>O\'Hara & Söhne'


def group(label: str, of: np.ndarray, names: list[str]) -> dict[str, Any]:
    return {"label": label, "names": names, "of": of.tolist()}


def made_data(folder: Path, count: int) -> dict[str, Any]:
    """The data of a map of ``count`` songs on a spiral, with sound files in ``folder``.

    Ten songs make an album; the nearest of a song are those next to it. Every song links to one of
    two files: relatively, by a name that is not ASCII, and absolutely.
    """
    for name in ("a b#ü.wav", "b.wav"):
        soundfile.write(folder / name, melody(1, 0, 2.0), 22_050)
    index = np.arange(count)
    angle, radius = np.sqrt(index) * 1.1, np.sqrt(index / count) / 2
    x, y = 0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)
    offsets = np.array([1, -1, 2, -2, 3, -3, 4, -4, 5, -5])
    n_albums = -(-count // 10)
    return {
        "titles": [HOSTILE if i == 3 else f"Song {i}" for i in range(count)],
        "durations_s": [120 + i % 300 for i in range(count)],
        "x": np.rint(65_535 * x).astype(int).tolist(),
        "y": np.rint(65_535 * y).astype(int).tolist(),
        "n_near": 10,
        "near": ((index[:, None] + offsets) % count).ravel().tolist(),
        "distances": (np.abs(offsets) * 100 + np.zeros((count, 1), int)).ravel().tolist(),
        "groups": [
            group("cluster", index * 7 // count, [f"around Song {i}" for i in range(7)]),
            group("album", index // 10, [f"Album {i}" for i in range(n_albums)]),
            group("artist", index % 2, ["Café Tacvba", ""]),
        ],
        "bases": ["", folder.as_uri() + "/"],
        "base": (index % 2).tolist(),
        "files": [quote("a b#ü.wav") if i % 2 == 0 else "b.wav" for i in range(count)],
        "sections_s": {"7": [0.5, 1.5]},
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    assert CHROMIUM.exists(), "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module", params=[3_000, 50_000])
def map_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of some thousand songs, and one of 50,000."""
    folder = tmp_path_factory.mktemp("map")
    path = folder / "map.html"
    path.write_text(map_page(made_data(folder, request.param)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    path = folder / "map.html"
    path.write_text(map_page(made_data(folder, 200)), encoding="utf-8")
    return path


def opened(context: BrowserContext, path: Path) -> tuple[Page, list[str]]:
    """The page of a file, drawn, and a list that collects its errors and its requests.

    The browser has no network.
    """
    context.set_offline(True)
    page, troubles = context.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda it: troubles.append(it.text) if it.type == "error" else None)

    def request(it: Any) -> None:
        if it.url != path.as_uri() and not it.url.endswith(".wav"):
            troubles.append(f"a request to {it.url}")

    page.on("request", request)
    page.goto(path.as_uri())
    drawn(page)
    return page, troubles


def wait_for(page: Page, expression: str, argument: Any = None) -> None:
    """Waits until an expression is true. (Playwright's own wait needs `eval`, which the page's
    security policy forbids.)"""
    end = time.monotonic() + 60
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def drawn(page: Page) -> None:
    """Waits until a frame with the songs is drawn."""
    wait_for(page, "canvas.isInitialized && canvas.getViewports().length > 0")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")


def click_song(page: Page, song: int) -> None:
    """Clicks on the place of a song, enlarged so that no other song is there."""
    page.evaluate("i => setView({...viewState, target: place(i), zoom: 6})", song)
    drawn(page)
    x, y = page.evaluate("i => canvas.getViewports()[0].project(place(i))", song)
    box = page.locator("#map").bounding_box()
    assert box
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.click(box["x"] + x, box["y"] + y)


def colours(page: Page) -> int:
    """How many colours the picture of the map has."""
    return page.evaluate(
        """() => {
          canvas.redraw("test");
          const picture = document.querySelector("#map canvas"), { width, height } = picture;
          const copy = Object.assign(document.createElement("canvas"), { width, height });
          const context = copy.getContext("2d");
          context.drawImage(picture, 0, 0);
          const bytes = context.getImageData(0, 0, width, height).data.buffer;
          return new Set(new Uint32Array(bytes)).size;
        }"""
    )


def test_search_click_neighbours_sound_and_colours(browser: Browser, map_file: Path) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 700})
    page, troubles = opened(context, map_file)
    count = page.evaluate("count")
    expect(page.locator("#heading")).to_have_text(f"{count:,} songs")
    assert colours(page) > 7  # songs of seven clusters are drawn

    page.get_by_label("Find songs").fill("song 123")
    expect(page.locator("#results button").first).to_have_text("Song 123 · Album 12")
    page.get_by_label("Find songs").press("Enter")
    expect(page.locator("#song h2")).to_have_text("Song 123")
    page.get_by_label("Find songs").fill("")
    expect(page.locator("#legend")).to_be_visible()

    click_song(page, 40)
    expect(page.locator("#song h2")).to_have_text("Song 40")
    expect(page.locator("#near li")).to_have_count(10)
    expect(page.locator("#near button").first).to_have_text("Song 41 · Album 4")
    expect(page.locator("#near li span").first).to_have_text("0.100")
    assert page.evaluate("layers()[0].props.data") == [41, 39, 42, 38, 43, 37, 44, 36, 45, 35]
    source = page.evaluate("document.querySelector('#audio').currentSrc")
    assert source == (map_file.parent / "a b#ü.wav").as_uri()
    wait_for(page, "document.querySelector('#audio').currentTime > 0.1")

    page.locator("#near button").first.click()
    expect(page.locator("#song h2")).to_have_text("Song 41")
    source = page.evaluate("document.querySelector('#audio').src")
    assert source == (map_file.parent / "b.wav").as_uri()

    first = page.evaluate("[...points.attributes.getFillColor.value.slice(0, 4 * count)].join()")
    page.get_by_label("Colour").select_option("album")
    expect(page.locator("#legend button").first).to_have_text("Album 0")
    second = page.evaluate("[...points.attributes.getFillColor.value.slice(0, 4 * count)].join()")
    assert first != second
    page.keyboard.press("Escape")
    page.locator("#legend button").nth(2).click()
    expect(page.locator("#legend button").nth(2)).to_have_attribute("aria-pressed", "true")
    shown = (
        "[...Array(count).keys()].filter(i => points.attributes.getFillColor.value[4*i+3] > 100)"
    )
    page.locator("#map").press("Escape")
    assert page.evaluate(shown) == list(range(20, 30))
    assert not troubles
    context.close()


def test_names_are_text(browser: Browser, small_map: Path) -> None:
    context = browser.new_context()
    page, troubles = opened(context, small_map)
    page.get_by_label("Find songs").fill("sohne o'hara")  # without the accent
    expect(page.locator("#results button")).to_have_count(1)
    page.locator("#results button").click()
    expect(page.locator("#song h2")).to_have_text(HOSTILE)
    page.get_by_label("Find songs").fill("cafe")
    expect(page.locator("#found")).to_have_text("100 found")
    assert page.evaluate("window.broken") is None and page.locator("img").count() == 0
    assert not troubles
    context.close()


def test_keyboard(browser: Browser, small_map: Path) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 700})
    page, troubles = opened(context, small_map)
    page.keyboard.press("Tab")
    expect(page.get_by_label("Find songs")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#map")).to_be_focused()
    page.keyboard.press("ArrowRight")
    middle = page.evaluate("selected")
    page.keyboard.press("ArrowRight")
    right = page.evaluate("selected")
    assert page.evaluate("([a, b]) => place(b)[0] - place(a)[0]", [middle, right]) > 0
    page.keyboard.press("ArrowUp")
    above = page.evaluate("selected")
    assert page.evaluate("([a, b]) => place(b)[1] - place(a)[1]", [right, above]) > 0
    assert page.evaluate("document.querySelector('#audio').paused")
    page.keyboard.press("Enter")
    wait_for(page, "!document.querySelector('#audio').paused")
    before = page.evaluate("viewState.zoom")
    page.keyboard.press("+")
    assert page.evaluate("viewState.zoom") > before
    page.keyboard.press("0")
    assert page.evaluate("viewState.zoom") == pytest.approx(before)
    page.keyboard.press("Escape")
    assert page.evaluate("selected") == -1
    expect(page.locator("#help")).to_be_visible()
    assert not troubles
    context.close()


def test_a_song_of_a_cue_sheet_is_a_part_of_its_file(browser: Browser, small_map: Path) -> None:
    context = browser.new_context()
    page, troubles = opened(context, small_map)
    page.evaluate("choose(7, true)")
    assert page.evaluate("document.querySelector('#audio').src").endswith("/b.wav#t=0.5,1.5")
    wait_for(page, "document.querySelector('#audio').currentTime >= 0.5")
    assert not troubles
    context.close()


def test_a_missing_file_is_told(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "map.html").write_text(map_page(made_data(tmp_path, 50)), encoding="utf-8")
    (tmp_path / "b.wav").unlink()
    context = browser.new_context()
    page, _ = opened(context, tmp_path / "map.html")
    page.evaluate("choose(1, true)")
    expect(page.locator("#problem")).to_contain_text("cannot play the file")
    expect(page.get_by_role("link", name="Open the file")).to_have_attribute(
        "href", (tmp_path / "b.wav").as_uri()
    )
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_of_accessibility_rules(
    browser: Browser, small_map: Path, scheme: Any
) -> None:
    context = browser.new_context(color_scheme=scheme)
    page, troubles = opened(context, small_map)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(250, 248, 244)", "dark": "rgb(20, 22, 27)"}[scheme]
    for _ in range(2):
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.evaluate("choose(4, false)")
    assert not troubles
    context.close()


def test_a_phone_pans_zooms_and_taps(browser: Browser, small_map: Path) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True
    )
    page, troubles = opened(context, small_map)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    page.evaluate("setView({...viewState, target: place(60), zoom: 3})")
    drawn(page)
    x, y = page.evaluate("canvas.getViewports()[0].project(place(60))")
    box = page.locator("#map").bounding_box()
    assert box and box["height"] > 250
    page.touchscreen.tap(box["x"] + x, box["y"] + y)
    expect(page.locator("#song h2")).to_have_text("Song 60")

    touches = context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": px, "y": py, "id": n} for n, (px, py) in enumerate(points)]
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    cx, cy = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.evaluate("viewState")
    touch("touchStart", (cx, cy))
    for step in range(1, 9):
        touch("touchMove", (cx + 10 * step, cy))
        page.wait_for_timeout(20)
    touch("touchEnd")
    wait_for(page, "x => viewState.target[0] < x", before["target"][0])
    page.wait_for_timeout(400)
    before = page.evaluate("viewState")
    touch("touchStart", (cx - 20, cy), (cx + 20, cy))
    for step in range(1, 9):
        touch("touchMove", (cx - 20 - 8 * step, cy), (cx + 20 + 8 * step, cy))
        page.wait_for_timeout(20)
    touch("touchEnd")
    wait_for(page, "zoom => viewState.zoom > zoom + 0.5", before["zoom"])
    assert not troubles
    context.close()


def test_without_webgl_the_search_works(browser: Browser, small_map: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(small_map.as_uri())
    expect(page.locator("#problem")).to_contain_text("no WebGL 2")
    page.get_by_label("Find songs").fill("song 12")
    page.get_by_label("Find songs").press("Enter")
    expect(page.locator("#song h2")).to_have_text("Song 12")
    context.close()


def test_the_data_survives_as_it_is(browser: Browser, small_map: Path) -> None:
    context = browser.new_context()
    page, _ = opened(context, small_map)
    assert page.evaluate("JSON.stringify(data)") == json.dumps(
        made_data(small_map.parent, 200), ensure_ascii=False, separators=(",", ":")
    )
    context.close()
