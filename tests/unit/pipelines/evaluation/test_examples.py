"""Examples: songs from outside through a release, once."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from gatefold.config import Settings
from gatefold.errors import NotFound
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from pipelines.evaluation.examples import make_examples
from tests.factories import COVER, publish_small_release
from tests.sounds import encoded, tone


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path / "workspace")))
    publish_small_release(made)
    return made


def test_every_song_gets_its_matches_a_cover_and_a_row_once(workspace: Workspace, tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "low.wav").write_bytes(encoded(tone(2.0, hertz=110)))
    (songs / "high.flac").write_bytes(encoded(tone(2.0, hertz=2_000), format="FLAC"))
    (songs / "ATTRIBUTION.csv").write_text("file,title\n")
    reported: list[tuple[int, int]] = []
    report = make_examples(Settings(), songs, workspace, lambda done, total, _=None: reported.append((done, total)))
    assert (report.done, reported) == (2, [(0, 2), (1, 2), (2, 2)])
    for name in ("low", "high"):
        record = json.loads(objects.read(f"{workspace.uri}/examples/{name}.json"))
        assert [match["rank"] for match in record["matches"]] == list(range(1, 13))
        picture = Image.open(io.BytesIO(objects.read(f"{workspace.uri}/examples/{name}.png")))
        assert picture.size == (COVER.size, COVER.size)
    assert Image.open(io.BytesIO(objects.read(str(report.details["sheet"])))).width > 1000

    again = make_examples(Settings(), songs, workspace)
    assert (again.done, again.skipped) == (0, 2)
    objects.delete_tree(f"{workspace.uri}/examples")
    assert make_examples(Settings(), songs, workspace).done == 2
    standing = releases.current(workspace)
    releases.publish(workspace, standing.model_copy(update={"version": "r2"}))
    releases.activate(workspace, "r2")
    assert make_examples(Settings(), songs, workspace).done == 2


def test_a_folder_without_songs_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no songs; expected files ending in \.wav"):
        make_examples(Settings(), tmp_path / "nowhere", workspace)
