"""Tags and pictures inside audio files: read by content, and whatever is wrong with them costs them alone."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3, TALB, TIT2, TPE1
from PIL import Image

from gatefold.audio.containers import ContainerKind, identify
from gatefold.audio.decoding import decode_windows
from gatefold.config import AudioSettings, CoverSettings
from gatefold.errors import UndecodableAudio, UndecodableCover
from gatefold.images.pixels import decode_cover
from gatefold.ranged import BytesSource, RangedFile
from gatefold.storage import objects
from gatefold.storage.contents.embedded_pictures import Tagged, read_cover, tags_of
from tests.sounds import AUDIO, MUSIC, encoded, tone

MP3 = (MUSIC / "11_polka.mp3").read_bytes()
COVER = CoverSettings(size=16)


def png(colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(sink, "PNG")
    return sink.getvalue()


def tags(data: bytes) -> Tagged:
    return tags_of(RangedFile(BytesSource(data), 1 << 26, "song"), "song")


def song(folder: Path, data: bytes, *frames: object) -> str:
    """An mp3 with these frames of ID3 and no other tags; its uri."""
    path = folder / "song.mp3"
    path.write_bytes(data)
    ID3(path).delete(path)
    made = ID3()
    for frame in frames:
        made.add(frame)
    made.save(path)
    return objects.resolve(str(path))


def picture(kind: int, data: bytes, mime: str = "image/png") -> APIC:
    return APIC(encoding=3, mime=mime, type=kind, desc=f"{kind}{mime}", data=data)


@pytest.mark.parametrize(
    "pictures",
    [
        [picture(3, b"http://x/y.jpg", "-->"), picture(0, png())],
        [picture(3, png()[:60]), picture(4, png())],
        [picture(4, png((1, 2, 3))), picture(3, png())],
        [picture(3, b""), picture(0, png())],
    ],
    ids=["a link", "broken", "the back first", "empty"],
)
def test_the_first_picture_that_decodes_is_taken_the_front_cover_first(tmp_path: Path, pictures: list[APIC]) -> None:
    uri = song(tmp_path, MP3, *pictures)
    assert read_cover(f"{uri}#picture", 10**6) == png()


LAYERS: dict[str, tuple[Callable[[bytes], bytes], ContainerKind]] = {
    "text of a radio": (lambda data: b"ICY 200 OK\r\nicy-br:128\r\n\r\n" + data, "mp3"),
    "zeros": (lambda data: bytes(3_000) + data, "mp3"),
    "half a frame": (lambda data: data[-300:] + data, "mp3"),
    "two tags": (lambda data: b"ID3\x03\0\0\0\0\0\x05hello" * 2 + data, "mp3"),
    "a tag that lies about its size": (lambda data: b"ID3\x03\0\0\0\x7f\x7f\x7f" + bytes(40) + data, "mp3"),
    "a flac behind a tag": (
        lambda _: b"ID3\x03\0\0\0\0\0\x05hello" + (MUSIC / "16_acoustic_guitar.flac").read_bytes(), "flac"
    ),
    "an ogg behind zeros": (lambda _: bytes(777) + (MUSIC / "02_jazz.ogg").read_bytes(), "ogg"),
    "a wav behind text": (lambda _: b"text " * 99 + (MUSIC / "15_synth_cc0.wav").read_bytes(), "wav"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_decoder_and_tag_reader_see_the_same_file_through_what_stands_before_it(name: str) -> None:
    make, kind = LAYERS[name]
    bare = MP3[MP3.index(b"\xff\xfb", MP3.index(b"Info")) :]
    data = make(bare)
    found = identify(RangedFile(BytesSource(data), 1 << 26))
    assert found is not None
    assert found.kind == kind
    tags(data)
    assert decode_windows(data, AudioSettings(window_s=1.0)).duration_s > 5


@pytest.mark.parametrize("data", [b"words, and more words " * 4_000, bytes(70_000), png(), b"%PDF-1.7" + bytes(99)])
def test_what_is_no_song_is_none_to_both(data: bytes) -> None:
    with pytest.raises(UndecodableAudio, match="no audio file"):
        tags(data)
    with pytest.raises(UndecodableAudio, match="no sound file"):
        decode_windows(data, AUDIO)


def test_tags_that_are_damaged_cost_the_tags() -> None:
    flac = bytearray((MUSIC / "16_acoustic_guitar.flac").read_bytes())
    comment = flac.index(b"reference libFLAC") - 4 if b"reference libFLAC" in flac else flac.index(b"\x04", 40) + 4
    flac[comment : comment + 4] = b"\xff\xff\xff\x7f"
    assert tags(bytes(flac)).unreadable
    assert decode_windows(bytes(flac), AUDIO).duration_s > 5
    wav = encoded(tone(2.0))
    broken = wav + b"id3 " + struct.pack("<I", 20) + b"ID3\x04\0\0\0\0\0\x0aTIT2\xff\xff\xff\xff\0\0"
    assert tags(broken).texts == {}
    assert decode_windows(broken, AUDIO).duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF"])
def test_id3_behind_the_samples_is_read(format: str, tmp_path: Path) -> None:
    made = ID3()
    made.add(TIT2(encoding=3, text="Behind"))
    made.add(TPE1(encoding=3, text="All"))
    made.add(picture(3, png()))
    made.save(tmp_path / "tag")
    tag = (tmp_path / "tag").read_bytes()
    order, name = (">", b"ID3 ") if format == "AIFF" else ("<", b"id3 ")
    data = encoded(tone(2.0), format=format) + name + struct.pack(f"{order}I", len(tag)) + tag
    found = tags(data)
    assert found.texts == {"title": "Behind", "artist": "All"}
    assert found.pictures == [png()]


def test_texts_of_a_wav_are_utf8_or_what_windows_wrote() -> None:
    for text, data in (("Björk", "Björk".encode()), *((text, text.encode("cp1252")) for text in ("Björk", "“x”"))):
        body = b"INFOIART" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        wav = encoded(tone(1.5)) + b"LIST" + struct.pack("<I", len(body)) + body
        assert tags(wav).texts == {"artist": text}


def test_ape_fills_what_id3_leaves_open(tmp_path: Path) -> None:
    uri = song(tmp_path, MP3, TIT2(encoding=3, text="By ID3"))
    made = APEv2()
    made["Title"], made["Artist"] = "By APE", "Someone"
    made["Cover Art (Front)"] = b"cover.png\0" + png()
    made.save(tmp_path / "song.mp3")
    found = tags(objects.read(uri))
    assert (found.texts["title"], found.texts["artist"]) == ("By ID3", "Someone")


def test_a_name_that_lies_is_not_believed_for_tags_either(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes((MUSIC / "16_acoustic_guitar.flac").read_bytes())
    flac = FLAC(path)
    front = Picture()
    front.type, front.data, front.mime = 3, png(), "image/png"
    flac.add_picture(front)
    flac.save()
    assert read_cover(f"{objects.resolve(str(path))}#picture", 10**6) == png()


# ---- pictures -------------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes, checksum: bytes = b"\0\0\0\0") -> bytes:
    return struct.pack(">I", len(data)) + name + data + checksum


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"gAMA", b"prVt"])
def test_what_is_no_pixel_of_a_png_may_be_damaged(name: bytes) -> None:
    data = png()
    at = data.index(b"IDAT") - 4
    damaged = data[:at] + chunk(name, b"key\0\0" + bytes(300)) + data[at:]
    np.testing.assert_array_equal(decode_cover(damaged, COVER), decode_cover(data, COVER))


def test_damaged_pixels_of_a_png_are_refused() -> None:
    data = png()
    with pytest.raises(UndecodableCover, match="damaged"):
        decode_cover(data[: data.index(b"IDAT") + 12], COVER)


def test_a_jpeg_whose_exif_is_damaged_is_taken_as_it_lies() -> None:
    sink = io.BytesIO()
    image = Image.new("RGB", (40, 20), (10, 200, 30))
    image.save(sink, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30)
    assert decode_cover(sink.getvalue(), COVER).shape == (3, 16, 16)


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", " \u2003\u00a0 "])
def test_a_tag_of_white_space_alone_is_none(tmp_path: Path, blank: str) -> None:
    uri = song(tmp_path, MP3, TPE1(encoding=3, text=blank), TALB(encoding=3, text=f"{blank}Album{blank}"))
    assert tags(Path(uri.removeprefix("file://")).read_bytes()).texts == {"album": "Album"}
