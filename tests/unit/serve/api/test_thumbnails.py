"""Covers of the catalogue as small pictures: which bytes they come from."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gatefold.config import CoverSettings
from gatefold.errors import StorageDenied, StorageUnavailable, TooLarge
from gatefold.images.pixels import encode_picture
from gatefold.records import cover_schema
from gatefold.storage import tables
from gatefold.storage.contents.cover_pixels import CoverPixels
from serve.api import thumbnails

STORED = CoverSettings(size=32)
DARK, LIGHT = 40, 200


def stored(endpoint: Any, *song_ids: str) -> None:
    """Writes light covers of these songs into the covers table."""
    pixels = [np.full((3, STORED.size, STORED.size), LIGHT, np.uint8) for _ in song_ids]
    column = tables.tensor_column(pixels, cover_schema(STORED).field("pixels").type)
    tables.write_part(endpoint.workspace.covers(STORED), "part", pa.table({"song_id": song_ids, "pixels": column}))


@pytest.fixture
def original(tmp_path: Path) -> str:
    """A dark original."""
    path = tmp_path / "original.png"
    path.write_bytes(encode_picture(np.full((3, 8, 8), DARK, np.uint8), 400, "png"))
    return path.as_uri()


def shade(answer: Any) -> int:
    assert answer.status_code == 200, answer.text
    return round(float(np.asarray(Image.open(io.BytesIO(answer.content))).mean()))


def test_a_small_cover_comes_from_the_table_and_no_original_is_read(endpoint: Callable[..., Any]) -> None:
    e = endpoint(cover_uri="file:///nowhere/c.png")
    stored(e, "t1")
    for size in (16, 32):
        answer = e.client.get(f"/v1/tracks/t1/cover?size={size}")
        assert shade(answer) == LIGHT
        assert Image.open(io.BytesIO(answer.content)).size == (size, size)


def test_a_cover_larger_than_the_tables_comes_from_its_original(endpoint: Callable[..., Any], original: str) -> None:
    e = endpoint(cover_uri=original)
    stored(e, "t1")
    answer = e.client.get("/v1/tracks/t1/cover?size=64")
    assert shade(answer) == DARK
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


@pytest.mark.parametrize("rows", [[], ["t2"]])
def test_what_the_table_does_not_have_comes_from_its_original(
    endpoint: Callable[..., Any], original: str, rows: list[str]
) -> None:
    e = endpoint(cover_uri=original)
    if rows:
        stored(e, *rows)
    assert shade(e.client.get("/v1/tracks/t1/cover?size=16")) == DARK


def test_covers_asked_for_together_are_read_together(
    endpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    e = endpoint(cover_uri="file:///nowhere/c.png")
    ids = [f"t{number}" for number in range(40)]
    stored(e, *ids)
    reads: list[int] = []
    read = CoverPixels.read

    def counted(self: CoverPixels, song_ids: list[str]) -> Any:
        reads.append(len(song_ids))
        time.sleep(0.2)  # so that all others have come by then
        return read(self, song_ids)

    monkeypatch.setattr(CoverPixels, "read", counted)
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda one: e.client.get(f"/v1/tracks/{one}/cover?size=16"), ids))
    assert [shade(answer) for answer in answers] == [LIGHT] * 40
    assert sum(reads) == 40
    assert len(reads) < 10


def test_a_table_that_does_not_answer_is_left_alone_for_a_while(
    endpoint: Callable[..., Any], original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = endpoint(cover_uri=original)
    stored(e, "t1")
    reads: list[str] = []

    def slow(_: CoverPixels, song_ids: list[str]) -> dict[str, Any]:
        reads.extend(song_ids)
        time.sleep(0.5)
        return {}

    monkeypatch.setattr(CoverPixels, "read", slow)
    monkeypatch.setattr(thumbnails, "TABLE_WITHIN_S", 0.05)
    assert shade(e.client.get("/v1/tracks/t1/cover?size=16")) == DARK
    assert shade(e.client.get("/v1/tracks/t2/cover?size=16")) == DARK
    assert reads == ["t1"]


@pytest.mark.parametrize(
    ("error", "status"), [(TooLarge, 404), (StorageUnavailable, 503), (StorageDenied, 500), (ValueError, 500)]
)
def test_an_original_that_cannot_be_read_names_no_place(
    endpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int
) -> None:
    def fails(uri: str, _: int) -> bytes:
        raise error(f"'{uri}' of account 10.0.0.7")

    monkeypatch.setattr(thumbnails, "read_cover", fails)
    answer = endpoint(cover_uri="s3://secret-bucket/c.png").client.get("/v1/tracks/t1/cover?size=64")
    assert answer.status_code == status
    assert "secret-bucket" not in answer.text
    assert "10.0.0.7" not in answer.text
