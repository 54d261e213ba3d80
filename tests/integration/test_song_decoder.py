"""Uploads that kill, stall or overfill their decoder: real child processes, with really deadly work."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.errors import DecoderCrashed, DecodingTimeout, InputError, UndecodableAudio
from gatefold.isolation import Isolated
from serve.deployments import song_decoder
from serve.deployments.encoder import SongEncoder
from serve.deployments.song_decoder import SongDecoder, UploadedSong
from tests.deadly import deadly, make_deadly_decoder
from tests.mutations import memory_bomb
from tests.sounds import AUDIO, CLIPS, encoded, tone

LIMIT_S = 5.0
GOOD = UploadedSong(encoded(tone(3.0)), "song 'good.wav'")


@pytest.fixture(scope="module")
def decoder() -> Iterator[SongDecoder]:
    decoder = SongDecoder(AUDIO, timeout_s=LIMIT_S, memory_bytes=1 << 29, children=2, make=make_deadly_decoder)
    decoder.start()
    yield decoder
    decoder.close()


def test_a_song_decoded_in_a_child_has_the_same_bits_as_here(decoder: SongDecoder) -> None:
    data = CLIPS[0].read_bytes()
    here, there = extract_log_mel(data, AUDIO), decoder.decode(UploadedSong(data, "song"))
    assert here.duration_s == there.duration_s
    np.testing.assert_array_equal(here.log_mel, there.log_mel)


@pytest.mark.parametrize(
    ("deed", "error", "said"),
    [
        ("exit", DecoderCrashed, "exit code 3"),
        ("segfault", DecoderCrashed, "SIGSEGV"),
        ("kill", DecoderCrashed, "SIGKILL, most likely for want of memory"),
        ("fill", DecoderCrashed, "want of memory"),
        ("spin", DecodingTimeout, "5 s"),
    ],
)
def test_a_file_that_ends_or_stalls_its_decoder_is_refused_by_name_and_decoded_once(
    decoder: SongDecoder, tmp_path: Path, deed: str, error: type[InputError], said: str
) -> None:
    with pytest.raises(error, match=said) as refused:
        decoder.decode(UploadedSong(deadly(deed, tmp_path / "decoders"), "song 'bad.mp3'"))
    assert (refused.value.status, refused.value.message.partition(":")[0]) == (422, "song 'bad.mp3'")
    assert (tmp_path / "decoders").read_text() == "x"
    assert decoder.decode(GOOD).duration_s == 3.0  # by the other child, or by one in its place
    assert decoder.decode(GOOD).duration_s == 3.0


def test_this_process_outlives_every_decoder_and_another_is_ready_for_the_next_song(tmp_path: Path) -> None:
    decoder = SongDecoder(AUDIO, timeout_s=60, memory_bytes=1 << 29, children=1, make=make_deadly_decoder)
    for number in range(2):
        with pytest.raises(DecoderCrashed):
            decoder.decode(UploadedSong(deadly("exit", tmp_path / str(number)), "song"))
    assert decoder.decode(GOOD).duration_s == 3.0
    decoder.close()


def test_a_header_that_asks_for_gigabytes_costs_this_process_no_memory(decoder: SongDecoder) -> None:
    before = peak_bytes()
    with pytest.raises(InputError):
        decoder.decode(UploadedSong(memory_bomb(), "song 'bomb.m4a'"))
    assert peak_bytes() - before < 1 << 28


def test_an_error_of_the_song_arrives_as_it_was_raised(decoder: SongDecoder) -> None:
    with pytest.raises(UndecodableAudio, match=r"song 'x\.mp3'"):
        decoder.decode(UploadedSong(b"no song", "song 'x.mp3'"))


def test_the_health_check_of_the_encoder_notices_a_decoder_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(Isolated, "start", lambda _: None)
    monkeypatch.setattr(Isolated, "once", lambda *_: released.wait())  # it should end by itself, and does not
    monkeypatch.setattr(song_decoder, "_STUCK", 1.0)
    decoder = SongDecoder(AUDIO, timeout_s=0.2, memory_bytes=1 << 29, children=1)
    encoder = object.__new__(SongEncoder)
    encoder._decoder = decoder
    asyncio.run(encoder.check_health())
    waiting = threading.Thread(target=decoder.decode, args=(GOOD,))
    waiting.start()
    try:
        time.sleep(0.4)
        with pytest.raises(RuntimeError, match=r"1 of 1 song decoders are stuck.*serve.decode_timeout_s = 0.2"):
            asyncio.run(encoder.check_health())
    finally:
        released.set()
        waiting.join()
    asyncio.run(encoder.check_health())


def peak_bytes() -> int:
    return int(Path(f"/proc/{os.getpid()}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
