"""The demo's catalogue: the same from one seed everywhere, true in its traits, in sound and picture."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from gatefold.config import SynthesisSettings
from gatefold.synthetic.catalogue import (
    GENRES,
    TRAIT_NAMES,
    SyntheticTrack,
    Traits,
    beats_per_minute,
    compose_catalogue,
    seen_sigma,
)
from gatefold.synthetic.composition import STYLES, render_song
from gatefold.synthetic.drawing import draw_cover
from gatefold.synthetic.instruments import SAMPLE_RATE
from gatefold.synthetic.motifs import LOOKS, oklch

SETTINGS = SynthesisSettings(songs=240, artists=48)
MIDDLE = Traits(tempo=0.5, energy=0.5, brightness=0.5, mode=1.0, density=0.5)


@pytest.fixture(scope="module")
def tracks() -> list[SyntheticTrack]:
    return compose_catalogue(SETTINGS)


def of_genre(tracks: list[SyntheticTrack], genre: str) -> SyntheticTrack:
    return next(track for track in tracks if track.genre == genre)


def test_the_same_seed_gives_the_same_catalogue_and_another_seed_another(tracks: list[SyntheticTrack]) -> None:
    assert compose_catalogue(SETTINGS) == tracks
    assert compose_catalogue(SETTINGS.model_copy(update={"seed": 1})) != tracks


def test_a_larger_catalogue_begins_with_the_smaller_one(tracks: list[SyntheticTrack]) -> None:
    assert compose_catalogue(SETTINGS.model_copy(update={"songs": 300}))[:240] == tracks


def test_the_same_track_gives_the_same_sound_and_the_same_pixels(tracks: list[SyntheticTrack]) -> None:
    again = compose_catalogue(SETTINGS)[7]
    assert np.array_equal(render_song(tracks[7], 2.0), render_song(again, 2.0))
    assert np.array_equal(draw_cover(tracks[7], 64), draw_cover(again, 64))


def test_every_genre_has_songs_a_style_and_a_look(tracks: list[SyntheticTrack]) -> None:
    names = {genre.name for genre in GENRES}
    assert {track.genre for track in tracks} == names == set(STYLES) == set(LOOKS)
    assert len(names) >= 12


def test_song_ids_are_unique_and_true_traits_lie_between_zero_and_one(tracks: list[SyntheticTrack]) -> None:
    assert len({track.song_id for track in tracks}) == len(tracks)
    vectors = np.stack([track.trait_vector() for track in tracks])
    assert vectors.shape == (240, len(TRAIT_NAMES))
    assert vectors.dtype == np.float32
    assert vectors.min() >= 0
    assert vectors.max() <= 1


def test_an_artist_keeps_to_one_genre_and_one_signature(tracks: list[SyntheticTrack]) -> None:
    by_artist: dict[str, set[object]] = defaultdict(set)
    for track in tracks:
        by_artist[track.artist].add((track.genre, track.signature))
    assert len(by_artist) == SETTINGS.artists
    assert all(len(kinds) == 1 for kinds in by_artist.values())


def test_songs_of_an_artist_resemble_each_other_more_than_those_of_a_genre(tracks: list[SyntheticTrack]) -> None:
    def spread(key: str) -> float:
        groups: dict[str, list[float]] = defaultdict(list)
        for track in tracks:
            groups[getattr(track, key)].append(track.latent.tempo)
        return float(np.mean([np.var(group) for group in groups.values()]))

    assert spread("artist") < 0.8 * spread("genre")


def test_the_noise_between_the_traits_of_sound_and_picture_has_the_size_that_is_set() -> None:
    many = compose_catalogue(SynthesisSettings(songs=1500, artists=60))
    noise = np.stack([track.seen_vector() - track.trait_vector() for track in many])
    assert noise.std(axis=0) == pytest.approx(seen_sigma(SETTINGS), rel=0.1)
    assert np.abs(noise.mean(axis=0)).max() < 0.05


def test_without_noise_the_cover_shows_the_traits_as_they_are() -> None:
    assert all(track.seen == track.latent for track in compose_catalogue(SynthesisSettings(songs=20, cover_noise=0.0)))


def test_artists_keep_distinct_names_when_there_are_many() -> None:
    many = compose_catalogue(SynthesisSettings(songs=3000, artists=3000))
    assert len({track.artist for track in many}) == 3000


# ---- songs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("genre", [genre.name for genre in GENRES])
def test_a_song_is_finite_loud_enough_below_full_scale_and_fades(tracks: list[SyntheticTrack], genre: str) -> None:
    song = render_song(of_genre(tracks, genre), 4.0)
    assert song.dtype == np.float32
    assert song.shape == (4 * SAMPLE_RATE,)
    assert np.isfinite(song).all()
    assert np.abs(song).max() <= 0.9
    assert 0.05 < np.sqrt(np.mean(song**2)) < 0.2
    assert abs(song.mean()) < 1e-3
    assert np.abs(song[-50:]).max() < 0.01
    assert abs(song[0]) < 0.01


@pytest.mark.parametrize("tempo", [0.1, 0.5, 0.9])
def test_the_beat_of_a_song_can_be_measured(tracks: list[SyntheticTrack], tempo: float) -> None:
    track = replace(of_genre(tracks, "techno"), latent=replace(MIDDLE, tempo=tempo))
    song = render_song(track, 8.0)
    frame = SAMPLE_RATE // 100
    spectra = np.abs(np.fft.rfft(song[: len(song) // frame * frame].reshape(-1, frame)))[:, :2]
    onsets = np.maximum(np.diff(spectra.sum(axis=1)), 0)
    echo = np.correlate(onsets - onsets.mean(), onsets - onsets.mean(), "full")[len(onsets) - 1 :]
    beat_s = 60 / beats_per_minute(tempo)
    window = range(round(80 * beat_s), round(125 * beat_s))
    assert window[int(np.argmax(echo[window.start : window.stop]))] / 100 == pytest.approx(beat_s, rel=0.05)


def test_a_brighter_song_has_more_treble(tracks: list[SyntheticTrack]) -> None:
    def treble(brightness: float) -> float:
        song = render_song(replace(of_genre(tracks, "house"), latent=replace(MIDDLE, brightness=brightness)), 4.0)
        power = np.abs(np.fft.rfft(song)) ** 2
        return float(power[len(power) // 5 :].sum() / power.sum())

    assert treble(0.1) < treble(0.5) < treble(0.9)


# ---- covers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("genre", [genre.name for genre in GENRES])
def test_a_cover_is_a_square_of_colour(tracks: list[SyntheticTrack], genre: str) -> None:
    cover = draw_cover(of_genre(tracks, genre), 96)
    assert cover.shape == (96, 96, 3)
    assert cover.dtype == np.uint8
    assert cover.std() > 10


@pytest.mark.parametrize("genre", [genre.name for genre in GENRES])
def test_a_brighter_song_has_a_lighter_cover(tracks: list[SyntheticTrack], genre: str) -> None:
    track = of_genre(tracks, genre)
    means = [draw_cover(replace(track, seen=replace(MIDDLE, brightness=b)), 64).mean() for b in (0.1, 0.35, 0.6, 0.85)]
    assert means == sorted(means)


def test_a_song_in_major_has_a_warmer_cover(tracks: list[SyntheticTrack]) -> None:
    def warmth(mode: float) -> float:
        cover = draw_cover(replace(of_genre(tracks, "blues"), seen=replace(MIDDLE, mode=mode)), 64).astype(float)
        return float((cover[..., 0] - cover[..., 2]).mean())

    assert warmth(0.0) < warmth(0.5) < warmth(1.0)


def test_the_cover_follows_the_noisy_traits_and_not_the_true_ones(tracks: list[SyntheticTrack]) -> None:
    track = tracks[0]
    assert np.array_equal(draw_cover(track, 64), draw_cover(replace(track, latent=MIDDLE), 64))


def test_a_cover_has_room_for_traits_seen_far_outside(tracks: list[SyntheticTrack]) -> None:
    for genre in LOOKS:
        for far in (-1.5, 2.5):
            cover = draw_cover(replace(of_genre(tracks, genre), seen=Traits(far, far, far, far, far)), 32)
            assert cover.std() > 0, f"{genre} at {far} is one flat colour"


def test_colours_are_the_known_ones() -> None:
    assert oklch(0.0, 0.0, 0.0) == (0, 0, 0)
    assert oklch(1.0, 0.0, 0.0) == (255, 255, 255)
    assert oklch(0.62796, 0.25768, 29.234) == pytest.approx((255, 0, 0), abs=3)
