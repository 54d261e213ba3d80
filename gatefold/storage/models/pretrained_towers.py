"""Pre-trained backbones in a folder on disk or in the store: fetched, checked, identified by a digest.

Without a backbone, torch must not be imported, so what knows of networks is imported where it is needed.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from gatefold.config import AudioSettings, EncoderSettings
from gatefold.errors import InvalidSettings
from gatefold.storage import objects


def check_song_backbone(settings: EncoderSettings, audio: AudioSettings) -> None:
    """Raises: InvalidSettings when the song backbone, if there is to be one, was trained on other spectrograms.

    To be called before a catalogue's worth of them is made: its weights are not read.
    """
    if settings.song_backbone is None:
        return
    from gatefold.encoder.backbones import check_audio_settings, read_checkpoint

    with checkpoint_on_disk(settings.song_backbone, weights=False) as folder:
        check_audio_settings(read_checkpoint(folder, "song_backbone", settings.song_backbone), audio)


def by_content(settings: EncoderSettings) -> EncoderSettings:
    """The same settings, each backbone named by a digest of its files in the place of where they lie.

    Raises: InvalidSettings when there are none.
    """
    places = {setting: getattr(settings, setting) for setting in ("song_backbone", "cover_backbone")}
    return settings.model_copy(
        update={setting: _digest(place) for setting, place in places.items() if place is not None}
    )


@contextmanager
def checkpoint_on_disk(location: str, *, weights: bool) -> Iterator[Path]:
    """A local folder with the files of a checkpoint, its weights among them or not."""
    uri = objects.resolve(location)
    path = objects.local_path(uri)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in _files(uri, weights=weights):
            (Path(folder) / objects.name(file)).write_bytes(objects.read(file))
        yield Path(folder)


def _digest(location: str) -> str:
    uri = objects.resolve(location)
    files = _files(uri, weights=True)
    if not files:
        raise InvalidSettings(f"there is no checkpoint of a backbone at '{location}'; name a folder that holds one")
    lines = [f"{objects.name(file)} {_digest_of_file(file, etag)}" for file, etag in files.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=64)
def _digest_of_file(uri: str, etag: str | None) -> str:  # noqa: ARG001 - every stage asks, and they may be gigabytes
    return hashlib.sha256(objects.read(uri)).hexdigest()


def _files(uri: str, *, weights: bool) -> dict[str, str | None]:
    """The etags of those files of a checkpoint that we read, by uri."""
    from gatefold.encoder.backbones import CONFIG, INPUTS, WEIGHTS

    files = {objects.name(info.uri): info for info in objects.list_folder(uri)}
    read = {name for name in files if name in (CONFIG, INPUTS) or (weights and name.endswith(WEIGHTS))}
    return {info.uri: info.etag for name, info in files.items() if name in read}
