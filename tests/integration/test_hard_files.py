"""Files as people have them, through catalogue, spectrograms and search, against a full decode of each."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gatefold.audio.spectrograms import log_mel
from gatefold.config import BatchSettings, Settings
from gatefold.images.pixels import decode_cover
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.storage.models.loaded_release import load_active_release
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.extraction.rejects import read_rejects
from pipelines.extraction.spectrograms import extract_spectrograms
from tests.factories import publish_small_release
from tests.joins import whole
from tests.sounds import AUDIO

HARD = Path(__file__).parents[1] / "data" / "hard"
SETTINGS = Settings(audio=AUDIO, batch=BatchSettings(max_reject_share=1.0))
SILENT = "odd__dc_only.wav"
BESIDE = "cover__url_apic_with_cover.jpg.mp3"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_hard_file_becomes_what_its_table_says(tmp_path: Path) -> None:
    music, workspace = tmp_path / "music", Workspace(objects.resolve(str(tmp_path / "workspace")))
    for path in HARD.iterdir():
        folder = music / "beside" if path.name == BESIDE else music
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(HARD / "cover__png_big_iccp.png", music / "beside" / "Front.png")
    report = build_catalogue(SETTINGS, objects.resolve(str(music)), workspace)
    tracks = {track["song_id"]: track for track in catalogues.read_tracks(workspace).to_pylist()}
    assert (report.rejected, report.details["tags_unreadable"]) == (0, 0)
    passed_over = report.details["passed_over"]
    assert passed_over == {
        "no suffix of a song": {".csv": 3, ".jsonl": 2, ".md": 1, ".parquet": 1, ".png": 2}
    }  # fmt: skip
    for song_id in ("cover__url_apic_first_then_picture.mp3", f"beside/{BESIDE}", "aiff__tagged.aiff"):
        assert decode_cover(read_cover(tracks[song_id]["cover_uri"], 10**7), SETTINGS.cover).shape[0] == 3
    assert tracks[f"beside/{BESIDE}"]["cover_uri"].endswith("/Front.png")

    extract_spectrograms(SETTINGS, workspace)
    rejects = {reject["song_id"]: reject["code"] for reject in read_rejects(workspace).to_pylist()}
    assert rejects == {SILENT: "silent_audio"}
    rows = tables.read_table(workspace.spectrograms(AUDIO))
    assert {SILENT, *rows["song_id"].to_pylist()} == set(tracks)
    for row, made in zip(rows.to_pylist(), tables.tensors(rows["log_mel"]), strict=True):
        rate, truth = whole((music / row["song_id"]).read_bytes())
        there = truth[round(row["start_s"] * rate) :][: round(AUDIO.window_s * rate)]
        wanted = log_mel(there[None], rate, AUDIO)[0].astype(np.float32)
        away = np.abs(made.astype(np.float32) - wanted).mean()
        assert away < 0.35, (row["song_id"], row["start_s"], away)  # AAC fills bands of noise by chance

    publish_small_release(workspace)
    loaded = load_active_release(workspace)
    for song_id in set(tracks) - {SILENT}:
        encoded = loaded.encode_song(str(music / song_id))
        assert len(loaded.search(encoded, 5)) == 5, song_id
