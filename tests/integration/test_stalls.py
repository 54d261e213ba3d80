"""Songs decoded side by side in the real stage: none of them waits for another that waits for it."""

import os
import struct
from collections import Counter
from pathlib import Path

import pytest

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.storage import objects
from pipelines.catalogue.catalogue import build_catalogue
from tests.known_songs import KnownSongs
from tests.sounds import AUDIO, encoded, tone

pytestmark = [pytest.mark.slow]
SONGS = 96


def with_chunks_behind(number: int) -> tuple[str, bytes]:
    """Name and bytes of a wav or an aiff with tags behind the samples, which decoders look for while they open it."""
    suffix, order, name = (("wav", "<", b"LIST"), ("aiff", ">", b"ANNO"))[number % 2]
    # long enough for its end to be another request than its beginning
    sound = encoded(tone(4.0, hertz=200 + 5 * number), format=suffix.upper())
    text = bytes(range(32, 127)) * 10
    whole = sound + name + struct.pack(f"{order}I", len(text)) + text
    return f"s{number:03}.{suffix}", whole[:4] + struct.pack(f"{order}I", len(whole) - 8) + whole[8:]


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.chaos)])
def test_songs_with_chunks_behind_their_samples_do_not_stall_one_another(
    place: str, ray_cluster: str, tmp_path: Path
) -> None:
    home = f"{ray_cluster}/stalls-{os.getpid()}" if place == "s3" else None
    songs = KnownSongs(tmp_path, home=home)
    songs.songs.clear()
    songs.songs.update(map(with_chunks_behind, range(SONGS)))
    songs.expected.clear()
    songs.expected.update({name: extract_log_mel(data, AUDIO, name=name) for name, data in songs.songs.items()})
    songs.put()
    build_catalogue(songs.settings, songs.manifest, songs.workspace)
    report = songs.extract()
    assert (report.done, report.rejected) == (SONGS, 0)
    # a stall costs the decoder its life, and the songs in its hands are decoded again
    assert Counter(found.song_id for found in songs.decodings()) == Counter(list(songs.songs))
    assert report.seconds < songs.settings.batch.song_timeout_s
    songs.audit()
    if home:
        objects.delete_tree(home)
