"""What a generator is told of a song: its embedding, and those of the nearest covers that are not by its artist."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gatefold.errors import StageMissing
from gatefold.retrieval import CoverIndex, Filters

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Conditions:
    """Of several songs: song float32 [B, D] and neighbours float32 [B, K, D], nearest first."""

    song: Vectors
    neighbours: Vectors


def conditions_of(index: CoverIndex, song_ids: list[str], neighbours: int) -> Conditions:
    """Leaves out each song's own cover and its artist's others: a new song would not find them in the catalogue either.

    Raises: StageMissing when the catalogue has too few other artists.
    """
    songs, contexts = [], []
    for song_id in song_ids:
        known = index.get(song_id)
        if known.song_embedding is None:
            raise StageMissing(f"track '{song_id}' has no song embedding; see `gatefold rejects list`")
        matches = index.search(
            known.song_embedding[None],
            neighbours,
            encoder_fingerprint=index.encoder_fingerprint,
            filters=Filters(frozenset({song_id}), frozenset({known.track.artist} if known.track.artist else ())),
        )[0]
        if len(matches) < neighbours:
            raise StageMissing(
                f"only {len(matches)} covers by other artists than '{song_id}' has, {neighbours} are needed"
            )
        songs.append(known.song_embedding)
        contexts.append(index.cover_embeddings([match.track.song_id for match in matches]))
    return Conditions(np.stack(songs), np.stack(contexts))
