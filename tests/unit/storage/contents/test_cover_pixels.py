import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gatefold.config import CoverSettings
from gatefold.errors import Corrupt, StageMissing
from gatefold.images.pixels import resized
from gatefold.records import cover_schema
from gatefold.storage import objects, tables
from gatefold.storage.contents import cover_pixels
from gatefold.storage.contents.cover_pixels import CoverPixels, read_pixels
from tests.drawn import drawn_covers

COVER = CoverSettings(size=64)
COVERS = drawn_covers(6, 64)
BYTES = 3 * 64 * 64


@pytest.fixture
def folder(tmp_path: Path) -> str:
    uri = objects.resolve(str(tmp_path / "covers"))
    column = tables.tensor_column([COVERS], cover_schema(COVER).field("pixels").type)
    tables.write_part(uri, "part", pa.table({"song_id": [f"s{n}" for n in range(6)], "pixels": column}))
    return uri


def test_covers_come_at_the_size_asked_for_by_averaging_and_missing_ones_are_left_out(folder: str) -> None:
    found = read_pixels(folder, ["s4", "s1", "nobody"], 16)
    assert sorted(found) == ["s1", "s4"]
    assert np.array_equal(found["s4"], resized(COVERS[4], 16))
    block = COVERS[4][:, :4, :4].astype(float).mean((1, 2))
    assert np.abs(found["s4"][:, 0, 0] - block).max() <= 1  # which rounds along both axes
    assert read_pixels(folder, ["nobody"], 16) == {}


def test_a_table_that_is_not_there_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="gatefold covers"):
        read_pixels(objects.resolve(str(tmp_path / "nothing")), ["s1"], 16)


def test_what_was_read_last_is_kept_within_a_limit_in_bytes(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []

    def counted(uri: str, song_ids: list[str], size: int) -> dict[str, cover_pixels.Pixels]:
        read.append(list(song_ids))
        return read_pixels(uri, song_ids, size)

    monkeypatch.setattr(cover_pixels, "read_pixels", counted)
    pixels = CoverPixels(folder, COVER, 2 * BYTES + 1, lambda _: None)
    for asked in (["s1", "s2"], ["s2"], ["s3"], ["s2", "s1"]):
        assert all(np.array_equal(found, COVERS[int(name[1:])]) for name, found in pixels.read(asked).items())
    assert read == [["s1", "s2"], ["s3"], ["s1"]]


def test_without_room_nothing_is_kept_and_all_is_found(folder: str) -> None:
    pixels = CoverPixels(folder, COVER, 0, lambda _: None)
    assert sorted(pixels.read(["s1", "s2"])) == ["s1", "s2"]
    assert not pixels._kept


def test_an_original_is_read_at_any_size_and_says_how_large_it_is(folder: str, tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.fromarray(drawn_covers(6, 256)[2].transpose(1, 2, 0)).save(sink, "PNG")
    (tmp_path / "two.png").write_bytes(sink.getvalue())
    pixels = CoverPixels(folder, COVER, 0, {"s2": (tmp_path / "two.png").as_uri()}.get)
    for size in (128, 512):
        found, side = pixels.original("s2", size)
        assert (found.shape, side) == ((3, size, size), 256)
    with pytest.raises(Corrupt, match="the index names no file for it"):
        pixels.original("s3", 128)
