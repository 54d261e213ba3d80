import numpy as np
import pytest

from gatefold.errors import Corrupt
from pipelines.backfill.patches import apply_patch, make_patch

SOUND = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()


def edited(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("original", "changed"),
    [
        (b"tag" + SOUND, b"a longer tag" + SOUND),
        (b"a longer tag" + SOUND, b"tag" + SOUND),
        (SOUND, edited(SOUND, 4, b"size") + b"a chunk"),
        (b"x" * 500 + SOUND, b"y" * 900 + edited(edited(SOUND, 50_000, b"crc1"), 90_000, b"crc2")),
        (SOUND, SOUND),
    ],
    ids=["longer in front", "shorter in front", "behind, and a size", "pages renumbered", "nothing"],
)
def test_a_patch_gives_the_original_and_is_small(original: bytes, changed: bytes) -> None:
    patch = make_patch(original, changed)
    assert apply_patch(patch, changed) == original
    assert len(patch) < 1_000


def test_any_two_files_have_a_patch() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        letters = int(rng.integers(1, 4))
        original, changed = (
            rng.integers(0, letters, int(rng.integers(0, 90)), np.uint8).tobytes() for _ in range(2)
        )
        assert apply_patch(make_patch(original, changed), changed) == original


def test_files_without_anything_in_common_cost_no_more_than_the_original() -> None:
    other = np.random.default_rng(2).integers(0, 256, 150_000, np.uint8).tobytes()
    assert len(make_patch(SOUND, other)) < len(SOUND) + 1_000


def test_a_patch_of_another_file_or_a_damaged_one_is_refused() -> None:
    changed = b"tag" + SOUND
    patch = make_patch(SOUND, changed)
    with pytest.raises(Corrupt, match="another file, or the file was changed"):
        apply_patch(patch, changed + b"!")
    for damaged in (patch[:-1], b"", patch[:72], edited(patch, 20, b"??"), b"gfpatch2" + patch[8:]):
        with pytest.raises(Corrupt, match="damaged"):
            apply_patch(damaged, changed)
