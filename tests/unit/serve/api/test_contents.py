"""Pictures as any client of HTTP may ask for them: again, in part, or only for what they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.images.pixels import encode_picture

WAIT = {"Prefer": "wait=10"}


@pytest.fixture(params=["image", "jpeg", "sources", "cover"])
def picture(request: pytest.FixtureRequest, endpoint: Callable[..., Any], tmp_path: Path) -> tuple[Any, str]:
    """A client, and the path of each kind of picture."""
    path = tmp_path / "c.png"
    path.write_bytes(encode_picture(np.zeros((3, 64, 64), np.uint8), 400, "png"))
    e = endpoint(cover_uri=path.as_uri())
    if request.param == "cover":
        return e.client, "/v1/tracks/t1/cover?size=64"
    image = e.client.post("/v1/covers", json={"song_id": "t3", "n": 1}, headers=WAIT).json()["images"][0]
    paths = {"image": image["url"], "jpeg": f"{image['url']}?format=jpeg&size=64", "sources": image["sources_map_url"]}
    return e.client, paths[request.param]


def test_what_a_client_has_already_is_not_sent_again(picture: tuple[Any, str]) -> None:
    client, path = picture
    whole = client.get(path)
    tag = whole.headers["etag"]
    assert tag.startswith('"')
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == whole.headers["cache-control"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_says_all_that_get_does_without_the_picture(picture: tuple[Any, str]) -> None:
    client, path = picture
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "cache-control", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    assert client.head(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=10-19", "bytes=5-", "bytes=-7", "bytes=3-99999999", "BYTES=0-0"])
def test_a_part_is_the_part_of_the_whole(picture: tuple[Any, str], asked: str) -> None:
    client, path = picture
    whole = client.get(path)
    first, last = asked[6:].split("-")
    start, end = (int(first), int(last or len(whole.content))) if first else (len(whole.content) - int(last), 10**9)
    wanted = whole.content[start : end + 1]
    part = client.get(path, headers={"Range": asked})
    assert (part.status_code, part.content) == (206, wanted)
    size = len(whole.content)
    assert part.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{size}"
    assert part.headers["content-length"] == str(len(wanted))
    assert part.headers["etag"] == whole.headers["etag"]


def test_a_part_that_is_not_there_is_416_with_the_size(picture: tuple[Any, str]) -> None:
    client, path = picture
    size = len(client.get(path).content)
    for asked in (f"bytes={size}-", "bytes=99999999-", "bytes=-0"):
        answer = client.get(path, headers={"Range": asked})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "0-5"])
def test_a_range_that_is_none_gives_the_whole(picture: tuple[Any, str], asked: str) -> None:
    client, path = picture
    assert client.get(path, headers={"Range": asked}).status_code == 200


def test_a_part_of_something_older_is_not_sent(picture: tuple[Any, str]) -> None:
    client, path = picture
    tag = client.get(path).headers["etag"]
    for known, status in ((tag, 206), ('"other"', 200), ("Wed, 21 Oct 2026 07:28:00 GMT", 200)):
        assert client.get(path, headers={"Range": "bytes=0-3", "If-Range": known}).status_code == status


def test_a_stream_that_is_over_answers_204_to_who_has_seen_its_end(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    job = e.client.post("/v1/covers", json={"song_id": "t3"}, headers=WAIT).json()
    url = f"/v1/covers/{job['job_id']}/events"
    last = e.client.get(url).text.count("id: ")
    for seen in (last, last + 7):
        over = e.client.get(url, headers={"Last-Event-ID": str(seen)})
        assert (over.status_code, over.content) == (204, b"")
    assert e.client.get(url, headers={"Last-Event-ID": str(last - 1)}).status_code == 200
    assert e.client.get(url, headers={"Last-Event-ID": "9" * 5000}).status_code == 200
