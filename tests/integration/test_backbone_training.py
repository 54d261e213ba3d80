"""An encoder of two backbones that lie in a bucket: two workers train it, songs are searched by it, without them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import Settings, load
from gatefold.encoder.backbones import Backbone
from gatefold.errors import InvalidSettings
from gatefold.storage import objects
from gatefold.storage.models.encoders import build_encoder, load_encoder
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.catalogue.synthesize import MANIFEST, synthesize
from pipelines.extraction.covers import extract_covers
from pipelines.extraction.embeddings import embed_catalogue
from pipelines.extraction.spectrograms import extract_spectrograms
from pipelines.index import build_index
from pipelines.training.train_encoder import train_encoder
from pipelines.versions import versions_of
from tests.checkpoints import write_checkpoint
from tests.factories import COVER
from tests.sounds import AUDIO

SONGS = 32
pytestmark = [pytest.mark.chaos, pytest.mark.slow]  # `make test` has no time for it


def settings_for(root: str) -> Settings:
    made = load(
        overrides=[
            f"synthesis.songs={SONGS}",
            "synthesis.artists=16",
            "synthesis.duration_s=2",
            "synthesis.cover_size=32",
            f"encoder.song_backbone={root}/clap",
            f"encoder.cover_backbone={root}/clip",
            "encoder.embed_dim=8",
            "encoder.batch_size=8",
            "encoder.epochs=2",
            "encoder.evaluations=2",
            "train.num_workers=2",
            "train.checkpoint_steps=2",
            "train.max_failures=0",
        ]
    )
    return made.model_copy(update={"audio": AUDIO, "cover": COVER})


@pytest.fixture
def backbones(s3: str, tmp_path: Path) -> str:
    """Where in the bucket two checkpoints lie."""
    root = f"{s3}/backbones"
    for kind in ("clap", "clip"):
        for path in write_checkpoint(tmp_path / kind, kind).iterdir():
            objects.put(f"{root}/{kind}/{path.name}", path.read_bytes())
    return root


def test_two_workers_train_on_frozen_backbones_and_what_they_publish_needs_no_checkpoint(
    ray_cluster: str, backbones: str
) -> None:
    settings, workspace = settings_for(backbones), Workspace(f"{ray_cluster}/with-backbones")
    songs = f"{ray_cluster}/songs-for-backbones"
    synthesize(settings, songs)
    build_catalogue(settings, f"{songs}/{MANIFEST}", workspace)
    extract_spectrograms(settings, workspace)
    extract_covers(settings, workspace)
    assert train_encoder(settings, workspace).done > 0
    assert train_encoder(settings, workspace).skipped == 1
    assert embed_catalogue(settings, workspace).done == SONGS
    build_index(settings, workspace)
    versions = versions_of(settings, workspace)
    torch.manual_seed(settings.encoder.seed)
    begun = build_encoder(settings.encoder, settings.audio, settings.cover)
    objects.delete_tree(backbones)

    encoder = load_encoder(f"{workspace.encoders}/{versions.encoder}")
    for before, after in ((begun.song_tower, encoder.song_tower), (begun.cover_tower, encoder.cover_tower)):
        assert isinstance(before, Backbone)
        assert isinstance(after, Backbone)
        weights = after.network.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in before.network.state_dict().items())
        projections = [side.project.get_parameter("2.weight") for side in (before, after)]
        assert not torch.equal(projections[0], projections[1])
    song = next(info.uri for info in objects.list_objects(f"{songs}/audio"))
    embedding = encoder.embed_song(extract_log_mel(objects.read(song), encoder.audio).log_mel)
    index = load_index(f"{workspace.indexes}/{versions.index}")
    matches = index.search(embedding[None], 10, encoder_fingerprint=encoder.fingerprint)[0]
    assert len(matches) == 10
    stored = index.get(objects.name(song).partition(".")[0]).song_embedding
    assert stored is not None
    assert np.allclose(stored, embedding, atol=1e-5)
    with pytest.raises(InvalidSettings, match="there is no checkpoint of a backbone at 's3://"):
        versions_of(settings, workspace)


def test_spectrograms_of_another_kind_are_not_even_begun(ray_cluster: str, backbones: str) -> None:
    settings = settings_for(backbones)
    audio = settings.audio.model_copy(update={"hop_length": 40})
    with pytest.raises(InvalidSettings, match=r"audio.hop_length 40 should be 80; --set audio.hop_length=80"):
        extract_spectrograms(settings.model_copy(update={"audio": audio}), Workspace(f"{ray_cluster}/not-begun"))
