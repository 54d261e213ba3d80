"""The demo's catalogue on storage: complete, resumable, and the same in every process."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from gatefold.config import BatchSettings, Settings, SynthesisSettings
from gatefold.errors import InputError
from gatefold.storage.objects import delete, exists, join, list_objects, put, read
from gatefold.synthetic.catalogue import TRAIT_NAMES, compose_catalogue
from gatefold.synthetic.instruments import SAMPLE_RATE
from pipelines.catalogue.synthesize import MANIFEST, encode_song, synthesize

SETTINGS = Settings(
    synthesis=SynthesisSettings(songs=40, artists=8, duration_s=1.0, cover_size=64),
    batch=BatchSettings(rows_per_block=8),
)


@pytest.fixture(scope="module")
def catalogue(ray_cluster: str) -> str:
    folder = join(ray_cluster, "synthesized")
    report = synthesize(SETTINGS, folder)
    assert (report.done, report.skipped, report.rejected) == (40, 0, 0)
    return folder


def test_every_song_and_every_cover_of_the_manifest_can_be_decoded(catalogue: str) -> None:
    rows = pq.read_table(io.BytesIO(read(join(catalogue, MANIFEST)))).to_pylist()
    assert len({row["song_id"] for row in rows}) == 40
    for row in rows:
        waveform, sample_rate = soundfile.read(io.BytesIO(read(join(catalogue, row["audio_uri"]))))
        assert sample_rate == SAMPLE_RATE
        assert len(waveform) >= SAMPLE_RATE
        assert Image.open(io.BytesIO(read(join(catalogue, row["cover_uri"])))).size == (64, 64)
    assert {row["audio_uri"].rsplit(".")[-1] for row in rows} == {"wav", "flac", "ogg", "mp3"}
    assert {row["cover_uri"].rsplit(".")[-1] for row in rows} == {"jpg", "png"}


def test_the_manifest_carries_the_traits_of_sound_and_picture(catalogue: str) -> None:
    table = pq.read_table(io.BytesIO(read(join(catalogue, MANIFEST))))
    tracks = compose_catalogue(SETTINGS.synthesis)
    for name in TRAIT_NAMES:
        assert np.allclose(table[f"latent_{name}"], [getattr(track.latent, name) for track in tracks])
        assert np.allclose(table[f"seen_{name}"], [getattr(track.seen, name) for track in tracks])
    assert table["genre"].to_pylist() == [track.genre for track in tracks]


def test_a_finished_catalogue_is_not_made_again(catalogue: str) -> None:
    before = list(list_objects(catalogue))
    report = synthesize(SETTINGS, catalogue)
    assert (report.done, report.skipped) == (0, 40)
    assert list(list_objects(catalogue)) == before


def test_a_run_that_was_killed_goes_on_where_it_stopped_and_makes_the_same_bytes(catalogue: str) -> None:
    before = {found.uri: read(found.uri) for found in list_objects(catalogue)}
    lost = sorted(uri for uri in before if "/audio/" in uri)[:3]
    for uri in [*lost, join(catalogue, MANIFEST)]:
        delete(uri)
    calls: list[tuple[int, int]] = []
    report = synthesize(SETTINGS, catalogue, lambda done, total, _=None: calls.append((done, total)))
    assert (report.done, report.skipped) == (3, 37)
    assert calls[-1] == (40, 40)
    assert {found.uri: read(found.uri) for found in list_objects(catalogue)} == before


def test_other_settings_replace_what_was_there(ray_cluster: str) -> None:
    folder = join(ray_cluster, "replaced")
    four, two = (
        SETTINGS.model_copy(update={"synthesis": SETTINGS.synthesis.model_copy(update={"songs": n})}) for n in (4, 2)
    )
    synthesize(four, folder)
    synthesize(two, folder)
    assert len(list(list_objects(join(folder, "covers")))) == 2
    assert exists(join(folder, MANIFEST))


def test_a_folder_with_files_of_somebody_else_is_left_alone(ray_cluster: str) -> None:
    folder = join(ray_cluster, "theirs")
    put(join(folder, "audio/mine.wav"), b"mine")
    with pytest.raises(InputError, match=r"mine\.wav.*empty folder"):
        synthesize(SETTINGS, folder)
    assert read(join(folder, "audio/mine.wav")) == b"mine"


def test_an_ogg_file_holds_nothing_random_and_its_checksums_are_right() -> None:
    waveform = (0.5 * np.sin(np.arange(3 * SAMPLE_RATE, dtype=np.float32) / 20)).astype(np.float32)
    data = encode_song(waveform, "a.ogg")
    pages = data.split(b"OggS")[1:]
    assert len(pages) > 2
    assert all(page[10:14] == bytes(4) for page in pages)
    assert len(soundfile.read(io.BytesIO(data))[0]) == len(waveform)
