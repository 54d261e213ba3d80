"""The page as its visitors use it: by mouse, by keys alone, on a phone, behind a key, and when something goes wrong."""

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Route, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import GENERATE_MS, SEARCH_MS, search, tab_to, wait_for_covers

pytestmark = pytest.mark.browser


def test_a_song_becomes_a_hundred_matches_and_four_covers_that_begin_by_themselves(
    visit: Visit, site_url: str, song: Path, tmp_path: Path
) -> None:
    page = visit.page
    search(page, site_url, song)
    matches = page.locator("#covers button")
    expect(page.get_by_role("img", name=re.compile("Spectrogram"))).to_be_visible()
    expect(page.locator("#song-facts")).to_contain_text("15 seconds long")
    assert 1 <= matches.count() <= 100
    assert sum(int(count) for count in page.locator("#genres b").all_inner_texts()) == matches.count()
    matches.nth(2).hover()
    expect(page.locator("#plate .rank")).to_have_text("3")

    page.get_by_role("button", name="Play").locator("visible=true").click()
    expect(page.get_by_role("button", name="Pause").locator("visible=true")).to_be_visible()

    covers = wait_for_covers(page)
    expect(page.get_by_role("button", name="Four more")).to_be_enabled()
    covers.first.click()
    viewer = page.get_by_role("dialog", name="New cover 1 of 4")
    expect(viewer).to_be_visible()
    expect(viewer.locator(":is(.neighbours, .sources) li").first).to_be_visible()
    for kind, size in (("PNG", 512), ("JPEG", 1024)):
        with page.expect_download() as download:
            viewer.get_by_role("button", name=f"{kind} {size}").click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        with Image.open(saved) as picture:
            assert (picture.format, picture.size) == (kind, (size, size))
    manifest = viewer.get_by_role("link", name="manifest.json").get_attribute("href")
    assert page.request.get(f"{site_url.rstrip('/')}{manifest}").ok
    viewer.get_by_role("button", name="Close").click()
    expect(viewer).to_be_hidden()
    assert visit.complaints == []


def test_the_same_journey_needs_nothing_but_keys(visit: Visit, site_url: str, song: Path) -> None:
    page = visit.page
    page.on("filechooser", lambda _: None)  # before the key, or a real dialog may open
    page.goto(site_url)
    tab_to(page, page.get_by_label("Drop a song here"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(song)
    title = page.locator("#song-title")
    expect(title).to_be_focused(timeout=SEARCH_MS)

    covers = wait_for_covers(page)
    tab_to(page, covers.first)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="New cover 2 of 4")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="New cover 4 of 4")).to_be_visible()
    page.keyboard.press("Escape")
    expect(covers.nth(1)).to_be_focused()

    first = page.locator("#covers button").first
    tab_to(page, first)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#covers button").nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.locator("#covers button:focus")
    assert below.bounding_box()["y"] > first.bounding_box()["y"]  # type: ignore[index]
    page.keyboard.press("End")
    expect(page.locator("#covers button").last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#covers button").last).to_be_focused()

    tab_to(page, page.get_by_role("button", name="Make four covers"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    expect(page.get_by_role("heading", name="Set 2")).to_be_visible(timeout=GENERATE_MS)
    expect(page.get_by_role("button", name="Four more")).to_be_focused()
    assert visit.complaints == []


def test_what_is_no_song_is_refused_in_the_servers_words_and_the_page_goes_on(
    visit: Visit, site_url: str, song: Path
) -> None:
    page = visit.page
    page.goto(site_url)
    notes = FilePayload(name="notes.mp3", mimeType="audio/mpeg", buffer=b"not a song at all")
    page.get_by_label("Drop a song here").set_input_files(notes)
    expect(page.get_by_role("alert")).to_contain_text("notes.mp3")
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_role("heading", name="The nearest")).to_be_visible(timeout=SEARCH_MS)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_example_can_be_played_and_chosen_and_keeps_its_makers_name(visit: Visit, fake_url: str) -> None:
    page = visit.page
    page.goto(fake_url)
    page.get_by_role("button", name="Listen to Code Blue").click()
    expect(page.get_by_role("button", name="Listen to Code Blue")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name=re.compile("^Code Blue")).click()
    expect(page.get_by_role("heading", name="Code Blue")).to_be_visible()
    expect(page.locator("#song-credit")).to_contain_text("Jason Shaw (Audionautix.com), CC BY 4.0")
    assert visit.complaints == []


def test_making_can_be_cancelled_and_begun_again(visit: Visit, slow_url: str, song: Path) -> None:
    page = visit.page
    search(page, slow_url, song)
    expect(page.locator(".set-status")).to_contain_text("left", timeout=15_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".set")).to_have_count(0)
    expect(page.locator("#announcer")).to_contain_text("Cancelled")
    make = page.locator("#more")
    expect(make).to_have_text("Make four covers")
    expect(make).to_be_focused()
    make.click()
    expect(page.locator(".set.working")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".set")).to_have_count(0)
    assert visit.complaints == []


