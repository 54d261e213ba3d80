"""Peak memory and time of each verb's driver over a large catalogue, most of which is made up of text and ids.

A synthetic workspace of many songs is written (spectrograms and covers as small as they may be, embeddings as wide as
they are by default), then each verb does in a process of its own what it does in the driver: all but what Ray's tasks
do. Ray itself is not started, so its own memory is not counted. Writes results/drivers.md beside this file.
`python -m benchmarks.drivers --songs 2000000`
"""

import argparse
import multiprocessing
import os
import platform
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from typer.testing import CliRunner

from gatefold.cli.main import app
from gatefold.config import AudioSettings, CoverSettings, Settings
from gatefold.generator_settings import GeneratorSettings
from gatefold.index.retrieval import CoverIndex
from gatefold.progress import silent
from gatefold.records import REJECTS, cover_schema, embedding_schema, spectrogram_schema
from gatefold.storage import objects, tables
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.objects import ObjectInfo
from gatefold.workspace import Workspace
from pipelines import index, status, versions
from pipelines.backfill.songs import make_plan
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.catalogue.scanning import scan
from pipelines.evaluation import held_out
from pipelines.evaluation.independent_features import catalogue_sample
from pipelines.extraction.blocks import cut
from pipelines.extraction.compaction import compact, remove_stale
from pipelines.extraction.stages import (
    Stage,
    cover_stage,
    cover_tracks,
    embedding_stage,
    embedding_tracks,
    spectrogram_stage,
    spectrogram_tracks,
)
from pipelines.training import training_data

RESULTS = Path(__file__).parent / "results" / "drivers.md"
LIMIT_BYTES = 2 << 30
SONGS = 2_000_000
_PER_PART = 4_096
_REJECTED = 0.05  # share of the songs
_DIGEST = "0123456789abcdef01234567"
_AUDIO = AudioSettings(sample_rate=8_000, n_fft=64, win_length=64, hop_length=64, n_mels=8, f_max=4_000.0,
                       window_s=0.008, windows=1)  # fmt: skip
SETTINGS = Settings(audio=_AUDIO, cover=CoverSettings(size=16), generator=GeneratorSettings(size=16))


@dataclass(frozen=True)
class Cost:
    """Of a verb's driver; bytes are resident, those of imported modules (`at_rest`) among them.

    `objects_bytes`: the peak of Python's own objects beyond those of modules; None where it was not traced.
    """

    verb: str
    peak_bytes: int
    at_rest_bytes: int
    seconds: float
    objects_bytes: int | None = None


