"""Choosing among new covers: near the top on a phone, kept as favourites, two compared; by touch and by keys."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.journeys import first_covers, tab_to, wait_for_covers

pytestmark = pytest.mark.browser


def test_on_a_phone_covers_begin_near_the_top_and_are_kept_and_compared_by_touch(
    phone: Visit, site_url: str, song: Path
) -> None:
    page = phone.page
    page.goto(site_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    first = page.locator("#current li").first
    expect(first).to_be_visible()
    bottom = page.wait_for_function("() => document.querySelector('#current li')?.getBoundingClientRect().bottom")
    assert bottom.json_value() < 844, "the first cover stands on the first screen"
    covers = wait_for_covers(page)
    for button in page.locator("#current .tile-buttons button").all():
        size = button.bounding_box()
        assert size is not None
        assert size["height"] >= 44, "high enough for a finger"

    page.get_by_role("button", name="Keep").first.tap()
    expect(page.get_by_role("button", name="Keep").first).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Compare set 1, cover 1").tap()
    expect(page.locator("#pick-bar")).to_contain_text("Set 1, cover 1 is picked. Pick another one")
    page.get_by_role("button", name="Compare set 1, cover 3").tap()
    dialog = page.get_by_role("dialog", name="Side by side")
    expect(dialog.locator(".compared-picture")).to_have_count(2)
    expect(dialog.get_by_role("list", name="In a player's list")).to_have_count(2)
    expect(dialog.get_by_role("button", name="Keep").first).to_have_attribute("aria-pressed", "true")
    dialog.get_by_role("button", name="Keep").last.tap()
    dialog.get_by_role("button", name="Show large").last.tap()
    expect(page.get_by_role("dialog", name="New cover 3 of 4")).to_be_visible()
    page.get_by_role("button", name="Next cover").tap()
    page.get_by_role("dialog").get_by_role("button", name="Compare").tap()
    page.get_by_role("button", name="Close", exact=True).tap()
    expect(page.locator("#pick-bar")).to_contain_text("Cover 4, seed")
    page.get_by_role("button", name="Stop comparing").tap()
    expect(page.locator("#pick-bar")).to_be_hidden()
    expect(covers).to_have_count(4)

    page.get_by_role("button", name="Another song").tap()
    expect(page.get_by_role("list").filter(has=page.locator(".shelf-cover")).locator("img")).to_have_count(2)
    assert phone.complaints == []


def test_two_covers_are_compared_and_one_is_kept_by_keys_alone(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41)
    tab_to(page, page.get_by_role("button", name="Compare set 1, cover 1"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Compare set 1, cover 2"))
    page.keyboard.press("Space")
    dialog = page.get_by_role("dialog", name="Side by side")
    keep = dialog.get_by_role("button", name="Keep cover with seed 42")
    tab_to(page, keep)
    page.keyboard.press("Enter")
    expect(keep).to_have_attribute("aria-pressed", "true")
    expect(dialog.get_by_role("status")).to_have_text("Kept in this browser")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#current [aria-pressed=true]")).to_have_count(1)
    expect(page.locator("#current [aria-pressed=true]")).to_have_accessible_name(re.compile("^Keep cover with seed 42"))


def test_a_favourite_outlives_a_reload_and_can_be_forgotten(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41)
    page.get_by_role("button", name="Keep cover with seed 43").click()
    expect(page.locator("#announcer")).to_have_text("Kept in this browser")
    page.goto(fake_url)
    kept = page.locator("#favourite-list li")
    expect(kept).to_have_count(1)
    expect(kept.locator("img")).to_have_attribute("src", re.compile("^data:image/jpeg"))
    expect(kept).to_contain_text(re.compile(r"02 jazz.*On the server until \w{3} \d\d:\d\d"))
    kept.get_by_role("button", name="Forget the favourite of 02 jazz, seed 43").click()
    expect(kept).to_have_count(0)
    expect(page.locator("#history-list li")).to_have_count(1)
    page.get_by_role("button", name="Forget all of it").click()
    expect(page.locator("#shelf")).to_be_hidden()
    assert page.evaluate("localStorage.length") == 0


def test_what_the_server_has_deleted_is_said_to_be_gone(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41)
    page.get_by_role("button", name="Keep cover with seed 41").click()
    expect(page.locator("#current [aria-pressed=true]")).to_have_count(1)
    page.evaluate("""for (const name of ["gatefold-jobs", "gatefold-favourites"]) {
        const kept = JSON.parse(localStorage.getItem(name)).map((one) => ({ ...one, until: "2020-01-01T00:00:00Z" }));
        localStorage.setItem(name, JSON.stringify(kept));
    }""")
    page.goto(fake_url)
    expect(page.locator("#favourite-list")).to_contain_text("Gone from the server")
    expect(page.locator("#favourite-list a")).to_have_count(0)
    expect(page.locator("#history")).to_be_hidden()


def test_a_browser_that_keeps_nothing_says_so(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    first_covers(page, fake_url, song, 41)
    keep = page.get_by_role("button", name="Keep cover with seed 41")
    keep.click()
    expect(page.locator("#announcer")).to_contain_text("This browser keeps nothing")
    expect(keep).to_have_text("Cannot keep")
    expect(page.locator("#current [aria-pressed=true]")).to_have_count(0)
    assert visit.complaints == []
