"""The page in each of its states as axe-core judges it, without scripts or motion, and as screen readers get it."""

from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import first_covers

pytestmark = pytest.mark.browser


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with what is shown now."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['html']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_in_any_state(
    browser: Browser, fake_url: str, song: Path, scheme: Literal["dark", "light"]
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce", color_scheme=scheme)
    page = context.new_page()
    page.goto(fake_url)
    expect(page.locator("#tracklist li").first).to_be_visible()
    assert violations(page) == [], "before a song"
    covers = first_covers(page, fake_url, song, 998, count=3)
    page.get_by_role("radio", name="Use as source").check()
    for index in range(12):
        page.locator("#covers button").nth(index).click()
    page.get_by_role("radio", name="Take colours").check()
    page.locator("#covers button").nth(2).click()
    page.get_by_label("How mixed").fill("0.8")
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Compare").first.click()
    assert violations(page) == [], "with choices, new covers, a refused one, a link, and a cover picked"
    page.get_by_role("button", name="Compare").nth(1).click()
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    assert violations(page) == [], "two compared"
    page.keyboard.press("Escape")
    covers.first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.locator(".source").nth(1).click()
    assert violations(page) == [], "a new cover, with a source lit"
    page.get_by_role("button", name="Keep").last.click()
    page.get_by_role("button", name="Export for stores").click()
    expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()
    page.get_by_label("Title", exact=True).fill("5 $")
    expect(page.locator("#viewer .problem")).to_be_visible()
    assert violations(page) == [], "an export that is refused"
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="Show large").check()
    page.locator("#covers button").nth(4).click()
    expect(page.locator("#viewer")).to_be_visible()
    assert violations(page) == [], "a match"
    page.reload()
    expect(page.locator("#shared")).to_be_visible()
    expect(page.locator("#current img").first).to_be_visible()
    assert violations(page) == [], "covers by their link"
    page.get_by_role("button", name="Another song").click()
    page.get_by_text("Rights, disclosure").click()
    expect(page.get_by_role("heading", name="Favourites")).to_be_visible()
    assert violations(page) == [], "what the browser remembers"
    context.close()


def test_without_scripts_the_page_says_so_and_names_the_api(browser: Browser, fake_url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(fake_url)
    notice = page.locator(".noscript")
    expect(notice).to_be_visible()
    expect(notice).to_contain_text("This page needs JavaScript. The API does not: POST /v1/covers")
    context.close()


def test_nothing_moves_for_those_who_asked_for_less_motion(browser: Browser, fake_url: str, song: Path) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    first_covers(page, fake_url, song, 41).first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.locator(".source").first.hover()
    assert page.evaluate("document.getAnimations().length") == 0
    context.close()


def test_a_dialog_announces_inside_itself_since_all_else_is_inert(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41).first.click()
    with page.expect_download():
        page.get_by_role("button", name="PNG 512").click()
    expect(page.locator("#viewer [role=status]")).to_have_text("cover-41-512.png saved")


def test_the_fonts_are_the_pages_own(visit: Visit, fake_url: str) -> None:
    page = visit.page
    page.goto(fake_url)
    loaded = page.evaluate("""document.fonts.ready.then(
        (fonts) => [...fonts].filter(({ status }) => status === "loaded").map(({ family }) => family))""")
    assert {family.strip('"') for family in loaded} == {"Archivo"}
    assert visit.complaints == []


def test_behind_a_key_the_dialog_that_asks_for_it_is_without_violations(
    visit: Visit, locked_url: str, song: Path
) -> None:
    page = visit.page
    page.emulate_media(reduced_motion="reduce")
    page.goto(locked_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_label("API key")).to_be_visible()
    assert violations(page) == []
