"""Fréchet distances genre by genre: of generated covers to their songs' nearest hundred, and to real covers of the
genre.

This is how the article judged its generator, as far as that is known. Features in, rows out. A Fréchet distance of few
pictures is too large, by the more the fewer they are, so within a genre each is taken of the same number of pictures on
both sides, and that number is stated.

Shape legend: n = covers that a candidate made, C = width of a space.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatefold.evaluation import metrics
from gatefold.evaluation.metrics import Floats
from pipelines.evaluation.held_out import HeldOut

ARTICLE = 20.89
"""Fréchet distance that Apolo & Mendoza (HCII 2023) report over ten genres"""
WHY_NOT_THE_SAME = (
    f"The article's {ARTICLE} is not the same measure: a Fréchet distance depends on the network whose features it "
    "compares, on the catalogue and on the number of pictures, and the article took it in another network's features, "
    "on a catalogue of its own of about 20,000 songs, with a number of pictures that is not known to us."
)
POOL = 100
"""covers nearest to the songs of a genre, of which as many are drawn as there are generated ones"""
_LEAST = 2  # covers without which there is no spread
_MOST_GENRES = 24
_REAL = "real covers"


def genres_of(held_out: HeldOut) -> dict[str, list[str]]:
    """song_ids of the held-out songs by genre, at most POOL each; the genres with most songs, in alphabetical order."""
    songs: dict[str, list[str]] = {}
    for song_id, genre in zip(held_out.ids, held_out.genres.tolist(), strict=True):
        if genre:
            songs.setdefault(genre, []).append(song_id)
    largest = sorted(songs, key=lambda genre: (-len(songs[genre]), genre))[:_MOST_GENRES]
    return {genre: songs[genre][:POOL] for genre in sorted(largest) if len(songs[genre]) >= _LEAST}


def genre_rows(
    genres: Mapping[str, Sequence[int]],
    features: Mapping[str, Mapping[str, Floats]],
    covers: Mapping[str, Mapping[str, Floats]],
    song_ids: Sequence[str],
    nearest: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """A row for each genre: its name, the number of pictures on each side, and for each candidate and space the
    distance to the nearest covers (`nearest`) and to real covers of the genre (`held_out`; not of real ones to
    themselves).

    Args:
        genres: genre to the numbers of its covers, one for each of its songs.
        features: by candidate and ending of a space, [n, C], scaled as sets of them are compared.
        covers: by ending of a space and song_id, [C] of real covers, scaled likewise.
        song_ids: [n], whom each cover was made for.
        nearest: song_id to the song_ids of the covers nearest to it, nearest first.
    """
    rows = []
    for genre, numbers in genres.items():
        songs = [song_ids[number] for number in numbers]
        pool = hundred_nearest([nearest[song_id] for song_id in songs])
        count = min(len(songs), len(pool))
        if count < _LEAST:
            continue
        drawn = np.sort(np.random.default_rng(0).permutation(len(pool))[:count])
        sets = {"nearest": [pool[place] for place in drawn], "held_out": songs[:count]}
        rows.append({"genre": genre, "pictures": count, **_distances(features, covers, numbers[:count], sets)})
    return rows


def _distances(
    features: Mapping[str, Mapping[str, Floats]],
    covers: Mapping[str, Mapping[str, Floats]],
    numbers: Sequence[int],
    sets: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, dict[str, float]]]:
    """By set, candidate and ending of a space."""
    return {
        name: {
            candidate: {
                ending: metrics.frechet_distance(
                    of_candidate[ending][list(numbers)], np.stack([known[s] for s in songs])
                )
                for ending, known in covers.items()
            }
            for candidate, of_candidate in features.items()
            if not (name == "held_out" and candidate == _REAL)
        }
        for name, songs in sets.items()
    }


def hundred_nearest(lists: Sequence[Sequence[str]]) -> list[str]:
    """The first POOL covers of several songs' lists, read by turns: each song's nearest, then each one's second, ..."""
    longest = max((len(one) for one in lists), default=0)
    by_turns = [one[rank] for rank in range(longest) for one in lists if rank < len(one)]
    return list(dict.fromkeys(by_turns))[:POOL]
