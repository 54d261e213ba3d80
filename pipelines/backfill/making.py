"""One new cover for a group of songs, by the models of a release, which are loaded once in each process."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from gatefold.config import GeneratorSettings, OriginalitySettings
from gatefold.errors import InputError
from gatefold.generator.interface import GenerationRequest
from gatefold.images.pixels import encode_picture
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from pipelines.backfill.isolated import decode_song
from pipelines.backfill.songs import Group
from pipelines.devices import granted_device

if TYPE_CHECKING:  # takes seconds to import, and a dry run does without
    from gatefold.storage.models.loaded_release import EncodedSong, LoadedRelease

_SEEDS = 3
"""covers that are tried where each comes too close to an existing one"""
_SONGS = 3
"""songs of a group that are tried until one can be decoded"""


class MakeCover(Protocol):
    """Makes a cover, the same each time."""

    def __call__(self, group: Group) -> bytes:
        """A JPEG. Raises: InputError for songs that none can be made for."""


@dataclass(frozen=True)
class ReleaseCovers:
    """A `MakeCover` by a release; it may be sent to other processes.

    Args:
        generator, originality: settings, as JSON.
        size: pixels a side.
        timeout_s: that decoding a song may take.
    """

    workspace: Workspace
    version: str
    generator: str
    originality: str
    size: int
    novelty: float | None
    timeout_s: float

    def __call__(self, group: Group) -> bytes:
        from gatefold.generator.originality import NewCover

        loaded = _loaded(self.workspace, self.version, self.generator, self.originality, granted_device())
        encoded = _encoded(loaded, group, self.timeout_s)
        request = GenerationRequest(size=self.size, novelty=self.novelty)
        first = int(group.key[:8], 16)
        refused = ""
        for seed in range(first, first + _SEEDS):
            (cover,) = loaded.generate(encoded, seeds=[seed], request=request).covers
            if isinstance(cover, NewCover):
                return encode_picture(cover.generated.pixels, self.size, "jpeg")
            refused = cover.detail
        raise InputError(f"each of {_SEEDS} new covers came too close to an existing one: {refused}")


def _encoded(loaded: "LoadedRelease", group: Group, timeout_s: float) -> "EncodedSong":
    """The first song that can be decoded. Raises: InputError, of the last that was tried."""
    from gatefold.storage.models.loaded_release import EncodedSong

    failure: InputError | None = None
    for song in group.songs[:_SONGS]:
        try:
            windows = decode_song(song.uri, loaded.encoder.audio, timeout_s)
            embedding = loaded.encoder.embed_song(windows.log_mel)
            return EncodedSong(objects.name(song.uri), embedding, song=windows, artist=song.artist)
        except InputError as error:
            failure = error
    assert failure is not None
    raise failure


@lru_cache(maxsize=1)
def _loaded(workspace: Workspace, version: str, generator: str, originality: str, device: str) -> "LoadedRelease":
    from gatefold.storage.models.loaded_release import LoadedRelease

    return LoadedRelease(
        workspace,
        releases.get(workspace, version),
        GeneratorSettings.model_validate_json(generator),
        OriginalitySettings.model_validate_json(originality),
        device=device,
    )
