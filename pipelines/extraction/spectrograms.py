"""Extraction of log-mel windows from songs, over the whole catalogue."""

from functools import partial

from gatefold.config import Settings
from gatefold.progress import OnProgress, silent
from gatefold.storage.models.pretrained_towers import check_song_backbone
from gatefold.workspace import Workspace
from pipelines.extraction.blocks import map_tracks
from pipelines.extraction.extract_block import make_mapper
from pipelines.extraction.stages import spectrogram_stage, spectrogram_tracks
from pipelines.report import Report


def extract_spectrograms(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `spectrogram_schema` for every song of the catalogue that can be decoded, a reject for every other.

    Raises: InvalidSettings, before the first of them, when the song backbone was trained on other spectrograms.
    """
    check_song_backbone(settings.encoder, settings.audio)
    stage, read_tracks = spectrogram_stage(settings, workspace), partial(spectrogram_tracks, workspace)
    mapper = partial(make_mapper, settings.audio, settings.batch)
    return map_tracks(stage, read_tracks, mapper, settings.batch, on_progress=on_progress)
