"""Processes killed while a catalogue is extracted: every song ends with its windows or its reject, once.

Part of what `make test-chaos` kills: drivers, workers and decoders, in a Ray that stays.
"""

import random
import time
from pathlib import Path

import pytest
import ray

from tests import kills
from tests.kills import Moment
from tests.known_songs import BLOATS, CRASHES, HANGS, SONGS, SONGS_PER_BLOCK, KnownSongs

MINUTES = pytest.mark.chaos
"""of what `make test` has no time for"""
pytestmark = [pytest.mark.kills, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def songs(tmp_path: Path) -> KnownSongs:
    made = KnownSongs(tmp_path, pace_s=0.03)
    made.write()
    return made


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        pytest.param(kills.after_parts(random.Random(1).randint(2, 8)), False, id="in its first half", marks=MINUTES),
        pytest.param(kills.rows_without_rejects, True, id="between rows and rejects of a block", marks=MINUTES),
        pytest.param(kills.rows_doubled, False, id="between merged rows and the end of their pieces", marks=MINUTES),
    ],
)
def test_a_driver_that_is_killed_is_followed_by_one_that_does_the_rest(
    songs: KnownSongs, moment: Moment, workers: bool
) -> None:
    kills.kill_driver(moment, songs, ray.get_runtime_context().gcs_address, workers=workers)
    finished = songs.finished()
    songs.empty_decodings()
    report = songs.extract()
    assert report.done + report.skipped == SONGS
    assert report.skipped >= len(finished)
    assert not finished & {found.song_id for found in songs.decodings()}
    songs.audit()


@MINUTES
@pytest.mark.parametrize("lives", [4, 8])
def test_a_driver_killed_again_and_again_gets_on(songs: KnownSongs, lives: int) -> None:
    draw = random.Random(14)
    for _ in range(lives):
        songs.empty_decodings()
        moment = kills.after_songs(draw.randint(5, 20))
        kills.kill_driver(moment, songs, ray.get_runtime_context().gcs_address, workers=draw.random() < 0.5)
        songs.audit_so_far()
    songs.empty_decodings()
    finished = songs.finished()
    report = songs.extract()
    assert (report.done, report.skipped) == (SONGS - len(finished), len(finished))
    assert not finished & {found.song_id for found in songs.decodings()}
    songs.audit()


@pytest.mark.parametrize(
    ("victims", "at"),
    [
        pytest.param("all workers", [random.Random(4).randint(20, 100)], id="both workers at once", marks=MINUTES),
        pytest.param(
            "a worker", sorted(random.Random(5).sample(range(1, 120, 20), 3)), id="three workers in turn", marks=MINUTES
        ),
        pytest.param("all decoders", [random.Random(7).randint(20, 100)], id="both decoders at once"),
        pytest.param(
            "a decoder",
            sorted(random.Random(8).sample(range(1, 120, 20), 3)),
            id="three decoders in turn",
            marks=MINUTES,
        ),
    ],
)
def test_a_run_goes_on_without(songs: KnownSongs, victims: str, at: list[int]) -> None:
    of = songs.workers if "worker" in victims else songs.children
    count = 2 if "all" in victims else 1

    def strike() -> None:
        for begun in at:
            kills.wait_for(kills.after_songs(begun), songs)
            kills.kill(of()[-count:])

    with kills.meanwhile(strike):
        report = songs.extract()
    assert (report.done, report.skipped, report.rejected) == (SONGS, 0, songs.unusable())
    assert len(songs.decodings()) <= SONGS + count * len(at) * SONGS_PER_BLOCK, "more was done again than was lost"
    songs.audit()


@MINUTES
def test_songs_that_hang_or_crash_their_decoder_cost_themselves_alone(tmp_path: Path) -> None:
    songs = KnownSongs(tmp_path)
    songs.settings = songs.settings.model_copy(
        update={"batch": songs.settings.batch.model_copy(update={"song_timeout_s": 4.0})}
    )
    songs.write(**{HANGS: "decoding_timeout", CRASHES: "decoder_crashed", BLOATS: "decoder_crashed"})
    began = time.monotonic()
    report = songs.extract()
    assert time.monotonic() - began < 300, "the job took as long as its worst song"
    assert (report.done, report.rejected) == (SONGS + 3, songs.unusable())
    songs.audit()
