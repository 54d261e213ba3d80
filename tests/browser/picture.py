"""The README's picture of the page: a song with its new covers, from an endpoint that runs.

python -m tests.browser.picture http://127.0.0.1:8000 gatefold/examples/02_jazz.ogg infra/pictures/page.png
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.browser.conftest import FLAGS, WAIT_MS
from tests.browser.journeys import first_covers

SEED = 7
COLOURS = 256
SIZE = (1280, 900)
"""pixels across and down of the window"""


def take(url: str, song: Path, picture: Path) -> None:
    """Writes the picture, as a PNG with a palette: the whole page down to the nearest covers."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        size = {"width": SIZE[0], "height": SIZE[1]}
        page = browser.new_page(viewport=size, color_scheme="dark", reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_default_timeout(WAIT_MS)
        first_covers(page, url, song, SEED)
        for image in page.locator("#covers img").all():
            image.scroll_into_view_if_needed()
            expect(image).not_to_have_js_property("naturalWidth", 0)
        page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
        end = page.locator("#direction").bounding_box()
        assert end is not None
        shot = page.screenshot(
            full_page=True, clip={"x": 0, "y": 0, "width": SIZE[0], "height": end["y"] + end["height"] + 40}
        )
        browser.close()
    with Image.open(io.BytesIO(shot)) as drawn:
        drawn.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
