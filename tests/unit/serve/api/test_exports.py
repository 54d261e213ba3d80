"""New covers as files over HTTP: sizes, formats, profiles, title and artist, disclosure, credentials, bounds."""

import asyncio
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from gatefold.config import ServeSettings, Settings, load
from gatefold.errors import Overloaded
from gatefold.export.credentials import verify
from gatefold.export.disclosure import SOURCE_TYPES, source_type_in
from gatefold.export.preflight import preflight
from gatefold.export.profiles import PROFILES
from serve.api.exports import ExportOptions, ExportQueue
from serve.app import ApiArgs, export_options
from serve.deploy import export_args
from tests.certificates import new_signer

BLUE = {"title": "Midnight Blue", "artist": "Alma Ruiz"}


def image_url(client: Any, **body: Any) -> str:
    """Of the first image of a new job."""
    job = client.post("/v1/covers", json={"song_id": "t3", "n": 1, "seed": 9, "size": 64, **body},
                      headers={"Prefer": "wait=20"}).json()  # fmt: skip
    url: str = job["images"][0]["url"]
    return url


def opened(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", PROFILES)
def test_an_export_passes_the_preflight_of_its_profile(endpoint: Callable[..., Any], name: str) -> None:
    client = endpoint().client
    answer = client.post(f"{image_url(client)}/export", json={"profile": name, **BLUE})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == f'attachment; filename="cover-9-{name}.jpg"'
    assert opened(answer).size == (PROFILES[name].width, PROFILES[name].height)
    assert all(check.passed for check in preflight(answer.content, PROFILES[name]))


def test_a_zip_holds_the_picture_and_a_sidecar_with_sources_and_shares(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    answer = client.post(f"{image_url(client)}/export", json={"profile": "social-16x9", **BLUE, "answer": "zip"})
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["cover-9-social-16x9.jpg", "cover-9-social-16x9.jpg.json"]
    sidecar = json.loads(archive.read("cover-9-social-16x9.jpg.json"))
    assert [one["share"] for one in sidecar["sources"]] == [0.5, 0.5]
    assert (sidecar["title"], sidecar["creator"]) == ("Midnight Blue", "Alma Ruiz")
    assert (sidecar["seed"], sidecar["release"]) == (9, "r1")
    assert sidecar["enlarged"]["from"] == [8, 8]
    assert [" ".join(lines) for lines in sidecar["lettering"]["lines"]] == ["Midnight Blue", "Alma Ruiz"]


def test_title_and_artist_may_be_metadata_alone(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    body = {"profile": "social-9x16", **BLUE, "letters": False, "format": "png"}
    picture = opened(client.post(f"{image_url(client)}/export", json=body))
    colours = picture.getcolors()
    assert colours is not None  # grey as it was generated, no letters
    assert len(colours) == 1


@pytest.mark.parametrize("kind", ["local-score", "transformer"])
def test_every_image_discloses_how_it_was_generated(endpoint: Callable[..., Any], kind: str) -> None:
    e = endpoint()
    url = image_url(e.client)
    e.generator.kind = kind
    for query in ("", "?format=jpeg", "?format=webp&size=32", "?download=1", "?profile=social-9x16"):
        assert source_type_in(opened(e.client.get(url + query))) == SOURCE_TYPES[kind]


def test_a_job_of_a_former_release_discloses_the_most(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    url = image_url(e.client)
    with e.active.current() as serving:
        e.active.switch_to(replace(serving, release=replace(serving.release, version="r2")))
    found = source_type_in(opened(e.client.get(url)))
    assert found == SOURCE_TYPES["diffusers"]


@pytest.mark.parametrize(
    ("query", "format", "size"),
    [
        ("", "PNG", (64, 64)),
        ("?size=3000&format=jpeg", "JPEG", (3000, 3000)),
        ("?size=1500&format=webp&quality=60", "WEBP", (1500, 1500)),
        ("?profile=spotify", "JPEG", (3000, 3000)),
        ("?profile=social-16x9&format=png", "PNG", (1920, 1080)),
        ("?profile=distrokid&format=webp", "JPEG", (3000, 3000)),
        ("?profile=bandcamp&size=20", "JPEG", (3000, 3000)),
        ("?quality=10", "PNG", (64, 64)),
    ],
)
def test_an_image_has_the_size_format_and_profile_asked_for(
    endpoint: Callable[..., Any], query: str, format: str, size: tuple[int, int]
) -> None:
    client = endpoint().client
    picture = opened(client.get(image_url(client) + query))
    assert (picture.format, picture.size, picture.mode) == (format, size, "RGB")


def test_a_lower_quality_is_smaller_and_another_etag(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    url = image_url(client)
    fine, rough = client.get(f"{url}?format=jpeg&quality=95"), client.get(f"{url}?format=jpeg&quality=10")
    assert len(rough.content) < len(fine.content)
    assert fine.headers["etag"] != rough.headers["etag"]
    again = client.get(f"{url}?format=jpeg&quality=95", headers={"If-None-Match": fine.headers["etag"]})
    assert again.status_code == 304


def test_with_a_certificate_what_is_kept_is_signed_and_what_is_looked_at_is_not(endpoint: Callable[..., Any]) -> None:
    signer, root = new_signer()
    client = endpoint(exports=ExportOptions("Test Records", signer)).client
    url = image_url(client)
    exported = client.post(f"{url}/export", json={"profile": "spotify", **BLUE})
    assert verify(exported.content, "jpeg", root).state == "Trusted"
    assert all(check.passed for check in preflight(exported.content, PROFILES["spotify"]))
    for query in ("?download=1&format=jpeg", "?profile=social-16x9"):
        kept = client.get(url + query)
        assert verify(kept.content, "jpeg", root).state == "Trusted"
        assert kept.headers["cache-control"] == "private, no-store"
    assert not verify(client.get(f"{url}?format=jpeg").content, "jpeg", root).holds
    assert b"Test Records" in client.get(url).content


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "profile"),
        ({"profile": "myspace"}, 422, "profile = 'myspace'"),
        ({"profile": "spotify", "title": "世"}, 422, "no font has '世' (U+4E16)"),
        ({"profile": "spotify", "title": "a\nb"}, 422, "U+000A"),
        ({"profile": "spotify", "title": "see www.al.com"}, 422, "title on the picture: found a web address"),
        ({"profile": "spotify", "title": ""}, 422, "title = ''"),
        ({"profile": "spotify", "layout": "circle"}, 422, "layout = 'circle'"),
        ({"profile": "spotify", "quality": "9"}, 422, "quality = '9'"),
        ({"profile": "spotify", "titel": "x"}, 422, "titel"),
        ({"profile": "social-9x16", "title": "word " * 50 + "end"}, 422, "too long to be legible"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(
    endpoint: Callable[..., Any], body: dict[str, Any], status: int, said: str
) -> None:
    client = endpoint().client
    answer = client.post(f"{image_url(client)}/export", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_an_export_of_no_image_or_of_no_json_is_refused(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    url = image_url(client)
    body = {"profile": "spotify"}
    assert client.post(f"{url.removesuffix('0')}5/export", json=body).status_code == 404
    assert client.post("/v1/covers/nobody/images/0/export", json=body).status_code == 404
    assert client.post(f"{url}/export", data={"profile": "spotify"}).status_code == 415
    assert client.post(f"{url}/export", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    assert endpoint(keys="ab" * 32).client.post(f"{url}/export", json=body).status_code == 401


def test_more_exports_than_may_wait_are_refused_with_the_time_to_wait() -> None:
    held = threading.Event()

    async def crowd() -> list[Any]:
        queue = ExportQueue(1, 1)
        running = [asyncio.create_task(queue.run(held.wait)) for _ in range(3)]
        await asyncio.sleep(0.05)
        held.set()
        results = await asyncio.gather(*running, return_exceptions=True)
        assert await queue.run(lambda: 5) == 5  # there is room again
        return results

    done = asyncio.run(crowd())
    assert done[:2] == [True, True]
    assert isinstance(done[2], Overloaded)
    assert done[2].retry_after_s >= 1
    assert "serve.exports_queued_max" in done[2].message


def test_an_export_whose_client_has_gone_keeps_its_place_until_it_is_done() -> None:
    held = threading.Event()

    async def hang_up() -> None:
        queue = ExportQueue(1, 0)
        gone = asyncio.create_task(queue.run(held.wait))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait({gone})
        with pytest.raises(Overloaded):
            await queue.run(lambda: 5)
        held.set()
        while True:
            try:
                assert await queue.run(lambda: 5) == 5
                return
            except Overloaded:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(hang_up(), 10))


def test_no_more_exports_run_at_once_than_are_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def crowd() -> None:
        queue = ExportQueue(2, 20)
        await asyncio.gather(*(queue.run(work) for _ in range(10)))

    asyncio.run(crowd())
    assert most == 2


def test_the_command_that_deploys_hands_the_certificate_to_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    signer, _ = new_signer()
    monkeypatch.setenv("CHAIN", signer.certificate_chain)
    monkeypatch.setenv("KEY", signer.private_key)
    settings = load(None, ["export.certificate_chain=env:CHAIN", "export.private_key=env:KEY", "export.credit=Alma"])
    args = ApiArgs(workspace="/w", **export_args(settings))
    assert export_options(args) == ExportOptions("Alma", signer)
    assert "PRIVATE KEY" not in repr(args)
    assert export_options(ApiArgs(workspace="/w", **export_args(Settings()))) == ExportOptions()


def test_an_export_that_fails_leaves_its_place() -> None:
    async def fail() -> None:
        queue = ExportQueue(1, 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await queue.run(lambda: 1 // 0)

    asyncio.run(fail())


def test_a_full_endpoint_answers_429(endpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    client = endpoint(ServeSettings(exports_max=1, exports_queued_max=0)).client
    url = image_url(client)
    began, held = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        began.set()
        held.wait(10)
        raise Overloaded("the test is over", 1)

    monkeypatch.setattr("serve.api.exports.export_cover", slow)
    first = threading.Thread(target=client.post, args=(f"{url}/export",), kwargs={"json": {"profile": "spotify"}})
    first.start()
    assert began.wait(5)
    answer = client.post(f"{url}/export", json={"profile": "spotify"})
    held.set()
    first.join()
    assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (429, True)
    assert client.get(url).status_code == 200  # a small image waits for nothing
