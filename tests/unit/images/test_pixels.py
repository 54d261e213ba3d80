"""Pictures of every kind come in as the square that is meant, and go out as files."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gatefold.config import CoverSettings
from gatefold.errors import EmptyFile, TooLarge, UndecodableCover
from gatefold.images.pixels import decode_cover, encode_picture, resized, to_model, to_pixels

COVER = CoverSettings(size=32)
RED = (200, 30, 40)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    return bool((np.abs(pixels.astype(int) - np.array(colour)[:, None, None]) <= tolerance).all())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_allowed_format_gives_the_same_square(format: str) -> None:
    pixels = decode_cover(encoded(Image.new("RGB", (100, 80), RED), format), COVER)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), np.dtype(np.uint8))
    assert pixels.flags.c_contiguous
    assert near(pixels, RED)


@pytest.mark.parametrize(
    ("mode", "colour", "format", "expected"),
    [
        ("L", 120, "PNG", (120, 120, 120)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("P", 0, "PNG", (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("L", 120, "JPEG", (120, 120, 120)),
        ("I;16", 40_000, "PNG", (156, 156, 156)),
        ("LA", (0, 0), "PNG", (255, 255, 255)),
        ("RGBA", (0, 0, 255, 0), "PNG", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), "WEBP", (127, 127, 127)),
    ],
)
def test_every_mode_becomes_rgb_over_white(
    mode: str, colour: float | tuple[int, ...], format: str, expected: tuple[int, int, int]
) -> None:
    assert near(decode_cover(encoded(Image.new(mode, (64, 64), colour), format), COVER), expected)


def test_a_transparent_palette_lies_over_white() -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    assert near(decode_cover(encoded(picture, "GIF", transparency=0), COVER), (255, 255, 255))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, (0, 0, 255))]
    assert near(decode_cover(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), COVER), RED)


def test_the_camera_s_orientation_is_honoured() -> None:
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (0, 0, 64, 32))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: white comes to the right
    pixels = decode_cover(encoded(picture, "JPEG", exif=exif, quality=95), COVER)
    assert pixels[:, :, :12].mean() < 20
    assert pixels[:, :, 20:].mean() > 235


@pytest.mark.parametrize("size", [(96, 32), (32, 96)])
def test_the_middle_is_kept_and_the_sides_are_cut(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "blue")
    picture.paste(RED, ((size[0] - 32) // 2, (size[1] - 32) // 2, (size[0] + 32) // 2, (size[1] + 32) // 2))
    assert near(decode_cover(encoded(picture, "PNG"), COVER), RED, tolerance=0)


def test_a_single_pixel_is_a_picture() -> None:
    assert near(decode_cover(encoded(Image.new("RGB", (1, 1), RED), "PNG"), COVER), RED, tolerance=0)


def test_fine_detail_is_averaged_not_sampled() -> None:
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(decode_cover(encoded(Image.fromarray(checks), "PNG"), COVER).astype(int) - 127).max() <= 2


def test_a_large_jpeg_decoded_in_part_looks_as_decoded_in_full() -> None:
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    data = encoded(blocks.resize((1000, 1000), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole = encoded(Image.open(io.BytesIO(data)), "PNG")
    difference = decode_cover(data, COVER).astype(int) - decode_cover(whole, COVER).astype(int)
    assert np.abs(difference).mean() < 1.5


def test_an_empty_file_is_distinguished_from_a_broken_one() -> None:
    with pytest.raises(EmptyFile):
        decode_cover(b"", COVER)


NO_PICTURES = [b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg></svg>", b"II*\0" + b"\0" * 40]


@pytest.mark.parametrize("data", NO_PICTURES)
def test_what_is_no_picture_is_refused_with_what_is_allowed(data: bytes) -> None:
    with pytest.raises(UndecodableCover, match=r"allowed: JPEG, PNG, WebP, GIF, BMP|damaged"):
        decode_cover(data, COVER)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_that_is_cut_short_is_refused(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    for kept in (len(data) // 2, len(data) // 4, 30):
        with pytest.raises(UndecodableCover):
            decode_cover(data[:kept], COVER)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_never_raise_anything_but_our_own_errors(format: str) -> None:
    rng = np.random.default_rng(1)
    data = encoded(Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)), format)
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            damaged[place] = int(rng.integers(0, 256))
        try:
            assert decode_cover(bytes(damaged), COVER).shape == (3, 32, 32)
        except (UndecodableCover, TooLarge):
            continue


def test_limits_are_checked_before_decoding() -> None:
    data = encoded(Image.new("RGB", (100, 50)), "PNG")
    with pytest.raises(TooLarge, match=r"limit 50; .*cover\.max_bytes"):
        decode_cover(data, CoverSettings(max_bytes=50))
    with pytest.raises(TooLarge, match=r"100 x 50 pixels, limit 4,999 .*cover\.max_pixels"):
        decode_cover(data, CoverSettings(max_pixels=4_999))
    assert decode_cover(data, CoverSettings(size=32, max_pixels=5_000)).shape == (3, 32, 32)


def test_a_decompression_bomb_is_refused() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 100) + b"IDAT" + b"\0" * 104
    with pytest.raises(TooLarge, match="pixels"):
        decode_cover(data, COVER)


def test_pixels_survive_the_model_s_range() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).reshape(1, 3, 16, 16)
    values = to_model(pixels)
    assert (values.dtype, values.min().item(), values.max().item()) == (torch.float32, -1.0, 1.0)
    assert torch.equal(to_pixels(values), pixels)
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_a_picture_is_written_at_any_size_and_always_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    exact = np.asarray(Image.open(io.BytesIO(encode_picture(pixels, 32, "png"))))
    assert np.array_equal(exact.transpose(2, 0, 1), pixels)
    for size in (16, 100):
        for format in ("png", "jpeg"):
            data = encode_picture(pixels, size, format)
            picture = Image.open(io.BytesIO(data))
            assert (picture.size, picture.format, picture.mode) == ((size, size), format.upper(), "RGB")
            assert encode_picture(pixels, size, format) == data


def test_a_smaller_picture_has_the_averages_of_the_larger_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 24, 24), np.uint8)
    expected = pixels.reshape(2, 5, 3, 8, 3, 8, 3).mean((4, 6))
    smaller = resized(pixels, 8)
    assert (smaller.shape, smaller.dtype) == ((2, 5, 3, 8, 8), np.dtype(np.uint8))
    assert np.abs(smaller - expected).max() <= 1.01  # rows are rounded before columns are averaged


def test_a_larger_picture_of_one_colour_keeps_it_and_one_of_the_right_size_is_not_touched() -> None:
    pixels = np.full((3, 16, 16), 77, np.uint8)
    assert (resized(pixels, 40) == 77).all()
    assert resized(pixels, 40).shape == (3, 40, 40)
    assert resized(pixels, 16) is pixels


def test_no_pictures_are_resized_to_no_pictures() -> None:
    assert resized(np.zeros((0, 3, 16, 16), np.uint8), 8).shape == (0, 3, 8, 8)
