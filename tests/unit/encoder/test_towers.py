"""Towers: unit vectors that depend on the song or the cover, and on nothing beside it."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings
from gatefold.encoder import towers
from gatefold.encoder.towers import DualEncoder, FeatureNorm
from gatefold.errors import WrongModel
from gatefold.images.pixels import resized
from tests.factories import COVER, ENCODER
from tests.sounds import AUDIO


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(ENCODER, AUDIO, COVER).eval()


def windows(count: int, seed: int = 0) -> npt.NDArray[np.float16]:
    shape = (count, AUDIO.n_mels, AUDIO.frames)
    return np.random.default_rng(seed).normal(-5, 3, shape).astype(np.float16)


def pixels(count: int, size: int = COVER.size) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), np.uint8)


def test_embeddings_are_float32_of_unit_length(encoder: DualEncoder) -> None:
    song, covers = encoder.embed_song(windows(3)), encoder.embed_covers(pixels(4))
    assert (song.shape, song.dtype) == ((8,), np.dtype(np.float32))
    assert (covers.shape, covers.dtype) == ((4, 8), np.dtype(np.float32))
    assert np.linalg.norm(song) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(covers, axis=1) == pytest.approx(np.ones(4), abs=1e-6)


def test_a_song_is_the_mean_of_its_windows(encoder: DualEncoder) -> None:
    alone = np.stack([encoder.embed_song(window[None]) for window in windows(3)])
    mean = alone.mean(0) / np.linalg.norm(alone.mean(0))
    assert encoder.embed_song(windows(3)) == pytest.approx(mean, abs=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(encoder: DualEncoder) -> None:
    alone = np.concatenate([encoder.embed_covers(cover[None]) for cover in pixels(4)])
    assert encoder.embed_covers(pixels(4)) == pytest.approx(alone, abs=1e-6)


def test_a_song_has_the_same_bits_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    encoder = DualEncoder(EncoderSettings(), AudioSettings(), CoverSettings()).eval()
    windows = np.random.default_rng(0).normal(size=(3, 80, 256)).astype(np.float16)
    embeddings = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        embeddings.append(encoder.embed_song(windows))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    np.testing.assert_array_equal(embeddings[0], embeddings[1])


def test_loudness_does_not_count(encoder: DualEncoder) -> None:
    quiet, loud = windows(2), windows(2) + np.float16(4)
    assert encoder.embed_song(loud) == pytest.approx(encoder.embed_song(quiet), abs=2e-2)


def test_different_songs_and_covers_have_different_embeddings(encoder: DualEncoder) -> None:
    assert not np.allclose(encoder.embed_song(windows(1, seed=1)), encoder.embed_song(windows(1, seed=2)), atol=1e-3)
    first, second = encoder.embed_covers(pixels(2))
    assert not np.allclose(first, second, atol=1e-3)


def test_features_are_normalised_only_on_request(encoder: DualEncoder) -> None:
    log_mel = torch.from_numpy(windows(2)).float()
    raw, unit = encoder.encode_song(log_mel, normalize=False), encoder.encode_song(log_mel)
    assert torch.allclose(raw / raw.norm(dim=1, keepdim=True), unit, atol=1e-6)
    assert not torch.allclose(raw.norm(dim=1), torch.ones(2))


def test_songs_embedded_together_are_those_embedded_alone(
    encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [windows(count, seed=count) for count in (3, 1, 7, 2)]
    alone = np.stack([encoder.embed_song(song) for song in songs])
    for at_once in (1, 5, 100):
        monkeypatch.setattr(towers, "_WINDOWS_ON_CPU", at_once)
        np.testing.assert_allclose(encoder.embed_songs(songs), alone, atol=1e-6)
    assert encoder.embed_songs([]).shape == (0, 8)


@pytest.mark.parametrize("shape", [(3, 16, 63), (3, 17, 64), (16, 64), (1, 3, 16, 64)])
def test_spectrograms_of_other_audio_settings_are_refused(encoder: DualEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongModel, match=r"this encoder takes \[windows, 16, 64\]"):
        encoder.embed_song(np.zeros(shape, np.float16))


def test_larger_covers_are_averaged_to_the_size_that_the_encoder_was_trained_on(encoder: DualEncoder) -> None:
    large = pixels(2, 64)
    assert np.array_equal(encoder.embed_covers(large), encoder.embed_covers(resized(large, 16)))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 3, 16, 17), (1, 1, 16, 16)])
def test_what_are_no_square_pictures_is_refused(encoder: DualEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongModel, match=r"uint8 \[covers, 3, side, side\] is wanted"):
        encoder.embed_covers(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [16, 24, 100])
def test_covers_of_any_size_that_settings_allow_have_finite_embeddings_and_gradients(size: int) -> None:
    """A picture of 16 pixels ends as one place, whose spread is 0."""
    encoder = DualEncoder(ENCODER, AUDIO, CoverSettings(size=size))
    embeddings = encoder.encode_cover(torch.rand(2, 3, size, size))
    embeddings[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(embeddings).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.cover_tower.parameters() if p.grad is not None)


def test_silence_and_a_blank_cover_have_finite_embeddings(encoder: DualEncoder) -> None:
    silence = np.full((1, AUDIO.n_mels, AUDIO.frames), -13.8, np.float16)
    assert np.isfinite(encoder.embed_song(silence)).all()
    assert np.isfinite(encoder.embed_covers(np.zeros((1, 3, 16, 16), np.uint8))).all()


def test_the_temperature_starts_where_settings_say_and_is_never_below_a_hundredth() -> None:
    encoder = DualEncoder(EncoderSettings(embed_dim=8, width=16, temperature=0.07), AUDIO, COVER)
    song, cover = torch.rand(2, AUDIO.n_mels, AUDIO.frames), torch.rand(2, 3, 16, 16)
    assert encoder(song, cover)[2].item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        encoder.logit_scale.fill_(9.0)
    assert encoder(song, cover)[2].item() == 100


def test_only_the_sigmoid_loss_has_a_bias_which_starts_at_the_odds_of_a_negative() -> None:
    song, cover = torch.rand(2, AUDIO.n_mels, AUDIO.frames), torch.rand(2, 3, 16, 16)
    torch.manual_seed(0)
    plain = DualEncoder(ENCODER, AUDIO, COVER)
    torch.manual_seed(0)
    biased = DualEncoder(ENCODER.model_copy(update={"loss": "sigmoid", "batch_size": 11}), AUDIO, COVER)
    assert [name for name, _ in biased.named_parameters() if name not in plain.state_dict()] == ["logit_bias"]
    for name, value in plain.state_dict().items():
        assert torch.equal(biased.state_dict()[name], value), name
    assert plain(song, cover)[3].item() == 0
    assert torch.sigmoid(biased(song, cover)[3]).item() == pytest.approx(1 / 11)


def test_an_encoder_built_from_defaults_takes_what_the_default_audio_and_cover_settings_give() -> None:
    audio, cover = AudioSettings(), CoverSettings()
    encoder = DualEncoder(EncoderSettings(), audio, cover).eval()
    song = encoder.embed_song(np.zeros((audio.windows, audio.n_mels, audio.frames), np.float16))
    assert len(song) == encoder.embed_covers(pixels(1, cover.size)).shape[1] == EncoderSettings().embed_dim


def test_what_all_songs_have_in_common_no_longer_counts_once_feature_norms_are_fitted() -> None:
    standardise = FeatureNorm(3)
    same = torch.tensor([[5.0, 1.0, 0.0]])
    assert torch.equal(standardise(same.clamp(max=4)), same.clamp(max=4))  # as it is, before
    usual = torch.tensor([[100.0, 1.0, 7.0], [102.0, 1.0, 9.0]])
    standardise.fit(usual)
    assert standardise(usual) == pytest.approx(torch.tensor([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]), abs=1e-2)
    assert standardise(torch.tensor([[1e6, 1.0, -1e6]])).tolist() == [[4.0, 0.0, -4.0]]


def test_feature_norms_are_fitted_for_both_towers_and_travel_with_the_weights() -> None:
    one, other = (DualEncoder(ENCODER, AUDIO, COVER).eval() for _ in range(2))
    before = one.embed_covers(pixels(2))
    one.fit_feature_norm(torch.from_numpy(windows(8)).float(), torch.rand(8, 3, COVER.size, COVER.size))
    assert not np.allclose(one.embed_covers(pixels(2)), before, atol=1e-3)
    other.load_state_dict(one.state_dict())
    assert np.array_equal(other.embed_song(windows(3)), one.embed_song(windows(3)))
