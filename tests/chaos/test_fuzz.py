"""Songs that lie, by the thousand: none stops the job, holds it up, or is forgotten."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.fuzzing import LIMIT_S, fuzz

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
COUNT = 2_500
FAIR_S = 0.2
"""a song, all overheads included, on a busy machine; a twentieth is usual"""


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
def test_thousands_of_mutated_songs_neither_stop_nor_hold_up_the_job_and_every_one_is_accounted_for(
    tmp_path: Path,
) -> None:
    fuzzed = fuzz(tmp_path, COUNT, seed=0)
    assert min(fuzzed.extracted, fuzzed.codes["undecodable_audio"]) > COUNT // 5
    assert {"truncated_audio", "audio_too_short", "empty_file"} < fuzzed.codes.keys()
    lost = fuzzed.codes["decoding_timeout"] + fuzzed.codes["decoder_crashed"]
    assert fuzzed.wall_s < 60 + COUNT * FAIR_S + lost * 2 * LIMIT_S
