"""What new covers are made from, and how: sources, colours, novelty, size, and the limits of the server."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import GENERATE_MS, search, tab_to, wait_for_covers

pytestmark = pytest.mark.browser

FORMATS = "MP3, FLAC, WAV, Ogg, Opus, M4A."


def make(page: Page) -> dict[str, Any]:
    """Presses the button that makes covers, waits for them, and returns the request as the server took it."""
    expect(page.locator("#make")).to_be_enabled(timeout=GENERATE_MS)
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.locator("#make").click()
    expect(page.locator("#make")).to_be_enabled(timeout=GENERATE_MS)
    request: dict[str, Any] = answer.value.json()["request"]
    return request


def song_ids(page: Page, *ranks: int) -> list[str]:
    """The song_id behind the tiles of these ranks."""
    sources = [page.locator("#covers img").nth(rank - 1).get_attribute("src") or "" for rank in ranks]
    return [source.split("/")[3] for source in sources]


def test_sources_and_colours_are_chosen_by_mouse_and_can_be_taken_back(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    tiles, steering = page.locator("#covers button"), page.locator("#steering")
    expect(steering).to_contain_text("Made from all 100 covers")
    expect(tiles.first).not_to_have_attribute("aria-pressed", re.compile(".*"))
    page.get_by_role("radio", name="Use as source").check()
    for rank in (9, 2, 30, 4, 6):
        tiles.nth(rank - 1).click()
    expect(tiles.nth(8)).to_have_attribute("aria-pressed", "true")
    expect(tiles.nth(8)).to_have_accessible_name(re.compile("Used as source$"))
    expect(tiles.nth(0)).to_have_attribute("aria-pressed", "false")
    page.get_by_role("radio", name="Take colours").check()
    tiles.nth(6).click()
    tiles.nth(7).click()
    expect(page.get_by_role("list", name="Colours").get_by_role("listitem")).to_have_count(1)
    chips = page.get_by_role("list", name="Sources: 5 of 100").get_by_role("listitem")
    expect(chips).to_have_count(5)
    chips.last.get_by_role("button").click()
    expect(page.get_by_role("list", name="Sources: 4 of 100").get_by_role("listitem")).to_have_count(4)

    request = make(page)
    assert request["source_song_ids"] == song_ids(page, 2, 4, 6, 9)
    assert [request["palette_from"]] == song_ids(page, 8)
    expect(page.locator(".set-request").first).to_contain_text("512 px, 4 chosen sources, colours of ")
    page.locator("#current [data-tile]").first.click()
    expect(page.locator(".source").first).to_be_visible()
    assert page.locator(".source").count() <= 4
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Clear sources").click()
    page.get_by_role("list", name="Colours").get_by_role("button").click()
    expect(steering).to_have_text(re.compile("^Made from all 100 covers"))
    request = make(page)
    assert (request["source_song_ids"], request["palette_from"]) == (None, None)
    assert visit.complaints == []


def test_sources_and_colours_are_chosen_by_keys_alone(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    tiles = page.locator("#covers button")
    tab_to(page, page.get_by_role("radio", name="Show large"))
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Use as source")).to_be_checked()
    tab_to(page, tiles.first)
    for keys in ("Enter", "ArrowRight Space", "ArrowRight Enter", "ArrowRight Enter Enter", "ArrowRight Enter"):
        for key in keys.split():
            page.keyboard.press(key)
    expect(page.locator("#covers [aria-pressed=true]")).to_have_count(4)
    expect(tiles.nth(3)).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Take colours")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    chips = page.locator(".chip button")
    expect(chips).to_have_count(5)
    tab_to(page, chips.first)
    page.keyboard.press("Enter")
    expect(chips).to_have_count(4)
    expect(chips.first).to_be_focused()
    expect(page.locator("#make")).to_be_enabled()
    tab_to(page, page.locator("#make"))
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.keyboard.press("Enter")
    request = answer.value.json()["request"]
    assert request["source_song_ids"] == song_ids(page, 2, 3, 5)
    assert [request["palette_from"]] == song_ids(page, 5)


def test_a_match_shown_large_can_be_chosen_there(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    page.locator("#covers button").nth(2).click()
    viewer = page.get_by_role("dialog")
    viewer.get_by_role("button", name="Use as source").click()
    viewer.get_by_role("button", name="Take its colours").click()
    expect(viewer.get_by_role("button", name="Use as source")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#covers button").nth(2)).to_have_accessible_name(
        re.compile(r"Used as source\. Its colours lead$")
    )
    expect(page.locator(".chip")).to_have_count(2)


def test_another_song_begins_without_choices(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    page.get_by_role("radio", name="Use as source").check()
    page.locator("#covers button").nth(2).click()
    page.get_by_role("button", name="Another song").click()
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.locator("#steering")).to_contain_text("Made from all 100 covers")
    expect(page.get_by_role("radio", name="Show large")).to_be_checked()


def test_novelty_stands_at_the_releases_default_and_is_sent_only_when_it_was_moved(
    visit: Visit, fake_url: str, song: Path
) -> None:
    page = visit.page
    search(page, fake_url, song)
    slider, words = page.get_by_label("How mixed"), page.locator("#novelty-words")
    expect(slider).to_have_value("0.4")
    expect(words).to_have_text("0.40, the default of this release")
    assert make(page)["novelty"] is None
    tab_to(page, slider)
    page.keyboard.press("End")
    expect(words).to_have_text("1.00, more mixed than the default (0.40)")
    expect(slider).to_have_attribute("aria-valuetext", "1.00, more mixed than the default (0.40)")
    assert make(page)["novelty"] == 1
    expect(page.locator(".set-request").first).to_have_text("512 px, mix 1.00")
    slider.fill("0.1")
    expect(words).to_have_text("0.10, closer to single covers than the default (0.40)")
    page.get_by_role("button", name="Back to the default").click()
    expect(slider).to_be_focused()
    expect(words).to_have_text("0.40, the default of this release")
    assert make(page)["novelty"] is None


@pytest.mark.parametrize("size", [256, 1024])
def test_covers_are_made_and_saved_at_the_chosen_size(visit: Visit, fake_url: str, song: Path, size: int) -> None:
    page = visit.page
    search(page, fake_url, song)
    expect(page.get_by_label("Size")).to_have_value("512")
    page.get_by_label("Size").select_option(str(size))
    assert make(page)["size"] == size
    page.locator("#current [data-tile]").first.click()
    expect(page.locator(".viewer-side")).to_contain_text(f"made at {size} pixels a side")
    with page.expect_download() as download:
        page.get_by_role("button", name=f"PNG {size}").click()
    assert download.value.suggested_filename.endswith(f"-{size}.png")


def test_limits_are_those_that_the_server_states(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    limits = {"upload_max_bytes": 3_000_000, "upload_max_duration_s": 600.0, "k_max": 40, "n_max": 2,
              "size_max": 512, "size_min": 256, "image_size_max": 1024, "results_kept_s": 7200.0}  # fmt: skip
    page.route("**/v1/limits", lambda route: route.fulfill(json=limits))
    page.goto(fake_url)
    expect(page.locator("#limits")).to_have_text(f"Up to 10 minutes long and 3 MB. {FORMATS}")
    large = FilePayload(name="large.wav", mimeType="audio/wav", buffer=b"RIFF" + bytes(3_500_000))
    page.get_by_label("Drop a song here").set_input_files(large)
    expect(page.get_by_role("alert")).to_contain_text("large.wav has 3.5 MB; at most 3 MB are taken")
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_role("heading", name="The nearest 40")).to_be_visible()
    expect(page.get_by_label("Size").get_by_role("option")).to_have_text(["256 pixels a side", "512 pixels a side"])
    expect(page.locator("#kept-words")).to_have_text("The covers are kept for 2 hours, then deleted.")
    wait_for_covers(page, count=2).first.click()
    expect(page.get_by_role("group", name="Save this cover").get_by_role("button")).to_have_text(
        ["PNG 512", "PNG 1024", "JPEG 512", "JPEG 1024"]
    )
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Two more")).to_be_visible()
    assert visit.complaints == []


def test_where_the_server_states_no_limits_the_page_claims_none(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    page.route("**/v1/limits", lambda route: route.fulfill(status=404, body="{}"))
    search(page, fake_url, song)
    page.get_by_role("button", name="Another song").click()
    expect(page.locator("#limits")).to_have_text(FORMATS)


def release_with(page: Page, **changed: Any) -> None:
    """Lets the server report another release than it has."""
    page.route("**/v1/releases/current", lambda route: route.fulfill(json=route.fetch().json() | changed))


def test_a_default_between_two_steps_of_the_slider_is_kept_when_the_slider_comes_back_to_it(
    visit: Visit, fake_url: str, song: Path
) -> None:
    page = visit.page
    release_with(page, novelty=3 / 7)
    search(page, fake_url, song)
    slider, words = page.get_by_label("How mixed"), page.locator("#novelty-words")
    expect(words).to_have_text("0.43, the default of this release")
    slider.press("ArrowRight")
    expect(words).to_contain_text("0.44, more mixed than the default (0.43)")
    slider.press("ArrowLeft")
    expect(words).to_have_text("0.43, the default of this release")
    assert make(page)["novelty"] is None


def test_the_default_is_that_of_the_release_which_answered_the_search(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    release_with(page, version="earlier", novelty=0.9)
    page.goto(fake_url)
    expect(page.locator("#release")).to_contain_text("release earlier")
    page.unroute("**/v1/releases/current")
    page.locator("#file").set_input_files(song)
    expect(page.locator("#novelty-words")).to_have_text("0.40, the default of this release")
