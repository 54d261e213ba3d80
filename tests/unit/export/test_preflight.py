"""Preflight on any file: each rule that is broken is named, with what was found and what is allowed."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from gatefold.errors import PreflightFailed
from gatefold.export.colour import is_srgb, srgb_profile, to_srgb
from gatefold.export.disclosure import Disclosure, source_type_of, xmp_packet
from gatefold.export.encoding import encode
from gatefold.export.preflight import Check, preflight, require
from gatefold.export.profiles import Profile, plain, profile_named

APPLE = profile_named("apple")
SMALL = plain(64, "jpeg")
XMP = xmp_packet(Disclosure(source_type_of("transformer"), "credit"))
SRGB = srgb_profile()


def file(picture: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def square(mode: str = "RGB", size: int = 64) -> Image.Image:
    return Image.new(mode, (size, size))


def failed(data: bytes, profile: Profile = SMALL) -> dict[str, Check]:
    return {check.rule: check for check in preflight(data, profile) if not check.passed}


def test_a_file_that_keeps_every_rule_passes() -> None:
    assert failed(encode(square(), "jpeg", 90, XMP)) == {}
    require(preflight(encode(square(), "png", 90, XMP), SMALL))


BREAKERS: dict[str, Callable[[], bytes]] = {
    "width in pixels": lambda: encode(square(size=63), "jpeg", 90, XMP),
    "width to height": lambda: encode(Image.new("RGB", (64, 63)), "jpeg", 90, XMP),
    "format": lambda: file(square(), "BMP"),
    "colour mode": lambda: file(square("L"), xmp=XMP),
    "transparency": lambda: file(square("RGBA"), "PNG"),
    "colour profile": lambda: file(square(), xmp=XMP),
    "EXIF orientation": lambda: file(square(), exif=turned()),
    "frames": lambda: file(square(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")]),
    "IPTC digital source type": lambda: encode(square(), "jpeg", 90),
    "decodes": lambda: encode(square(), "jpeg", 90, XMP)[:-200],
}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("rule", BREAKERS)
def test_the_rule_that_is_broken_is_named_with_what_was_found(rule: str) -> None:
    broken = failed(BREAKERS[rule]())
    assert rule in broken
    with pytest.raises(PreflightFailed) as raised:
        require(list(broken.values()))
    assert f"{rule}: found {broken[rule].found}, allowed {broken[rule].allowed}" in raised.value.message


def test_too_many_bytes_are_named_with_the_limit() -> None:
    tight = Profile("tight", 64, 64, "jpeg", ("jpeg",), 64, 64, 100)
    assert failed(encode(square(), "jpeg", 90, XMP), tight)["bytes"].allowed == "1 to 100"


def test_cmyk_is_named_as_such() -> None:
    assert failed(file(square("CMYK")))["colour mode"].found == "CMYK"


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_fails_without_an_exception(data: bytes) -> None:
    assert failed(data)


def test_a_bomb_is_not_decoded() -> None:
    bomb = file(Image.new("1", (9000, 9000)), "PNG")
    assert failed(bomb, APPLE)["decodes"].found.startswith("not tried: 81,000,000")


def test_damaged_pictures_never_raise() -> None:
    whole = encode(square(), "jpeg", 90, XMP)
    rng = np.random.default_rng(1)
    for _ in range(150):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        checks = preflight(bytes(data[: int(rng.integers(1, len(data) + 1))]), SMALL)
        assert {check.rule for check in checks} & {"format", "decodes"}


@pytest.mark.parametrize(
    ("title", "what"),
    [("www.al.com", "a web address"), ("@alma", "a handle or e-mail address"), ("only $5", "a price")],
)
def test_what_stores_refuse_on_the_picture_is_named(title: str, what: str) -> None:
    checks = preflight(b"", profile_named("spotify"), title=title, artist="Alma")
    assert [check.found for check in checks if check.rule == "title on the picture"] == [what]
    assert all(check.passed for check in checks if check.rule == "artist on the picture")


@pytest.mark.parametrize("title", ["Mr. Blue", "A.B.", "99 Luftballons", "AC/DC @ Home", "№ 5", "$ave"])
def test_names_that_only_look_odd_are_let_through(title: str) -> None:
    checks = preflight(b"", profile_named("spotify"), title=title)
    assert all(check.passed for check in checks if check.rule == "title on the picture")


def test_another_profile_than_srgb_is_named_and_its_colours_are_converted() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert not is_srgb(lab)
    assert not is_srgb(b"no profile")
    assert is_srgb(SRGB)
    red = Image.new("RGB", (2, 2), (200, 30, 40))
    assert to_srgb(red, SRGB) is red
    assert to_srgb(red, b"damaged") is red
    assert "cannot be read" in failed(file(square(), icc_profile=b"damaged", xmp=XMP))["colour profile"].found


def test_the_profile_of_srgb_is_always_the_same_bytes() -> None:
    assert srgb_profile() == srgb_profile()
    assert SRGB[24:36] == bytes(12)
