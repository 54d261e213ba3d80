"""Covers by their link: over a reload, from the songs before, for a band mate, behind a key, and when they are gone."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import first_covers, search, tab_to, wait_for_covers

pytestmark = pytest.mark.browser


def link_of(page: Page) -> str:
    """The link that the page offers for its covers."""
    page.get_by_role("button", name="Share").click()
    return page.get_by_label("A link to these covers").input_value()


def test_a_reload_shows_the_same_covers_and_the_way_back_leads_to_the_start(
    visit: Visit, fake_url: str, song: Path
) -> None:
    page = visit.page
    pictures = [one.get_attribute("src") for one in first_covers(page, fake_url, song, 41).locator("img").all()]
    page.reload()
    covers = wait_for_covers(page)
    assert [one.get_attribute("src") for one in covers.locator("img").all()] == pictures
    expect(page.get_by_role("heading", name="02 jazz")).to_be_visible()
    expect(page.locator("#shared")).to_contain_text("On the server until")
    expect(page.locator("#make-form")).to_be_hidden()
    covers.first.click()
    expect(page.locator(".stage")).to_have_attribute("data-ready", "yes")
    page.keyboard.press("Escape")
    page.go_back()
    expect(page.get_by_role("heading", name="Every song")).to_be_visible()
    tab_to(page, page.get_by_role("link", name="02 jazz"))
    page.keyboard.press("Enter")
    wait_for_covers(page)
    assert visit.complaints == []


def test_a_link_opens_for_a_band_mate_by_touch_and_says_how_long_it_lasts(
    visit: Visit, phone: Visit, fake_url: str, song: Path
) -> None:
    first_covers(visit.page, fake_url, song, 41)
    link = link_of(visit.page)
    expect(visit.page.locator("#share-note")).to_contain_text("24 hours from when")
    expect(visit.page.locator("#share-note")).to_contain_text("works on this computer alone")
    page = phone.page
    page.goto(link)
    covers = wait_for_covers(page)
    expect(page.get_by_role("heading", name="02 jazz")).to_be_visible()
    covers.nth(1).tap()
    expect(page.get_by_role("dialog", name="New cover 2 of 4")).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).tap()
    page.get_by_role("button", name="Another song").tap()
    expect(page.get_by_role("link", name="02 jazz")).to_be_visible()
    assert phone.complaints == []


def test_covers_that_are_being_made_are_followed_by_their_link_and_not_cancelled_there(
    visit: Visit, browser: Browser, slow_url: str, song: Path
) -> None:
    search(visit.page, slow_url, song)
    expect(visit.page.locator(".set-status")).to_contain_text("Generating")
    context = browser.new_context()
    other = context.new_page()
    other.goto(visit.page.url)
    expect(other.locator(".set-status")).to_contain_text("Generating")
    expect(other.get_by_role("button", name="Cancel")).to_be_hidden()
    context.close()
    visit.page.get_by_role("button", name="Cancel").click()


UNFINISHED = """localStorage.setItem("gatefold-jobs", JSON.stringify(
    [{ id: "gone", name: "A song", at: "2020-01-01T00:00:00Z", until: null, covers: [] }]))"""


def test_a_link_to_covers_that_are_gone_says_so_and_leaves_the_songs_before(visit: Visit, fake_url: str) -> None:
    page = visit.page
    page.goto(fake_url)
    page.evaluate(UNFINISHED)
    page.reload()
    expect(page.get_by_role("link", name="A song")).to_contain_text("Not finished when you left")
    page.get_by_role("link", name="A song").click()
    expect(page.get_by_role("alert")).to_contain_text("These covers are not here")
    expect(page.get_by_role("alert")).to_contain_text("deleted after their time")
    expect(page.locator("#shelf")).to_be_hidden()


def test_what_a_link_has_after_its_hash_is_shown_as_text_alone(
    visit: Visit, fake_url: str, song: Path, browser: Browser
) -> None:
    first_covers(visit.page, fake_url, song, 41)
    context = browser.new_context()
    other = Visit(context.new_page())
    address = visit.page.url.partition("#")[0]
    other.page.goto(f"{address}#%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    expect(other.page.get_by_role("heading", name="<img src=x onerror=alert(1)>")).to_be_visible()
    assert other.complaints == []
    context.close()


def test_behind_a_key_a_link_asks_for_it_and_says_that_it_must_be_the_same(
    visit: Visit, browser: Browser, locked_url: str, song: Path
) -> None:
    page = visit.page
    page.goto(locked_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    page.get_by_label("API key").fill("open sesame")
    page.keyboard.press("Enter")
    wait_for_covers(page)
    link = link_of(page)
    expect(page.locator("#share-note")).to_contain_text("to open the link one needs the same key")
    context = browser.new_context()
    other = context.new_page()
    other.goto(link)
    other.get_by_label("API key").fill("another")
    other.keyboard.press("Enter")
    expect(other.get_by_label("API key")).to_be_empty()
    other.get_by_label("API key").fill("open sesame")
    other.keyboard.press("Enter")
    wait_for_covers(other)
    assert other.evaluate("localStorage.getItem('gatefold-key')") is None
    context.close()


def test_a_mangled_link_leaves_a_page_that_works(visit: Visit, fake_url: str) -> None:
    visit.page.goto(f"{fake_url}/covers/%E0%A4%A")
    expect(visit.page.get_by_role("button", name=re.compile("^Listen to")).first).to_be_visible()
    assert [said for said in visit.complaints if "URIError" in said or "malformed" in said] == []
