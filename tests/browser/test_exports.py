"""A cover for the stores: title and artist, how it looks small, what was checked; by mouse, touch and keys."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visit
from tests.browser.journeys import first_covers, tab_to, wait_for_covers

pytestmark = pytest.mark.browser


def saved(page: Page, button: str, folder: Path) -> Path:
    """What a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_an_export_shows_the_very_file_large_at_64_pixels_and_in_a_list_and_saves_it(
    visit: Visit, fake_url: str, song: Path, tmp_path: Path
) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41).first.click()
    page.get_by_role("button", name="Export for stores").click()
    dialog = page.get_by_role("dialog", name="Export for stores")
    expect(dialog.get_by_label("Title", exact=True)).to_have_value("02 jazz")
    dialog.get_by_label("Artist", exact=True).fill("Ana Ruiz")
    dialog.get_by_label("For", exact=True).select_option("Apple Music")
    expect(dialog.get_by_role("button", name="Save the picture")).to_be_enabled()
    expect(dialog.get_by_role("img", name="The cover for Apple Music, with: 02 jazz by Ana Ruiz")).to_be_visible()
    small = dialog.get_by_role("img", name="The cover at 64 pixels")
    box = small.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (64, 64)
    expect(dialog.locator(".player-list .ours")).to_contain_text("02 jazzAna Ruiz")
    expect(dialog.locator(".player-list li")).to_have_count(3)
    expect(dialog.locator(".checks")).to_contain_text("enlarged 5.9 times from 512, set in Manrope ExtraBold")
    dialog.get_by_text("1 check passed", exact=True).click()
    expect(dialog.locator(".check-list")).to_contain_text("colour mode: RGB")
    expect(dialog).to_contain_text("Where a store asks whether artwork was made with AI, say yes")

    picture = saved(page, "Save the picture", tmp_path)
    assert picture.name == "cover-41-apple.jpg"
    with Image.open(picture) as image:
        assert image.size == (300, 300)
    with zipfile.ZipFile(saved(page, "Save with sources and checks", tmp_path)) as archive:
        assert archive.read("cover-41-apple.jpg") == picture.read_bytes()
        asked = json.loads(archive.read("cover-41-apple.jpg.json"))["asked"]
    assert asked == {"profile": "apple", "title": "02 jazz", "artist": "Ana Ruiz", "layout": "auto",
                     "letters": True, "answer": "zip"}  # fmt: skip
    page.get_by_role("button", name="Back to the cover").click()
    expect(page.get_by_role("dialog", name="New cover 1 of 4")).to_be_visible()
    assert visit.complaints == []


def test_a_rule_that_is_broken_is_named_and_mended_by_keys(visit: Visit, fake_url: str, song: Path) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41).first.click()
    tab_to(page, page.get_by_role("button", name="Export for stores"))
    page.keyboard.press("Enter")
    title = page.get_by_label("Title", exact=True)
    tab_to(page, title)
    page.keyboard.type("Ten $")
    page.keyboard.press("Enter")
    problem = page.get_by_role("alert").locator("visible=true")
    expect(problem).to_contain_text("does not keep the rules of this destination")
    expect(problem.get_by_role("listitem")).to_have_text(
        "title on the picture: found a price, allowed no addresses, handles or prices"
    )
    expect(page.get_by_role("button", name="Save the picture")).to_be_disabled()
    title.press("Backspace")
    title.press("Enter")
    expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()
    expect(problem).to_have_count(0)


def test_a_story_is_exported_on_a_phone_without_letters(
    phone: Visit, fake_url: str, song: Path, tmp_path: Path
) -> None:
    page = phone.page
    page.goto(fake_url)
    page.get_by_label("Drop a song here").set_input_files(song)
    wait_for_covers(page).first.tap()
    page.get_by_role("button", name="Export for stores").tap()
    page.get_by_label("For", exact=True).select_option("Story, 9:16")
    page.get_by_label("Title and artist on the picture").tap()
    expect(page.get_by_label("Placed")).to_be_disabled()
    expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()
    expect(page.locator(".export-small")).to_be_hidden()
    with zipfile.ZipFile(saved(page, "Save with sources and checks", tmp_path)) as archive:
        assert json.loads(archive.read(archive.namelist()[1]))["asked"]["letters"] is False
    assert phone.complaints == []


def test_the_artists_name_is_remembered_in_this_browser(
    visit: Visit, fake_url: str, song: Path, tmp_path: Path
) -> None:
    page = visit.page
    first_covers(page, fake_url, song, 41).first.click()
    page.get_by_role("button", name="Export for stores").click()
    page.get_by_label("Artist", exact=True).fill("Ana Ruiz")
    page.get_by_label("Artist", exact=True).press("Enter")
    expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()
    saved(page, "Save the picture", tmp_path)
    page.get_by_role("button", name="Back to the cover").click()
    page.get_by_role("button", name="Next cover").click()
    page.get_by_role("button", name="Export for stores").click()
    expect(page.get_by_label("Artist", exact=True)).to_have_value("Ana Ruiz")
