"""The demo's synthetic catalogue: artists, songs and covers with latent traits in common, which an encoder can find.

Every song has five traits. The audio renders them exactly; the cover is drawn from them with noise of a known size. So
a cover has some information about its song, never all, and how well the best possible ranker could match the two can be
computed. This module draws artists, traits and names.
It makes no sound and draws no picture: `composition` and `drawing` do, each from a `SyntheticTrack` alone.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gatefold.config import SynthesisSettings

MODE_BLUR = 1.8
"""The mode is one of two values: it takes more noise than the others to be as doubtful."""

_ARTIST_SPREAD, _SONG_SPREAD = 0.12, 0.10


@dataclass(frozen=True)
class Traits:
    """What a song is like, each in [0, 1]: true ones stay inside, seen ones carry noise and may lie somewhat
    outside.
    """

    tempo: float
    """66 to 158 beats a minute"""
    energy: float
    """drive and drums; contrast and angles"""
    brightness: float
    """how open the filter and how high the melody; how light the picture"""
    mode: float
    """0 minor, 1 major; cool to warm"""
    density: float
    """notes a beat and voices a chord; shapes in the picture"""

    def vector(self) -> NDArray[np.float32]:
        """float32 [5], in the order of `TRAIT_NAMES`."""
        return np.array(astuple(self), dtype=np.float32)


TRAIT_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Traits))


@dataclass(frozen=True)
class Genre:
    """Where a genre's songs lie among the traits: their mean (of `mode`: the share of songs in major) and a scale
    of spread.
    """

    name: str
    mean: Traits
    spread: float


GENRES: tuple[Genre, ...] = (
    Genre("ambient", Traits(tempo=0.25, energy=0.20, brightness=0.45, mode=0.50, density=0.32), 0.9),
    Genre("folk", Traits(tempo=0.42, energy=0.34, brightness=0.55, mode=0.65, density=0.46), 1.0),
    Genre("jazz", Traits(tempo=0.55, energy=0.42, brightness=0.44, mode=0.50, density=0.62), 1.2),
    Genre("metal", Traits(tempo=0.70, energy=0.80, brightness=0.56, mode=0.30, density=0.64), 1.0),
    Genre("techno", Traits(tempo=0.68, energy=0.70, brightness=0.50, mode=0.35, density=0.54), 1.0),
    Genre("house", Traits(tempo=0.58, energy=0.60, brightness=0.60, mode=0.55, density=0.52), 1.0),
    Genre("hip-hop", Traits(tempo=0.36, energy=0.58, brightness=0.40, mode=0.40, density=0.44), 1.1),
    Genre("classical", Traits(tempo=0.46, energy=0.34, brightness=0.60, mode=0.55, density=0.62), 1.2),
    Genre("reggae", Traits(tempo=0.36, energy=0.46, brightness=0.50, mode=0.65, density=0.42), 0.9),
    Genre("synthwave", Traits(tempo=0.54, energy=0.56, brightness=0.62, mode=0.45, density=0.50), 1.0),
    Genre("punk", Traits(tempo=0.75, energy=0.76, brightness=0.62, mode=0.60, density=0.48), 0.9),
    Genre("blues", Traits(tempo=0.40, energy=0.50, brightness=0.40, mode=0.40, density=0.44), 1.0),
)


@dataclass(frozen=True)
class Signature:
    """What makes an artist's songs and covers resemble each other beyond their traits."""

    formant: float
    """in [0, 1]: which overtones of the lead stand out"""
    hue: float
    """degrees by which the palette is turned"""
    stroke: float
    """in [0, 1]: thin lines to thick"""


@dataclass(frozen=True)
class SyntheticTrack:
    """Everything that is needed to render one song and its cover, in any process, to the same bytes."""

    song_id: str
    title: str
    artist: str
    album: str
    genre: str
    latent: Traits
    """of the audio"""
    seen: Traits
    """what is drawn: the latent traits plus Gaussian noise"""
    signature: Signature
    song_seed: int
    cover_seed: int

    def trait_vector(self) -> NDArray[np.float32]:
        """The true traits, float32 [5] in [0, 1]."""
        return self.latent.vector()

    def seen_vector(self) -> NDArray[np.float32]:
        """All that a perfect reader of the cover can know of the traits, float32 [5]."""
        return self.seen.vector()


