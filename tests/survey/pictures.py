"""`python -m tests.survey.pictures docs/survey`: takes the pictures of the documents anew.

Chromium shows the real server. The music is made, and the answers are of simulated raters: thirty
who listen and two who click at random.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Browser, Page, expect, sync_playwright

from survey.clips import folder_name, open_corpus, plan
from survey.config import SurveyConfig
from survey.database.rows import now
from survey.database.schema import migrate, open_database
from survey.database.store import Store
from survey.rounds.active import read_embeddings
from survey.rounds.assign import Assigner
from survey.web.sessions import Sessions

from .conftest import make_item
from .server import OWNER_TOKEN, Server, served
from .simulated import answer_rounds, spread_over_days
from .test_browser import CHROMIUM, FLAGS

SONGS, RATERS, CLICKERS, EACH = 60, 30, 2, 50
NAMES = ("Harbour", "Lantern", "Orchard", "Comet", "Meadow", "Ember")


def prepare_data(folder: Path) -> tuple[list[str], str]:
    """Music, embeddings and answers; returns the server's options and a rater's private link."""
    from mutagen.flac import FLAC

    music = folder / "music"
    music.mkdir()
    for number in range(SONGS):
        make_item(music, number, seconds=50.0)
        tagged = FLAC(music / f"{number}.flac")
        tagged["title"] = f"{NAMES[number % 6]} No. {number // 6 + 1}"
        tagged["artist"] = f"Artist {number % 40 + 1}"
        tagged.save()
    config = SurveyConfig()
    library = plan(open_corpus(music, folder), folder / folder_name(config), config, {})
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(5, 32)) * 0.17
    vectors = groups[rng.integers(5, size=SONGS)] + rng.normal(size=(SONGS, 32)) * 0.1
    table = folder / "base.parquet"
    pq.write_table(pa.table({"id": list(library.tracks), "embedding": vectors.tolist()}), table)
    # What people feel is not quite what the model has learnt.
    felt = vectors + rng.normal(size=vectors.shape) * 0.06
    latent = dict(zip(library.tracks, felt * 1.6, strict=True))
    engine = open_database(f"sqlite:///{folder / 'survey.db'}")
    migrate(engine)
    store = Store(engine, 0.0)
    embeddings = read_embeddings([table], list(library.tracks))
    assigner = Assigner(store, library, config, embeddings, seed=0)
    for number in range(RATERS + CLICKERS):
        rater = store.add_rater("headphones", "25-34", "some", "choir" if number % 3 else "")
        count = EACH if number else config.goal
        answer_rounds(store, assigner, rater, count, latent, rng, clicks=number >= RATERS)
    first = store.people()[0].name
    spread_over_days(store, now(), 20, rng)
    link = Sessions(store.secret(), secure=False).link(first)
    engine.dispose()
    return ["--corpus", str(music), "--data", str(folder), "--embeddings", str(table)], link


def signed_in(browser: Browser, server: Server, link: str, **options: Any) -> Page:
    """A page of the rater of a private link."""
    page = browser.new_context(**options).new_page()
    page.goto(f"{server.url}/back/{link}")
    page.get_by_role("button", name="Go on listening").click()
    return page


def play_all(page: Page) -> None:
    """The three clips have played long enough, and the third still plays."""
    expect(page.locator(".seek:enabled")).to_have_count(3, timeout=60_000)
    for place in range(3):
        if "playing" not in (page.locator(".clip").nth(place).get_attribute("class") or ""):
            page.locator(".play").nth(place).click()
        expect(page.locator(".listened").nth(place)).to_have_text("heard", timeout=60_000)
    page.mouse.move(0, 0)


def take(browser: Browser, server: Server, link: str, out: Path) -> None:
    """Every picture that the documents show."""
    wide = {"viewport": {"width": 1100, "height": 780}}
    for scheme in ("light", "dark"):
        page = signed_in(browser, server, link, **wide, color_scheme=scheme)
        play_all(page)
        page.screenshot(path=out / f"round-{scheme}.png")
    for name, width, height in (("phone", 360, 740), ("landscape", 740, 360)):
        size = {"width": width, "height": height}
        page = signed_in(browser, server, link, viewport=size, device_scale_factor=2,
                         has_touch=True, is_mobile=True)  # fmt: skip
        play_all(page)
        page.screenshot(path=out / f"round-{name}.png")
    page = signed_in(browser, server, link, viewport={"width": 1100, "height": 1500})
    page.goto(f"{server.url}/sets/1")
    page.screenshot(path=out / "set.png")
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.goto(f"{server.url}/owner")
    page.get_by_label("Owner's token").fill(OWNER_TOKEN)
    page.get_by_role("button", name="Show the figures").click()
    page.get_by_text("Raters, the least attentive first").click()
    page.evaluate(
        """() => document.querySelectorAll("tbody tr").forEach(
             (row, number) => { if (number > 6) row.remove(); })"""
    )
    page.screenshot(path=out / "owner.png", full_page=True)


def shrink(picture: Path) -> None:
    """Reduces a picture to 256 colours, which are enough for these pages."""
    palette = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=none"
    small = picture.with_suffix(".small.png")
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(picture), "-vf", palette, str(small)]
    subprocess.run(command, check=True)
    small.replace(picture)


def main(arguments: list[str]) -> int:
    """Writes the pictures into the folder that is named."""
    out = Path(arguments[0])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        options, link = prepare_data(Path(folder))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with served(*options) as server:
            take(browser, server, link, out)
        browser.close()
    for picture in ("round-light", "round-dark", "round-phone", "round-landscape", "set", "owner"):
        shrink(out / f"{picture}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
