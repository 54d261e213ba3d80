"""Chromium and an endpoint to visit: the fake API on a free loopback port, or the one that GATEFOLD_TEST_URL names."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.fake_api import Kind, create_app

MUSIC = Path(__file__).parents[2] / "gatefold" / "examples"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

WAIT_MS = 30_000
"""milliseconds that an event may take on a busy machine"""
expect.set_options(timeout=WAIT_MS)


class FakeServer:
    """A fake API, or another application, in a thread of its own."""

    def __init__(
        self,
        step_s: float = 0.03,
        key: str | None = None,
        kind: Kind = "local-score",
        app: FastAPI | None = None,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        app = app or create_app(MUSIC, step_s, key, kind)
        config = uvicorn.Config(app, "127.0.0.1", self.port, log_level="warning", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FakeServer":
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < deadline, "the fake API did not start within 10 s"
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()


HANDED_OUT = """
const drawAny = crypto.getRandomValues.bind(crypto);
crypto.getRandomValues = (numbers) => {
  drawAny(numbers);
  if (numbers instanceof Uint32Array) numbers.forEach((drawn, at) => { numbers[at] = drawn - (drawn % 1000) + 100; });
  return numbers;
};
"""
"""seeds that a page draws at random are of covers that the fake API hands out: it refuses those that end in 000"""


class Visit:
    """A page with its complaints: errors of scripts, of the console and of the security policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.add_init_script(HANDED_OUT)
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.fail("the page is tested in Chromium, which is not here: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def fake_url() -> Iterator[str]:
    """A fast fake API."""
    with FakeServer(step_s=0.01) as server:
        yield server.url


@pytest.fixture(scope="session")
def slow_url() -> Iterator[str]:
    """A fake API whose covers take half a minute: there is time to cancel."""
    with FakeServer(step_s=1.2) as server:
        yield server.url


@pytest.fixture(scope="session")
def locked_url() -> Iterator[str]:
    """A fake API that asks for the key 'open sesame'."""
    with FakeServer(step_s=0.01, key="open sesame") as server:
        yield server.url


@pytest.fixture(scope="session")
def transformer_url() -> Iterator[str]:
    """A fake API whose generator knows neither novelty nor sources."""
    with FakeServer(step_s=0.01, kind="transformer") as server:
        yield server.url


@pytest.fixture(scope="session")
def site_url(request: pytest.FixtureRequest) -> str:
    """The endpoint that GATEFOLD_TEST_URL names, else the fast fake API."""
    return os.environ.get("GATEFOLD_TEST_URL") or str(request.getfixturevalue("fake_url"))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext) -> Visit:
    return Visit(context.new_page())


@pytest.fixture
def phone(browser: Browser) -> Iterator[Visit]:
    """A page on a phone: touched, not pointed at."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, accept_downloads=True
    )
    context.set_default_timeout(WAIT_MS)
    yield Visit(context.new_page())
    context.close()


@pytest.fixture
def song() -> Path:
    """A real song, 15 s of jazz."""
    return MUSIC / "02_jazz.ogg"
