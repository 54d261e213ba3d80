"""Where a new cover comes from: by mouse, by keys alone, by touch, and what is shown where nothing is known."""

import re
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import first_covers, generate, search, tab_to, wait_for_covers

pytestmark = pytest.mark.browser

SEED = 41
ANNOUNCED = """() => {
  window.announced = [];
  const place = document.querySelector("#viewer [role=status]");
  new MutationObserver(() => window.announced.push(place.textContent)).observe(place, { childList: true });
}"""
ALPHA = """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
  .filter((_, at) => at % 4 === 3)"""


class Opened:
    """A new cover shown large, and what the API says of it: `sources`, and `holder`, the source of each map pixel."""

    def __init__(self, page: Page, url: str, cover: Locator) -> None:
        self.page = page
        address = cover.locator("img").get_attribute("src")
        assert address is not None
        self.address = url + address.partition("?")[0]
        cover.click()
        self.stage = page.locator(".stage")
        expect(self.stage).to_have_attribute("data-ready", "yes")
        self.sources: list[dict[str, Any]] = page.request.get(f"{self.address}/sources").json()["sources"]
        with Image.open(BytesIO(page.request.get(f"{self.address}/sources.png").body())) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        colours = [[int(source["colour"][at : at + 2], 16) for at in (1, 3, 5)] for source in self.sources]
        self.holder = np.argmax([(pixels == colour).all(axis=2) for colour in colours], axis=0)

    def place_of(self, index: int) -> tuple[float, float]:
        """A place inside a source's largest part, as shares of the cover's sides."""
        places: list[list[int]] = np.argwhere(self.holder == index).tolist()
        inside = [(row, column) for row, column in places if self._alone(row, column, index)]
        row, column = inside[len(inside) // 2]
        return (float(column) + 0.5) / self.holder.shape[1], (float(row) + 0.5) / self.holder.shape[0]

    def _alone(self, row: int, column: int, index: int) -> bool:
        around = self.holder[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        return bool((around == index).all())

    def at_crosshair(self) -> int:
        """The source that the map has where the crosshair stands."""
        cross = self.page.locator(".crosshair")
        left, top = (float(cross.evaluate(f"element => parseFloat(element.style.{side})")) for side in ("left", "top"))
        rows, columns = self.holder.shape
        return int(self.holder[min(int(top / 100 * rows), rows - 1), min(int(left / 100 * columns), columns - 1)])

    def expect_named(self, index: int) -> None:
        """The caption names this source, and the overlay lights it."""
        source = self.sources[index]
        expect(self.page.locator(".overlay")).to_have_attribute("data-source", str(index))
        caption = self.page.locator(".caption")
        expect(caption).to_contain_text(source["title"])
        expect(caption).to_contain_text(source["artist"])
        expect(caption.locator(".caption-share")).to_contain_text("%")
        expect(self.page.locator(".source.lit")).to_contain_text(source["title"])


@pytest.fixture
def opened(visit: Visit, fake_url: str, song: Path) -> Opened:
    """The first of four new covers, large."""
    return Opened(visit.page, fake_url, first_covers(visit.page, fake_url, song, SEED).first)


def test_pointing_at_a_place_names_the_source_that_holds_it(opened: Opened, visit: Visit) -> None:
    box = opened.stage.bounding_box()
    assert box is not None
    for index in (0, 3, 6):
        x, y = opened.place_of(index)
        visit.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        opened.expect_named(index)
    visit.page.mouse.move(2, 2)
    expect(visit.page.locator(".overlay")).to_have_attribute("data-source", "-1")
    expect(visit.page.locator(".caption")).to_contain_text("Point at a place")
    assert visit.complaints == []


def test_pointing_at_a_source_shades_all_but_its_places(opened: Opened, visit: Visit) -> None:
    rows = visit.page.locator(".source")
    shares = [float(text.split()[0]) for text in rows.locator(".share").all_inner_texts() if "under" not in text]
    assert shares == sorted(shares, reverse=True)
    rows.nth(2).hover()
    opened.expect_named(2)
    alpha = np.array(visit.page.locator(".overlay").evaluate(ALPHA)).reshape(opened.holder.shape)
    shade = alpha[opened.holder != 2]
    assert shade.min() == shade.max() > 200
    assert set(np.unique(alpha[opened.holder == 2])) == {0, 255}, "its places are clear inside an outline"
    assert visit.complaints == []


def test_a_source_that_leads_at_no_place_says_so_and_shades_nothing(opened: Opened, visit: Visit) -> None:
    last = len(opened.sources) - 1
    assert not (opened.holder == last).any()
    visit.page.locator(".source").last.hover()
    expect(visit.page.locator(".caption")).to_contain_text(opened.sources[last]["title"])
    expect(visit.page.locator(".caption")).to_contain_text("leads at no place")
    expect(visit.page.locator(".overlay")).to_have_attribute("data-source", "-1")
    expect(visit.page.locator(".source .share").last).to_have_text(re.compile(r"^under 1\s%$"))


def test_a_source_that_is_pressed_stays_lit_until_it_is_pressed_again(opened: Opened, visit: Visit) -> None:
    page = visit.page
    row = page.locator(".source").nth(1)
    row.click()
    expect(row).to_have_attribute("aria-pressed", "true")
    page.mouse.move(2, 2)
    page.get_by_role("button", name="Close", exact=True).focus()
    opened.expect_named(1)
    row.click()
    expect(row).to_have_attribute("aria-pressed", "false")


def test_arrow_keys_move_a_crosshair_that_announces_each_new_source_once(opened: Opened, visit: Visit) -> None:
    page = visit.page
    page.evaluate(ANNOUNCED)
    tab_to(page, opened.stage)
    expect(page.locator(".crosshair")).to_be_visible()
    spoken = page.locator("#viewer [role=status]")
    visited = [opened.at_crosshair()]
    for key in ["ArrowRight"] * 6 + ["Shift+ArrowDown"] * 2 + ["ArrowUp"]:
        page.keyboard.press(key)
        visited.append(opened.at_crosshair())
        opened.expect_named(visited[-1])
    expect(spoken).to_contain_text(f"{opened.sources[visited[-1]]['title']} by {opened.sources[visited[-1]]['artist']}")
    expect(spoken).to_contain_text("% of this cover")
    announced = page.evaluate("window.announced")
    assert len(announced) <= 1 + sum(before != after for before, after in pairwise(visited))
    assert all(before != after for before, after in pairwise(announced))
    expect(page.get_by_role("dialog", name="New cover 1 of 4")).to_be_visible()

    page.keyboard.press("Enter")
    expect(page.locator(".source[aria-pressed=true]")).to_contain_text(opened.sources[visited[-1]]["title"])
    page.keyboard.press("Tab")
    expect(page.locator(".crosshair")).to_be_hidden()
    assert visit.complaints == []


def test_the_list_of_sources_is_walked_by_keys_and_lights_what_has_the_focus(opened: Opened, visit: Visit) -> None:
    page = visit.page
    rows = page.locator(".source")
    tab_to(page, rows.first)
    opened.expect_named(0)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(rows.nth(2)).to_be_focused()
    opened.expect_named(2)
    page.keyboard.press("Enter")
    expect(rows.nth(2)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("End")
    expect(rows.last).to_be_focused()
    page.keyboard.press("ArrowUp")
    opened.expect_named(len(opened.sources) - 2)
    page.keyboard.press("Tab")
    opened.expect_named(2)
    expect(page.get_by_role("dialog", name="New cover 1 of 4")).to_be_visible()


def test_a_tap_names_the_source_of_its_place(browser: Browser, fake_url: str, song: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    opened = Opened(page, fake_url, first_covers(page, fake_url, song, SEED).first)
    box = opened.stage.bounding_box()
    assert box is not None
    x, y = opened.place_of(2)
    page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
    opened.expect_named(2)
    page.locator(".source").nth(4).tap()
    opened.expect_named(4)
    context.close()


def test_each_cover_says_from_how_many_it_comes_and_how_much_of_one(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    cover = first_covers(page, fake_url, song, SEED).first
    line = page.locator(".set-covers li").first.locator(".origin")
    expect(line).to_have_text(re.compile(r"^from \d+ covers, at most \d+\s% of one$"))
    opened = Opened(page, fake_url, cover)
    share = round(100 * opened.sources[0]["share"])
    expect(line).to_have_text(f"from {len(opened.sources)} covers, at most {share} % of one")
    expect(page.locator(".viewer-side")).to_contain_text(f"At most {share} % of one cover")
    expect(page.locator(".viewer-side")).to_contain_text("likeness 0.61 of 1")


def test_a_cover_that_is_not_handed_out_keeps_its_place_and_says_why(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 998, count=3)
    tiles = page.locator(".set-covers > li")
    expect(tiles).to_have_count(4)
    expect(tiles.nth(2)).to_contain_text("Not handed out")
    expect(tiles.nth(2)).to_contain_text("likeness to one existing cover was 0.95 of 1; at most 0.90 is allowed")
    expect(tiles.nth(2)).to_contain_text("Seed 1000")
    expect(page.locator("#announcer")).to_have_text("Three new covers are ready, one not handed out. Set 1.")
    page.get_by_role("button", name="New cover 4").click()
    expect(page.get_by_role("dialog", name="New cover 3 of 3")).to_be_visible()
    assert visit.complaints == []


def test_a_single_source_makes_copies_and_none_is_handed_out(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    page.get_by_role("radio", name="Use as source").check()
    page.locator("#covers button").nth(5).click()
    expect(page.locator("#steering")).to_contain_text("With few sources")
    generate(page, SEED, count=0)
    refused = page.locator("#current .refused")
    expect(refused).to_have_count(4)
    expect(refused.first).to_contain_text("100.0 % of it came from one cover; at most 50.0 % may.")
    expect(page.locator("#announcer")).to_have_text("No new covers are ready, four not handed out. Set 2.")


def test_without_attribution_none_of_its_parts_is_shown(visit: Visit, transformer_url: str, song: Path) -> None:
    page = visit.page
    search(page, transformer_url, song)
    for part in ("#novelty-setting", "#modes", "#steering"):
        expect(page.locator(part)).to_be_hidden()
    wait_for_covers(page).first.click()
    expect(page.get_by_role("dialog", name="New cover 1 of 4")).to_be_visible()
    expect(page.locator(".neighbours li")).to_have_count(12)
    expect(page.locator(".viewer-side")).to_contain_text("and 88 more")
    for part in (".origin", ".sources", ".stage", ".caption"):
        expect(page.locator(part)).to_have_count(0)
    assert visit.complaints == []


def test_sources_that_cannot_be_read_are_asked_for_again(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    body = '{"status": 503, "title": "Storage unavailable", "detail": "the sources cannot be read now", "code": "x"}'

    def refuse(route: Route) -> None:
        route.fulfill(status=503, body=body)

    page.route("**/sources", refuse)
    first_covers(page, fake_url, song, SEED).first.click()
    problem = page.locator(".sources .problem")
    expect(problem).to_contain_text("the sources cannot be read now")
    page.unroute("**/sources", refuse)
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator(".source").first).to_be_visible()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")


def test_behind_a_key_sources_are_shown_too(visit: Visit, locked_url: str, song: Path) -> None:
    page = visit.page
    page.goto(locked_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    page.get_by_label("API key").fill("open sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#novelty-words")).to_contain_text("0.40, the default of this release")
    wait_for_covers(page).first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.locator(".source").first.hover()
    expect(page.locator(".overlay")).to_have_attribute("data-source", "0")
    expect(page.locator(".caption img")).to_have_attribute("src", re.compile("^blob:"))
