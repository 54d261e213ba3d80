import io

import numpy as np
import pytest
from PIL import Image

from gatefold.generator.attribution import MAP_SIZE, attribute, colours, draw_map, largest_region


def test_sources_come_by_share_and_sum_to_one() -> None:
    holder = np.zeros((4, 4), np.int16)
    holder[:, 3] = 2
    found = attribute(["a", "b", "c"], np.array([0.7, 0.05, 0.25]), holder)
    assert [(share.song_id, round(share.share, 2)) for share in found.shares] == [("a", 0.7), ("c", 0.25), ("b", 0.05)]
    assert sum(share.share for share in found.shares) == pytest.approx(1)
    assert [share.largest_region for share in found.shares] == [0.75, 0.25, 0.0]
    assert np.array_equal(found.holder, (holder == 2).astype(np.uint8))


def test_a_trace_of_a_source_is_left_out_and_the_rest_still_sums_to_one() -> None:
    found = attribute(["a", "b"], np.array([1 - 5e-5, 5e-5]), np.zeros((2, 2), np.int16))
    assert [(share.song_id, share.share) for share in found.shares] == [("a", 1.0)]


def test_a_region_is_connected_by_sides_not_by_corners() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    assert largest_region(mask) == pytest.approx(2 / 9)
    assert largest_region(np.zeros((3, 3), bool)) == 0.0


def test_more_sources_than_an_index_of_a_byte_holds_keep_those_with_pixels() -> None:
    count = 600
    holder = np.arange(256).reshape(16, 16).astype(np.int16) * 2
    share = np.full(count, 1 / count)
    found = attribute([f"s{n}" for n in range(count)], share, holder)
    assert len(found.shares) == 256
    assert {share.song_id for share in found.shares} == {f"s{n}" for n in range(0, 512, 2)}
    assert sum(share.share for share in found.shares) == pytest.approx(1)


def test_no_two_sources_have_one_colour() -> None:
    found = colours(256)
    assert len(set(found)) == 256
    assert all(0 <= value <= 255 for colour in found for value in colour)


def test_the_map_shows_the_holders_in_their_colours_at_no_more_than_its_size() -> None:
    holder = np.zeros((600, 600), np.int16)
    holder[300:] = 1
    attribution = attribute(["a", "b"], np.array([0.4, 0.6]), holder)
    picture = Image.open(io.BytesIO(draw_map(attribution)))
    assert max(picture.size) <= MAP_SIZE
    assert picture.getpixel((5, 5)) == colours(2)[1]
    assert picture.getpixel((5, picture.height - 5)) == colours(2)[0]
