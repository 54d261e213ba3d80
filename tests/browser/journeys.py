"""What several tests do on the page: search for a song, reach an element by Tab, wait for new covers."""

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

SEARCH_MS = 60_000
GENERATE_MS = 300_000
"""milliseconds; a real endpoint may generate on a CPU"""
TABS = 120
FIRST_NUMBER = """
const draw = crypto.getRandomValues.bind(crypto);
crypto.getRandomValues = (numbers) => {{ crypto.getRandomValues = draw; return numbers.fill({seed}); }};
"""
"""the first number that a page draws at random is that of its first seed"""


def search(page: Page, url: str, song: Path, seed: int | None = None) -> None:
    """Opens the page, hands a song in, and waits for its covers to be found.

    Args:
        seed: that the page draws for the covers which begin by themselves; random when None.
    """
    if seed is not None:
        page.add_init_script(FIRST_NUMBER.format(seed=seed))
    page.goto(url)
    page.get_by_label("Drop a song here").set_input_files(song)
    expect(page.get_by_role("heading", name="The nearest")).to_be_visible(timeout=SEARCH_MS)


def first_covers(page: Page, url: str, song: Path, seed: int, count: int = 4) -> Locator:
    """The covers that begin by themselves for a song, from a seed; those that are handed out."""
    search(page, url, song, seed)
    return wait_for_covers(page, count)


def tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until the wanted element has the focus."""
    for _ in range(TABS):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} was not reached within {TABS} presses of Tab")


def wait_for_covers(page: Page, count: int = 4) -> Locator:
    """The new covers in the sleeve, with their pictures loaded."""
    expect(page.locator("#current .set:not(.working)")).to_be_visible(timeout=GENERATE_MS)
    covers = page.locator("#current").get_by_role("button", name=re.compile("^New cover"))
    expect(covers).to_have_count(count)
    for picture in covers.locator("img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    return covers


def generate(page: Page, seed: int, count: int = 4) -> Locator:
    """Makes covers from a seed, once those before are done, and waits for those that are handed out."""
    page.get_by_role("textbox", name="Seed").fill(str(seed))
    page.get_by_role("button", name=re.compile(f"from seed {seed}$")).click()
    expect(page.locator("#current").get_by_role("button", name=f"Use seed {seed} again")).to_be_visible(
        timeout=GENERATE_MS
    )
    return wait_for_covers(page, count)
