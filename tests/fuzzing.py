"""Mutated songs through the real stage, and an audit of what became of every one of them."""

import csv
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatefold import errors
from gatefold.config import BatchSettings, Settings
from gatefold.storage import objects, tables
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.extraction.rejects import read_rejects
from pipelines.extraction.spectrograms import extract_spectrograms
from tests.mutations import mutated, songs
from tests.sounds import AUDIO

LIMIT_S = 10.0
SETTINGS = Settings(audio=AUDIO, batch=BatchSettings(song_timeout_s=LIMIT_S, max_reject_share=1.0))
CODES = {
    kind.code
    for kind in (
        errors.EmptyFile, errors.UndecodableAudio, errors.TruncatedAudio, errors.SilentAudio, errors.AudioTooShort,
        errors.AudioTooLong, errors.TooLarge, errors.DecodingTimeout, errors.DecoderCrashed,
    )
}  # fmt: skip
"""All that a song may be rejected for."""


@dataclass(frozen=True)
class Fuzzed:
    """What became of mutated songs: how many were extracted, how many rejected with each code, in what time."""

    extracted: int
    codes: Counter[str]
    wall_s: float


def fuzz(folder: Path, count: int, seed: int) -> Fuzzed:
    """So many mutated songs through `extract_spectrograms`, on the Ray that is connected, every one accounted for."""
    workspace = Workspace(objects.resolve(str(folder / "workspace")))
    build_catalogue(SETTINGS, objects.resolve(str(write_mutated(folder, count, seed))), workspace)
    began = time.monotonic()
    report = extract_spectrograms(SETTINGS, workspace)
    wall_s = time.monotonic() - began
    extracted = _checked_rows(workspace)
    rejects = read_rejects(workspace).to_pylist()
    rejected = [row["song_id"] for row in rejects]
    assert sorted([*extracted, *rejected]) == [f"{number:05}" for number in range(count)]  # each once, on one side
    codes = Counter(row["code"] for row in rejects)
    assert codes.keys() <= CODES, [row for row in rejects if row["code"] not in CODES]
    assert all(row["song_id"] in row["message"] for row in rejects)
    assert (report.done, report.skipped, report.rejected) == (count, 0, len(rejects))
    return Fuzzed(len(extracted), codes, wall_s)


def write_mutated(folder: Path, count: int, seed: int) -> Path:
    """The songs as files, numbered; the path of a manifest whose titles say what was done to which."""
    (folder / "songs").mkdir(parents=True)
    whole = songs()
    random = np.random.default_rng(seed)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["song_id", "audio_uri", "title"])
        for number in range(count):
            name = list(whole)[random.integers(len(whole))]
            done, data = mutated(whole[name], random)
            (folder / "songs" / f"{number:05}").write_bytes(data)
            lines.writerow([f"{number:05}", f"songs/{number:05}", f"{name}: {done}"])
    return manifest


def _checked_rows(workspace: Workspace) -> set[str]:
    """The ids of the songs that were extracted, all of whose windows are there once, and finite."""
    rows = tables.read_table(workspace.spectrograms(AUDIO))
    assert np.isfinite(tables.tensors(rows["log_mel"])).all()
    assert np.isfinite(rows["start_s"].to_numpy()).all()
    windows: dict[str, list[int]] = {}
    for song_id, window in zip(rows["song_id"].to_pylist(), rows["window"].to_pylist(), strict=True):
        windows.setdefault(song_id, []).append(window)
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in windows.values())
    assert max(map(len, windows.values())) <= AUDIO.windows
    return set(windows)
