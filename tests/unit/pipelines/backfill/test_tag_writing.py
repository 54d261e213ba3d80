import io
from collections.abc import Callable

import numpy as np
import pytest
from mutagen.flac import FLAC
from mutagen.id3 import APIC, ID3
from mutagen.oggvorbis import OggVorbis

from gatefold.errors import InputError, UndecodableAudio
from gatefold.images.pixels import encode_picture
from gatefold.ranged import BytesSource, RangedFile
from gatefold.storage.contents.embedded_pictures import Tagged, tags_of
from pipelines.backfill import tag_writing
from pipelines.backfill.patches import apply_patch, make_patch
from pipelines.backfill.tag_writing import audio_digest, with_picture
from tests.library import KINDS, PICTURE, decoded, sound, tag
from tests.sounds import CLIPS, encoded, tone

NEW = encode_picture(np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8), 300, "jpeg")


def tags(data: bytes) -> Tagged:
    return tags_of(RangedFile(BytesSource(data), 1 << 26, "x"), "x")


@pytest.mark.parametrize("tagged", [False, True], ids=["bare", "odd tags"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_there_and_the_sound_and_all_tags_are_as_before(kind: str, tagged: bool) -> None:
    data = tag(sound(kind), kind, "T", "A") if tagged else sound(kind)
    changed = with_picture(data, NEW, "x")
    assert changed is not None
    assert tags(changed).pictures == [NEW]
    assert tags(changed).texts == tags(data).texts
    assert decoded(changed) == decoded(data)
    assert audio_digest(changed) == audio_digest(data)
    assert apply_patch(make_patch(data, changed), changed) == data
    assert with_picture(changed, NEW, "x") is None


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_real_songs_get_one_or_have_one(path: "object") -> None:
    data = path.read_bytes()  # type: ignore[attr-defined]
    had = tags(data).pictures
    changed = with_picture(data, NEW, "x")
    assert (changed is None) == bool(had)
    if changed is not None:
        assert audio_digest(changed) == audio_digest(data)
        assert tags(changed).texts == tags(data).texts
        patch = make_patch(data, changed)
        assert apply_patch(patch, changed) == data
        assert len(patch) < len(data) / 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_has_a_picture_is_never_touched(kind: str) -> None:
    assert with_picture(tag(sound(kind), kind, picture=True), NEW, "x") is None


def test_what_stands_behind_an_mp3_stays_where_it_is() -> None:
    data = tag(sound("mp3"), "mp3")
    changed = with_picture(data, NEW, "x")
    assert changed is not None
    assert changed[-2_000:] == data[-2_000:]
    assert b"XYZW" in changed
    assert ID3(io.BytesIO(changed), translate=False).version == (2, 3, 0)
    assert "TYER" in ID3(io.BytesIO(changed), translate=False)


@pytest.mark.parametrize("version", [3, 4])
def test_an_id3_tag_keeps_its_version(version: int) -> None:
    sink = io.BytesIO()
    ID3().save(sink, v2_version=version)
    changed = with_picture(sink.getvalue() + sound("mp3"), NEW, "x")
    assert changed is not None
    assert changed[3] == version


def test_a_link_to_a_picture_and_old_kinds_of_picture_count_as_covers() -> None:
    sink, frames = io.BytesIO(), ID3()
    frames.add(APIC(0, "-->", 3, "", b"http://x/y.jpg"))
    frames.save(sink)
    assert with_picture(sink.getvalue() + sound("mp3"), NEW, "x") is None
    ogg = io.BytesIO(sound("ogg"))
    audio = OggVorbis(ogg)
    audio["coverart"] = ["aGVsbG8="]
    audio.save(ogg)
    assert with_picture(ogg.getvalue(), NEW, "x") is None


def test_an_id3_tag_in_front_of_a_flac_stays() -> None:
    front = io.BytesIO()
    ID3().save(front)
    data = front.getvalue() + sound("flac")
    changed = with_picture(data, NEW, "x")
    assert changed is not None
    assert changed.startswith(front.getvalue())
    assert FLAC(io.BytesIO(changed)).pictures[0].data == NEW


@pytest.mark.parametrize("data", [b"", b"no sound at all", PICTURE])
def test_what_is_no_song_is_refused(data: bytes) -> None:
    with pytest.raises((UndecodableAudio, InputError)):
        with_picture(data, NEW, "x")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_short_gets_a_picture_whole_or_not_at_all(kind: str) -> None:
    data = tag(sound(kind), kind)
    for length in (30, 200, len(data) // 2, len(data) - 1000):
        try:
            changed = with_picture(data[:length], NEW, "x")
        except InputError:
            continue
        if changed is not None:
            assert tags(changed).pictures == [NEW]
            assert audio_digest(changed) == audio_digest(data[:length])


def test_a_writer_that_harms_the_sound_or_a_tag_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tag(sound("flac"), "flac")
    other = with_picture(tag(encoded(tone(1, hertz=300), format="FLAC"), "flac"), NEW, "x")
    title = with_picture(tag(sound("flac"), "flac", "another"), NEW, "x")
    def writer_of(wrong: bytes | None) -> Callable[..., bytes | None]:
        return lambda *_: wrong

    for wrong, what in ((other, "its audio"), (title, "another tag"), (data, "the picture")):
        monkeypatch.setitem(tag_writing._WRITERS, "flac", writer_of(wrong))
        with pytest.raises(InputError, match=f"{what} would not come out as it should"):
            with_picture(data, NEW, "x")