def names(stem: str, numbers: np.ndarray[Any, Any], end: str = "") -> pa.Array:
    """Texts such as `stem` 000000017 `end`."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(stem, digits, end, "")


def manifest(songs: int) -> pa.Table:
    """Of a music service: twenty songs to an artist, texts as long as they are, etags as a store gives them."""
    row = np.arange(songs)
    return pa.table(
        {
            "song_id": names("song-", row),
            "audio_uri": names("s3://music-archive/masters/2019/", row, ".flac"),
            "cover_uri": names("s3://music-archive/artwork/2019/", row, ".jpg"),
            "title": names("A title of some length, number ", row),
            "artist": names("Artist of twenty songs ", row // 20),
            "album": names("Album of ten songs ", row // 10),
            "genre": names("genre ", row % 24),
            "audio_etag": names(_DIGEST, row),
            "cover_etag": names(_DIGEST, row + songs),
            "label": names("label ", row % 1000),
        }
    )


def write_workspace(workspace: Workspace, songs: int) -> None:
    """A manifest, the catalogue made of it, the three tables that stages make of it, and some rejects."""
    source = objects.local_path(objects.join(workspace.uri, "manifest.parquet"))
    assert source is not None
    source.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(manifest(songs), source)
    build_catalogue(SETTINGS, str(source), workspace)
    schemas = {
        spectrogram_stage(SETTINGS, workspace): spectrogram_schema(SETTINGS.audio),
        cover_stage(SETTINGS, workspace): cover_schema(SETTINGS.stored_cover),
        embedding_stage(SETTINGS, workspace, _encoder(workspace)): embedding_schema(SETTINGS.encoder.embed_dim),
    }
    for stage, schema in schemas.items():
        rows = _constant_rows(schema)
        for number, start in enumerate(range(0, songs, _PER_PART)):
            some = np.arange(start, min(start + _PER_PART, songs))
            audio, cover = names(_DIGEST, some), names(_DIGEST, some + songs)
            both = pc.binary_join_element_wise(audio, cover, "|")
            etag = {"spectrograms": audio, "covers": cover}.get(stage.name, both)
            part = rows.slice(0, len(some)).set_column(0, "song_id", names("song-", some))
            tables.write_part(stage.target, f"{number:06}", part.set_column(part.num_columns - 1, "etag", etag))
    _write_rejects(workspace, int(songs * _REJECTED))


def _encoder(workspace: Workspace) -> str:
    return versions.versions_of(SETTINGS, workspace).encoder


def _constant_rows(schema: pa.Schema) -> pa.Table:
    """As many as a part has, each the same; ids and etags are put in later."""
    columns = []
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType):
            size = int(np.prod(field.type.shape))
            values = np.zeros(_PER_PART * size, field.type.value_type.to_pandas_dtype())
            columns.append(tables.tensor_column([values.reshape(_PER_PART, size)], field.type).combine_chunks())
        elif pa.types.is_fixed_size_list(field.type):
            width = field.type.list_size
            values = np.full(_PER_PART * width, 1 / np.sqrt(width), np.float32)
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values), width))
        elif pa.types.is_string(field.type):
            columns.append(pa.repeat("", _PER_PART))
        else:
            columns.append(pa.array(np.zeros(_PER_PART, field.type.to_pandas_dtype())))
    return pa.table(columns, names=schema.names)


def _write_rejects(workspace: Workspace, count: int) -> None:
    row = np.arange(count)
    columns = {
        "song_id": names("gone-", row),
        "uri": names("s3://music-archive/masters/2019/", row, ".flac"),
        "stage": pa.repeat("spectrograms", count),
        "code": names("code ", row % 7),
        "message": names("song 'gone' cannot be decoded: its header says what its samples do not, at byte ", row),
        "attempt": pa.repeat(1, count),
        "at": pa.repeat(pa.scalar(datetime.now(UTC), REJECTS.field("at").type), count),
        "etag": pa.nulls(count, pa.string()),
        "size_bytes": pa.nulls(count, pa.int64()),
    }
    tables.write_part(workspace.rejects("spectrograms"), "rejects", pa.table(columns).cast(REJECTS))


# ---- what each driver does ------------------------------------------------------------------------------------------


def _catalogue(workspace: Workspace) -> None:
    build_catalogue(SETTINGS, str(objects.local_path(objects.join(workspace.uri, "manifest.parquet"))), workspace)


def _catalogue_anew(workspace: Workspace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = str(objects.local_path(objects.join(workspace.uri, "manifest.parquet")))
        build_catalogue(SETTINGS, source, Workspace(objects.resolve(folder)))


def _scan(workspace: Workspace) -> None:
    """Of a prefix with as many songs as the catalogue, ten to a folder, and a cover in each; no song is opened."""
    songs = read_tracks(workspace, ["song_id"]).num_rows

    def listed(prefix: str) -> Iterator[ObjectInfo]:
        for start in range(0, songs, 10):
            album = f"{prefix}/Artist of twenty songs {start // 20}/Album of ten songs {start // 10}"
            yield ObjectInfo(f"{album}/cover.jpg", 200_000, datetime.now(UTC), f"{_DIGEST}{start}")
            for row in range(start, min(start + 10, songs)):
                name = f"{album}/A title of some length, number {row}.flac"
                yield ObjectInfo(name, 30_000_000, datetime.now(UTC), f"{_DIGEST}{row:09}")

    with mock.patch.object(objects, "list_objects", listed):
        found, _ = scan("s3://music-archive/masters")
    if found.num_rows != songs or found["album_cover"].null_count:
        raise AssertionError(f"{found.num_rows} songs were found, {found['album_cover'].null_count} without a cover")


def _backfill(workspace: Workspace) -> None:
    """Of a manifest whose songs have covers."""
    source = str(objects.local_path(objects.join(workspace.uri, "manifest.parquet")))
    if make_plan(source, "file", silent).groups:
        raise AssertionError("a song has no cover")


def _stage(stage: Stage, tracks: pa.Table) -> None:
    """Of a run that finds all rows, and of one that finds none and hands all songs out."""
    claimed = np.zeros(tracks.num_rows, np.bool_)
    compact(stage.target, remove_stale(stage.target, tracks, claimed), _PER_PART)
    if not claimed.all():
        raise AssertionError(f"{stage.name}: {tracks.num_rows - claimed.sum()} songs have no row")
    cut(tracks, 2, SETTINGS.batch.rows_per_block)


def _spectrograms(workspace: Workspace) -> None:
    _stage(spectrogram_stage(SETTINGS, workspace), spectrogram_tracks(workspace))


def _covers(workspace: Workspace) -> None:
    _stage(cover_stage(SETTINGS, workspace), cover_tracks(workspace))


def _embed(workspace: Workspace) -> None:
    stage = embedding_stage(SETTINGS, workspace, _encoder(workspace))
    _stage(stage, embedding_tracks(SETTINGS, workspace))


def _train_encoder(workspace: Workspace) -> None:
    ids = training_data.paired_ids(SETTINGS, workspace, "train")
    training_data.validation_ids(SETTINGS, workspace)
    genres = training_data.genres_of(workspace, ids)
    training_data.split_into_equal_blocks(pa.table({"song_id": ids, "genre": genres}), 2, SETTINGS.batch.rows_per_block)


def _train_generator(workspace: Workspace) -> None:
    versions.versions_of(SETTINGS, workspace)
    training_data.validation_ids(SETTINGS, workspace)  # all that the analytic generator asks of the catalogue
    ids = training_data.paired_ids(SETTINGS, workspace, "train")  # and what the transformer does
    training_data.split_into_equal_blocks(pa.table({"song_id": ids}), 2, SETTINGS.batch.rows_per_block)


def _index(workspace: Workspace) -> None:
    present = index.embedded_ids(workspace, _encoder(workspace))
    index.spans_of(present, len(present) // 4)


def _evaluate(workspace: Workspace) -> None:
    ids = training_data.sample(training_data.paired_ids(SETTINGS, workspace, "test"), SETTINGS.evaluation.held_out)
    vectors = np.zeros((len(ids), SETTINGS.encoder.embed_dim), np.float32)
    held_out.named(workspace, ids, vectors, vectors)
    catalogue_sample(SETTINGS, workspace)


def _release(workspace: Workspace) -> None:
    _encoder(workspace)


def _status(workspace: Workspace) -> None:
    status.status_of(SETTINGS, workspace)


def _command(*arguments: str) -> Callable[[Workspace], None]:
    def run(workspace: Workspace) -> None:
        done = CliRunner().invoke(app, ["--workspace", workspace.uri, "--json", *arguments])
        if done.exit_code:
            raise AssertionError(f"gatefold {' '.join(arguments)}: {done.output}")

    return run


def _loaded_index(workspace: Workspace) -> None:
    tracks = read_tracks(workspace, ["song_id", "title", "artist", "album", "genre", "cover_uri", "label"])
    vectors = np.full(tracks.num_rows * 8, 1 / np.sqrt(8), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8)
    for side in ("song_embedding", "cover_embedding"):
        tracks = tracks.append_column(side, column)
    CoverIndex(tracks, "f").get("song-000000017")


VERBS: dict[str, Callable[[Workspace], None]] = {
    "catalogue, new": _catalogue_anew,
    "catalogue, again": _catalogue,
    "catalogue, the scan of a prefix": _scan,
    "backfill, the plan": _backfill,
    "spectrograms": _spectrograms,
    "covers": _covers,
    "train-encoder": _train_encoder,
    "embed": _embed,
    "index": _index,
    "train-generator": _train_generator,
    "evaluate": _evaluate,
    "release": _release,
    "status": _status,
    "rejects list": _command("rejects", "list"),
    "opt-out": _command("opt-out", "song-000000017"),
    "an index in memory, vectors 8 wide": _loaded_index,
}


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(workspace: Workspace, verbs: list[str], *, traced: bool = False) -> list[Cost]:
    """Each in a process of its own, which is forked where all modules are imported and nothing else was done.

    Args:
        traced: whether Python's objects are measured too, which takes several times as long.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__" if __name__ == "__main__" else "benchmarks.drivers"])
    costs = []
    for verb in verbs:
        here, there = context.Pipe()
        process = context.Process(target=_measured, args=(verb, workspace, traced, there))
        process.start()
        there.close()
        try:
            cost = here.recv()
        except EOFError as error:
            raise AssertionError(f"{verb} ended without a measure; see above") from error
        finally:
            process.join()
        costs.append(cost)
    return costs


