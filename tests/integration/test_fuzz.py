"""Songs that lie, a hundred of them; tests/chaos has thousands."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import BatchSettings
from pipelines.extraction.extract_block import make_mapper
from tests.fuzzing import fuzz
from tests.mutations import memory_bomb
from tests.sounds import AUDIO, CLIPS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_over_mutated_songs_ends_with_one_set_of_windows_or_one_reject_each(tmp_path: Path) -> None:
    fuzzed = fuzz(tmp_path, count=100, seed=1)
    assert fuzzed.extracted > 20
    assert fuzzed.codes["undecodable_audio"] > 20
    assert fuzzed.codes["truncated_audio"] > 2


@pytest.mark.slow
def test_a_song_that_asks_for_gigabytes_is_refused_them_and_costs_no_other(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.m4a"
    bomb.write_bytes(memory_bomb())
    uris = [bomb.as_uri(), *(clip.as_uri() for clip in CLIPS[:3])]
    before = children()
    mapper = make_mapper(AUDIO, BatchSettings())
    made = mapper(pa.table({"song_id": list("abcd"), "audio_uri": uris}))
    (child,) = children() - before
    assert peak_bytes(child) < 2e9  # three times as much without a limit
    assert [reject.song_id for reject in made.rejects] == ["a"]
    assert set(made.rows["song_id"].to_pylist()) == set("bcd")


def test_a_process_that_is_limited_knows_what_is_left_and_gets_no_more() -> None:
    program = (
        "import numpy as np; from gatefold.isolation import limit_memory, memory_left; limit_memory(1 << 28);"
        "before = memory_left(); held = np.ones(1 << 27, np.uint8); print(round((before - memory_left()) / (1 << 27)));"
        "np.ones(1 << 28, np.uint8)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "1\n"
    assert "MemoryError" in ended.stderr


def children() -> set[int]:
    """Of this process, whichever of its threads started them."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def peak_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