def test_a_seed_makes_the_same_covers_again_and_more_are_drawn_anew(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    search(page, fake_url, song)
    page.get_by_role("textbox", name="Seed").fill("41")
    page.get_by_role("button", name="Make four from seed 41").click()
    expect(page.locator("#current").get_by_role("button", name="Use seed 41 again")).to_be_visible()
    expect(page.locator("#sets .set")).to_have_count(1)
    page.get_by_role("button", name="Four more").click()
    expect(page.locator("#current").get_by_role("heading", name="Set 3")).to_be_visible()
    expect(page.locator("#sets .set")).to_have_count(2)
    page.locator("#sets").get_by_role("button", name="Use seed 41 again").click()
    expect(page.get_by_role("textbox", name="Seed")).to_have_value("41")


def test_without_events_the_page_asks_again_until_the_covers_are_there(visit: Visit, fake_url: str, song: Path) -> None:
    visit.page.route("**/events", lambda route: route.fulfill(status=404, body="{}"))
    search(visit.page, fake_url, song)
    wait_for_covers(visit.page)


def test_events_that_break_off_are_taken_up_after_the_last_one(visit: Visit, fake_url: str, song: Path) -> None:
    page, asked = visit.page, []
    job = '{"job_id": "%s", "state": "running", "progress": 0.5, "position": null}'

    def break_off(route: Route) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        body = f"id: 7\nevent: state\ndata: {job % route.request.url.split('/')[-2]}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/events", break_off, times=2)
    search(page, fake_url, song)
    wait_for_covers(page)
    assert asked == [None, "7"]
    assert visit.complaints == []


def test_a_busy_server_says_when_to_try_again(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    busy = '{"status": 429, "title": "Overloaded", "detail": "64 jobs are queued, the limit", "code": "overloaded"}'
    after = {"Retry-After": "7"}
    page.route("**/v1/covers", lambda route: route.fulfill(status=429, headers=after, body=busy), times=1)
    search(page, fake_url, song)
    expect(page.get_by_role("alert")).to_contain_text("64 jobs are queued")
    expect(page.get_by_role("alert")).to_contain_text("in 7 seconds")
    page.get_by_role("button", name="Try again").click()
    wait_for_covers(page)


def test_a_server_with_keys_asks_for_one(visit: Visit, locked_url: str, song: Path) -> None:
    page = visit.page
    page.goto(locked_url)
    expect(page.get_by_label("API key")).to_be_hidden()
    page.get_by_label("Drop a song here").set_input_files(song)
    page.get_by_label("API key").fill("open sesame")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The nearest hundred")).to_be_visible()
    wait_for_covers(page).first.click()
    expect(page.locator("#covers img").first).to_have_attribute("src", re.compile("^blob:"))
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG 512").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_label("API key")).to_be_visible()


def test_behind_a_key_a_picture_over_its_limit_of_requests_is_asked_for_again(
    visit: Visit, locked_url: str, song: Path
) -> None:
    page = visit.page
    full = {"Retry-After": "1"}
    page.route("**/cover?size=384", lambda route: route.fulfill(status=429, headers=full, body="{}"), times=4)
    page.goto(locked_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    page.get_by_label("API key").fill("open sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#covers .large img")).to_have_count(4)
    for picture in page.locator("#covers .large img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_attribute("src", re.compile("^blob:"))


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(browser: Browser, fake_url: str, song: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 740}, reduced_motion="reduce")
    page = context.new_page()

    def overflow() -> int:
        return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    page.goto(fake_url)
    expect(page.locator("#tracklist li").first).to_be_visible()
    assert overflow() == 0
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_role("heading", name="The nearest hundred")).to_be_visible()
    assert overflow() == 0
    wait_for_covers(page).first.click()
    expect(page.locator("#viewer")).to_be_visible()
    assert overflow() == 0
    assert page.locator("#viewer").evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") == 0
    page.get_by_role("button", name="Export for stores").click()
    expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()
    assert page.locator("#viewer").evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") == 0
    context.close()