@dataclass(frozen=True)
class _Artist:
    name: str
    genre: Genre
    offset: NDArray[np.float64]
    major_share: float
    albums: tuple[str, ...]
    signature: Signature


def seen_sigma(settings: SynthesisSettings) -> NDArray[np.float64]:
    """Standard deviation of the noise between latent and seen traits, [5]."""
    blur = [MODE_BLUR if name == "mode" else 1.0 for name in TRAIT_NAMES]
    return settings.cover_noise * np.array(blur)


def log_odds_of_own(
    latent: NDArray[np.float64], seen: NDArray[np.float64], genres: NDArray[np.str_], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[Q, Q]: how much likelier cover j was drawn for song i than for some song of its genre; -inf across genres.

    The best any ranker can do: it knows the true traits and the genre, and has of a cover the genre and all that the
    noise left of the traits. Songs that rank covers by it find their own as often as can be, and so do covers songs.

    Args:
        latent: true traits [Q, 5] of the songs, in the order of `TRAIT_NAMES`.
        seen: traits [Q, 5] as their covers were drawn from.
        genres: [Q], names from `GENRES`.
        sigma: standard deviation [5] of the noise between the two.
    """
    sigma = np.maximum(sigma, 1e-6)
    scaled, read = latent / sigma, seen / sigma
    own = scaled @ read.T - (scaled**2).sum(1)[:, None] / 2 - (read**2).sum(1)[None] / 2 - np.log(sigma).sum()
    named = {genre.name: genre for genre in GENRES}
    any_song = np.array([_log_density(one, named[name], sigma) for one, name in zip(seen, genres, strict=True)])
    return np.where(genres[:, None] == genres[None, :], own - any_song[None], -np.inf)


def _log_density(seen: NDArray[np.float64], genre: Genre, sigma: NDArray[np.float64]) -> float:
    """Of these seen traits [5] among the covers of a genre, up to a constant."""
    mean = genre.mean.vector().astype(np.float64)
    spread = np.sqrt((_ARTIST_SPREAD**2 + _SONG_SPREAD**2) * genre.spread**2 + sigma**2)
    log_densities = -(((seen - mean) / spread) ** 2) / 2 - np.log(spread)
    mode = TRAIT_NAMES.index("mode")  # one of two values, then noise
    minor, major = (-(((seen[mode] - value) / sigma[mode]) ** 2) / 2 - np.log(sigma[mode]) for value in (0, 1))
    log_densities[mode] = np.logaddexp(np.log(mean[mode]) + major, np.log1p(-mean[mode]) + minor)
    return float(log_densities.sum())


def compose_catalogue(settings: SynthesisSettings) -> list[SyntheticTrack]:
    """All the tracks of a catalogue. A track depends on the seed, its own number and the number of artists, not on
    how many songs there are, so a larger catalogue begins with the smaller one.
    """
    artists = _form_artists(settings.seed, settings.artists)
    return [_write_song(settings, index, artists[index % len(artists)]) for index in range(settings.songs)]


def _form_artists(seed: int, count: int) -> list[_Artist]:
    names = _distinct_names(np.random.default_rng([seed, 0]), count)
    artists = []
    for index, name in enumerate(names):
        rng = np.random.default_rng([seed, 1, index])
        genre = GENRES[index % len(GENRES)]
        artists.append(
            _Artist(
                name=name,
                genre=genre,
                offset=rng.normal(0.0, _ARTIST_SPREAD * genre.spread, len(TRAIT_NAMES)),
                major_share=float(np.clip(genre.mean.mode + rng.choice([-0.25, 0.25]), 0.05, 0.95)),
                albums=(_phrase(rng), _phrase(rng)),
                signature=Signature(float(rng.random()), float(rng.normal(0.0, 9.0)), float(rng.random())),
            )
        )
    return artists


def _write_song(settings: SynthesisSettings, index: int, artist: _Artist) -> SyntheticTrack:
    rng = np.random.default_rng([settings.seed, 2, index])
    values = (
        artist.genre.mean.vector()
        + artist.offset
        + rng.normal(0.0, _SONG_SPREAD * artist.genre.spread, len(TRAIT_NAMES))
    )
    values = np.clip(values, 0.02, 0.98)
    values[TRAIT_NAMES.index("mode")] = float(rng.random() < artist.major_share)
    noise = rng.standard_normal(len(TRAIT_NAMES)) * seen_sigma(settings)
    song_seed, cover_seed = (int(word) for word in rng.integers(0, 2**63, 2))
    return SyntheticTrack(
        song_id=f"s{index:05d}",
        title=_phrase(rng),
        artist=artist.name,
        album=artist.albums[int(rng.integers(len(artist.albums)))],
        genre=artist.genre.name,
        latent=Traits(*values.tolist()),
        seen=Traits(*(values + noise).tolist()),
        signature=artist.signature,
        song_seed=song_seed,
        cover_seed=cover_seed,
    )


# ---- names -------------------------------------------------------------------------------------------------------

_QUALITIES = (
    "Amber", "Blue", "Burning", "Copper", "Crooked", "Distant", "Electric", "Empty", "Endless", "Fallen",
    "Gentle", "Glass", "Golden", "Hidden", "Hollow", "Iron", "Ivory", "Late", "Little", "Lonesome", "Lost",
    "Lunar", "Marble", "Midnight", "Northern", "Old", "Open", "Pale", "Paper", "Patient", "Quiet", "Restless",
    "Rolling", "Salt", "Scarlet", "Second", "Silver", "Slow", "Small", "Soft", "Southern", "Static", "Strange",
    "Sunday", "Velvet", "Violet", "Wild", "Winter",
)  # fmt: skip
_THINGS = (
    "Anchor", "Arcade", "Atlas", "Avenue", "Bloom", "Bridge", "Canyon", "Cathedral", "Circus", "Comet",
    "Corner", "Current", "Delta", "Echo", "Ember", "Engine", "Feather", "Field", "Fountain", "Garden", "Ghost",
    "Harbour", "Horizon", "Island", "Lantern", "Letter", "Lighthouse", "Machine", "Meadow", "Mirror", "Motel",
    "Mountain", "Ocean", "Orchard", "Parade", "Planet", "Radio", "Railway", "River", "Satellite", "Season",
    "Shadow", "Signal", "Sparrow", "Station", "Thunder", "Tide", "Window",
)  # fmt: skip
_FORMS = ("The {q} {t}s", "{q} {t}", "{t} & {u}", "{q} {t} Club", "{t} of {u}s")
_PHRASES = (
    "{q} {t}",
    "The {t}",
    "{t} and {u}",
    "Under the {t}",
    "{q} {t} Blues",
    "Song for a {t}",
    "Another {q} {t}",
    "{q}",
)


def _distinct_names(rng: np.random.Generator, count: int) -> list[str]:
    """Artists' names, no two alike: the split keeps an artist on one side by name."""
    names: dict[str, None] = {}
    while len(names) < count:
        name = _fill(str(rng.choice(_FORMS)), rng)
        rounds = len(names) // (len(_QUALITIES) * len(_THINGS))
        names[name if rounds == 0 else f"{name} {rounds + 1}"] = None
    return list(names)


def _phrase(rng: np.random.Generator) -> str:
    return _fill(str(rng.choice(_PHRASES)), rng)


def _fill(form: str, rng: np.random.Generator) -> str:
    thing, other = rng.choice(_THINGS, 2, replace=False)
    return form.format(q=rng.choice(_QUALITIES), t=thing, u=other)


def beats_per_minute(tempo: float) -> float:
    """Beats a minute, 66 to 158.

    Args:
        tempo: the trait, 0 to 1.
    """
    return 66.0 + 92.0 * tempo
