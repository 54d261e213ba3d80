"""Any picture comes in upright, square and in sRGB."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from gatefold.config import CoverSettings
from gatefold.errors import UndecodableCover
from gatefold.export.picture import read_picture

COVER = CoverSettings()


def file(picture: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def test_the_square_in_the_middle_keeps_the_files_own_size() -> None:
    wide = Image.new("RGB", (90, 50), "red")
    wide.paste((0, 0, 255), (20, 0, 70, 50))
    read, _ = read_picture(file(wide, "PNG"), COVER)
    assert read.size == (50, 50)
    assert np.asarray(read)[:, 2:-2].reshape(-1, 3).min(0).tolist() == [0, 0, 255]


def test_colours_of_another_profile_are_brought_into_srgb() -> None:
    swapped = bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped = swapped[:red] + b"gXYZ" + swapped[red + 4 : green] + b"rXYZ" + swapped[green + 4 :]
    read, _ = read_picture(file(Image.new("RGB", (20, 20), (255, 0, 0)), "PNG", icc_profile=swapped), COVER)
    shown = np.asarray(read)[10, 10]
    assert shown[1] > 240
    assert shown[0] < 20


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UndecodableCover):
        read_picture(b"no picture", COVER)
