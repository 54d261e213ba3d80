"""Songs that lie, a few hundred of them; tests/chaos has thousands."""

from pathlib import Path

import pytest

from tests.fuzzing import fuzz


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_over_mutated_songs_ends_with_one_set_of_windows_or_one_reject_each(tmp_path: Path) -> None:
    fuzzed = fuzz(tmp_path, count=300, seed=1)
    assert fuzzed.heard > 60
    assert fuzzed.codes["undecodable_audio"] > 60
    assert fuzzed.codes["truncated_audio"] > 6
