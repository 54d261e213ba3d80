"""Models as bundles: what is published comes back bit for bit, and what was damaged does not come back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gatefold.encoder.towers import DualEncoder
from gatefold.errors import BundleCorrupt, BundleNotFound
from gatefold.generator.interface import GenerationRequest, Sources
from gatefold.generator.transformer import CoverPipeline, build_pipeline, build_transformer
from gatefold.storage import bundles, objects
from gatefold.storage.models.encoders import build_encoder, load_encoder, publish_encoder
from gatefold.storage.models.generators import LoadedGenerator, load_generator, publish_generator
from tests.checkpoints import BACKBONE_AUDIO, write_checkpoint
from tests.factories import COVER, ENCODER, GENERATOR, unit_vectors
from tests.sounds import AUDIO

LINEAGE, DETAILS = {"catalogue": "abc"}, {"recall_at_10": 0.5}
LOG_MEL = np.random.default_rng(0).normal(-5, 3, (2, AUDIO.n_mels, AUDIO.frames)).astype(np.float16)
Loader = Callable[[str], DualEncoder | LoadedGenerator]


def encoder() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(ENCODER, AUDIO, COVER).eval()


def generator() -> CoverPipeline:
    torch.manual_seed(0)
    transformer = build_transformer(GENERATOR, COVER, ENCODER.embed_dim)
    return build_pipeline(
        transformer, neighbours=2, num_inference_steps=3, guidance_scale=2.5, encoder_fingerprint="encoder-1"
    )


@pytest.fixture
def encoder_uri(tmp_path: Path) -> str:
    uri = objects.resolve(str(tmp_path / "encoders" / "v1"))
    publish_encoder(uri, encoder(), version="v1", lineage=LINEAGE, details=DETAILS)
    return uri


@pytest.fixture
def generator_uri(tmp_path: Path) -> str:
    uri = objects.resolve(str(tmp_path / "generators" / "v1"))
    publish_generator(uri, generator(), version="v1", lineage=LINEAGE, details=DETAILS, cover=COVER, sources={})
    return uri


def path_of(uri: str, kind: str, name: str) -> Path:
    return Path(bundles.open_bundle(uri, kind).uri_of(name).removeprefix("file://"))


def test_an_encoder_comes_back_with_its_audio_and_cover_settings_and_embeds_alike(encoder_uri: str) -> None:
    loaded = load_encoder(encoder_uri)
    assert (loaded.settings, loaded.audio, loaded.cover) == (ENCODER, AUDIO, COVER)
    assert np.array_equal(loaded.embed_song(LOG_MEL), encoder().embed_song(LOG_MEL))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("song", "cover"), [("clap", "clip"), ("audio-spectrogram-transformer", "dinov2"),
                                             ("clap", "convnextv2")])
def test_an_encoder_of_backbones_is_whole_without_their_checkpoints(
    tmp_path: Path, song: str, cover: str, frozen: bool
) -> None:
    folders = [write_checkpoint(tmp_path / kind, kind) for kind in (song, cover)]
    places = {"song_backbone": str(folders[0]), "cover_backbone": str(folders[1])}
    settings = ENCODER.model_copy(update={**places, "freeze_backbones": frozen})
    torch.manual_seed(0)
    made = build_encoder(settings, BACKBONE_AUDIO[song], COVER).eval()
    uri = objects.resolve(str(tmp_path / "encoders" / "v1"))
    publish_encoder(uri, made, version="v1", lineage=LINEAGE, details=DETAILS)
    for folder in folders:
        shutil.rmtree(folder)
    loaded = load_encoder(uri)
    assert loaded.settings == settings
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert np.array_equal(loaded.embed_song(LOG_MEL), made.embed_song(LOG_MEL))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, COVER.size, COVER.size), np.uint8)
    assert np.array_equal(loaded.embed_covers(pixels), made.embed_covers(pixels))


def test_a_loaded_model_knows_its_name_and_no_longer_learns(encoder_uri: str, generator_uri: str) -> None:
    loaded = load_encoder(encoder_uri)
    assert loaded.fingerprint == bundles.open_bundle(encoder_uri, "encoder").fingerprint != ""
    generator = load_generator(generator_uri).model
    assert isinstance(generator, CoverPipeline)
    for module in (loaded, generator.transformer):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_generator_comes_back_with_its_defaults_and_generates_alike(generator_uri: str) -> None:
    loaded = load_generator(generator_uri).model
    assert isinstance(loaded, CoverPipeline)
    assert (loaded.neighbours, loaded.num_inference_steps, loaded.guidance_scale) == (2, 3, 2.5)
    assert loaded.encoder_fingerprint == "encoder-1"
    song, neighbours = unit_vectors(1, 8)[0], unit_vectors(2, 8)
    original = generator()
    original.transformer.eval()
    sources = Sources(("a", "b"), np.ones(2, np.float32), np.zeros((0, 3, 0, 0), np.uint8), neighbours)
    one, other = (
        pipeline.generate(song, sources, seeds=[3], request=GenerationRequest(), on_step=lambda *_: None)
        for pipeline in (loaded, original)
    )
    assert np.array_equal(one[0].pixels, other[0].pixels)


def test_a_generator_says_which_covers_it_may_be_given_and_how_they_are_stored(tmp_path: Path) -> None:
    uri = objects.resolve(str(tmp_path / "g"))
    rule = {"licence": ["CC0", "CC-BY"]}
    publish_generator(uri, generator(), version="v", lineage={}, details={}, cover=COVER, sources=rule)
    loaded = load_generator(uri)
    assert (loaded.sources, loaded.cover, loaded.model.kind) == (rule, COVER, "transformer")


def test_a_bundle_of_before_there_were_kinds_is_refused_with_what_to_do(tmp_path: Path) -> None:
    uri = objects.resolve(str(tmp_path / "old"))
    bundles.publish(uri, {"model_index.json": b"{}"}, kind="generator", version="v", lineage={}, details={"kind": "x"})
    with pytest.raises(BundleCorrupt, match=r"is of kind 'x'; this gatefold knows \['diffusers', 'local-score'"):
        load_generator(uri)


def test_equal_models_have_equal_fingerprints_wherever_they_are_published(tmp_path: Path, generator_uri: str) -> None:
    elsewhere = objects.resolve(str(tmp_path / "elsewhere"))
    again = publish_generator(elsewhere, generator(), version="v2", lineage={}, details={}, cover=COVER, sources={})
    assert again.fingerprint == bundles.open_bundle(generator_uri, "generator").fingerprint


def test_bundles_say_where_they_come_from_and_hold_no_pickle(encoder_uri: str, generator_uri: str) -> None:
    for uri, kind in ((encoder_uri, "encoder"), (generator_uri, "generator")):
        bundle = bundles.open_bundle(uri, kind)
        assert bundle.lineage == LINEAGE
        assert bundle.details["recall_at_10"] == DETAILS["recall_at_10"]
        assert {Path(name).suffix for name in bundle.files} == {".json", ".safetensors"}


@pytest.mark.parametrize("damage", ["cut short", "altered", "missing"])
def test_damaged_weights_are_refused(encoder_uri: str, generator_uri: str, damage: str) -> None:
    places: list[tuple[Loader, str, str]] = [
        (load_encoder, encoder_uri, "model.safetensors"),
        (load_generator, generator_uri, "transformer/diffusion_pytorch_model.safetensors"),
    ]
    for load, uri, name in places:
        path = path_of(uri, objects.name(objects.parent(uri)).removesuffix("s"), name)
        data = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(data[:-100] if damage == "cut short" else data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BundleCorrupt, match="publish it anew"):
            load(uri)


def republished(uri: str, kind: str, changes: dict[str, bytes]) -> str:
    """A bundle whose files are not what its kind should hold, and whose manifest is in order all the same."""
    bundle = bundles.open_bundle(uri, kind)
    files = {name: changes.get(name, bundle.read(name)) for name in bundle.files}
    bundles.publish(f"{uri}-changed", files, kind=kind, version="v2", lineage={}, details=bundle.details)
    return f"{uri}-changed"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", b"no tensors"),
        ("config.json", b"{}"),
        ("config.json", b"no json"),
    ],
)
def test_an_encoder_of_another_make_is_refused_in_words(encoder_uri: str, name: str, data: bytes) -> None:
    with pytest.raises(BundleCorrupt, match="does not fit this gatefold"):
        load_encoder(republished(encoder_uri, "encoder", {name: data}))


def test_weights_of_another_width_are_refused(encoder_uri: str) -> None:
    config = bundles.open_bundle(encoder_uri, "encoder").read("config.json")
    wider = config.replace(b'"embed_dim": 8', b'"embed_dim": 16')
    assert wider != config
    with pytest.raises(BundleCorrupt, match="size mismatch"):
        load_encoder(republished(encoder_uri, "encoder", {"config.json": wider}))


def test_a_bundle_that_names_a_backbone_and_holds_none_is_refused(encoder_uri: str) -> None:
    config = bundles.open_bundle(encoder_uri, "encoder").read("config.json")
    naming = config.replace(b'"cover_backbone": null,', b'"cover_backbone": "/clip",', 1)
    assert naming != config
    with pytest.raises(BundleCorrupt, match="cover_backbone is '/clip', and this encoder was built without it"):
        load_encoder(republished(encoder_uri, "encoder", {"config.json": naming}))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", b"no tensors"),
        ("transformer/config.json", b"no json"),
        ("model_index.json", b"no json"),
        ("model_index.json", b"{}"),
    ],
)
def test_a_generator_of_another_make_is_refused_in_words(generator_uri: str, name: str, data: bytes) -> None:
    with pytest.raises(BundleCorrupt, match="does not fit this gatefold"):
        load_generator(republished(generator_uri, "generator", {name: data}))


def test_a_model_of_another_kind_is_distinguished_from_none(encoder_uri: str, generator_uri: str) -> None:
    with pytest.raises(BundleCorrupt, match="is of kind 'generator', not 'encoder'"):
        load_encoder(generator_uri)
    with pytest.raises(BundleNotFound, match="there is no generator bundle"):
        load_generator(f"{encoder_uri}-nowhere")