def _measured(verb: str, workspace: Workspace, traced: bool, answer: Connection) -> None:
    at_rest, began = _resident_bytes("VmRSS"), time.perf_counter()
    if traced:
        tracemalloc.start()
    with redirect_stdout(StringIO()):
        VERBS[verb](workspace)
    seconds = time.perf_counter() - began
    traced_bytes = tracemalloc.get_traced_memory()[1] if traced else None
    answer.send(Cost(verb, _resident_bytes("VmHWM"), at_rest, seconds, traced_bytes))


def _resident_bytes(kind: str) -> int:
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def synthetic_workspace(songs: int, folder: str | None = None) -> Iterator[Workspace]:
    """One that is deleted at the end."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        workspace = Workspace(objects.resolve(made))
        write_workspace(workspace, songs)
        yield workspace


def as_table(costs: list[Cost], songs: int, built_s: float) -> str:
    """Markdown."""
    lines = [
        f"`python -m benchmarks.drivers --songs {songs}`, {date.today().isoformat()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, pyarrow {pa.__version__}. {songs:,} songs in "
        f"parts of {_PER_PART:,}, written in {built_s:.0f} s. Peak: resident memory of the process, imported modules "
        f"included ({costs[0].at_rest_bytes / 1e6:,.0f} MB); Ray is not started.",
        "",
        "| driver of | peak, MB | beyond modules, MB | seconds |",
        "|---|---:|---:|---:|",
    ]
    for cost in costs:
        beyond = (cost.peak_bytes - cost.at_rest_bytes) / 1e6
        lines.append(f"| {cost.verb} | {cost.peak_bytes / 1e6:,.0f} | {beyond:,.0f} | {cost.seconds:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=SONGS)
    parser.add_argument("--folder", help="where the workspace is written; the system's temporary folder by default")
    parser.add_argument("--only", action="append", choices=list(VERBS), help="one verb; repeatable")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    began = time.perf_counter()
    with synthetic_workspace(asked.songs, asked.folder) as workspace:
        built_s = time.perf_counter() - began
        text = as_table(measure(workspace, asked.only or list(VERBS)), asked.songs, built_s)
    asked.results.write_text(text)
    Console().print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
