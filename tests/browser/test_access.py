"""The page in each of its states as axe-core judges it, without scripts or motion, and as screen readers get it."""

from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import generate, search

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
    search(page, fake_url, song)
    page.get_by_role("radio", name="Use as source").check()
    for index in range(12):
        page.locator("#covers button").nth(index).click()
    page.get_by_role("radio", name="Take colours").check()
    page.locator("#covers button").nth(2).click()
    page.get_by_label("How mixed").fill("0.8")
    covers = generate(page, 998, count=3)
    assert violations(page) == [], "with choices, new covers and a refused one"
    covers.first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.locator(".source").nth(1).click()
    assert violations(page) == [], "a new cover, with a source lit"
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="Show large").check()
    page.locator("#covers button").nth(4).click()
    expect(page.locator("#viewer")).to_be_visible()
    assert violations(page) == [], "a match"
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
    search(page, fake_url, song)
    generate(page, 41).first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.locator(".source").first.hover()
    assert page.evaluate("document.getAnimations().length") == 0
    context.close()


def test_a_dialog_announces_inside_itself_since_all_else_is_inert(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    generate(page, 41).first.click()
    with page.expect_download():
        page.get_by_role("button", name="PNG 512").click()
    expect(page.locator("#viewer [role=status]")).to_have_text("cover-41-512.png saved")
