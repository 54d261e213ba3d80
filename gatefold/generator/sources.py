"""Selection of source covers: which covers new ones may be made from, for training, command line and endpoint alike.

Not the song's own cover nor its artist's others, since a cover made from those would be a copy; none that was
withdrawn; none whose `may_be_source` is false or empty; and only those that `generator.sources` allows.

Shape legend: B = songs, D = width of the joint space.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gatefold.errors import NoSources
from gatefold.index.interface import Filters, Index
from gatefold.records import MAY_BE_SOURCE, Match

_SONGS_PER_SEARCH = 512
_EXTRA_MATCHES = 32  # matches beyond those wanted that are searched for: some are of the song itself or its artist


@dataclass(frozen=True)
class SourceRule:
    """Whose covers may be sources.

    Args:
        allowed: `generator.sources`: columns, and the values of which one must be there.
        withdrawn: song_ids of opt-outs.
    """

    allowed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()

    def filters(self, song_id: str | None = None, artist: str | None = None) -> Filters:
        """For one song, by its id and artist where it is in the catalogue."""
        return Filters(
            exclude_song_ids=self.withdrawn | ({song_id} if song_id else set()),
            exclude_artists=frozenset({artist} if artist else ()),
            where=(
                (MAY_BE_SOURCE, frozenset({"true"})),
                *((column, frozenset(values)) for column, values in sorted(self.allowed.items())),
            ),
        )


ANY = SourceRule()
"""every cover that is not closed, as far as nothing was withdrawn"""


def chosen(matches: Sequence[Match], source_song_ids: Collection[str] | None) -> list[Match]:
    """The matches that a new cover is made from: all, or those that the caller picked among them.

    Raises: NoSources where nothing is left.
    """
    wanted = None if source_song_ids is None else set(source_song_ids)
    kept = [match for match in matches if wanted is None or match.track.song_id in wanted]
    if not kept:
        picked = "" if wanted is None else f" among the {len(wanted)} that source_song_ids names"
        raise NoSources(
            f"no cover{picked} may be a source for this song: those not among its nearest, its own and "
            "its artist's, withdrawn ones, those with may_be_source false and those that generator.sources leaves out "
            "are not used"
        )
    return kept


def sources_of(index: Index, song_ids: Sequence[str], count: int, rule: SourceRule) -> list[list[Match]]:
    """For each song of the index, at most `count` nearest covers that may be its sources, the nearest first.

    Raises: UnknownTrack for a song that is not there or has no embedding.
    """
    found = []
    for start in range(0, len(song_ids), _SONGS_PER_SEARCH):
        some = song_ids[start : start + _SONGS_PER_SEARCH]
        embeddings = index.song_embeddings(some)
        shared = _search(index, embeddings, count + _EXTRA_MATCHES, rule.filters())
        for song_id, embedding, matches in zip(some, embeddings, shared, strict=True):
            artist = index.get(song_id).track.artist
            own = rule.filters(song_id, artist)
            kept = [m for m in matches if m.track.song_id != song_id and not own.excludes_artist(m.track.artist)]
            if (
                len(kept) < count and len(matches) == count + _EXTRA_MATCHES
            ):  # too many were of the artist: search for this one
                kept = _search(index, embedding[None], count, own)[0]
            found.append([match.model_copy(update={"rank": rank}) for rank, match in enumerate(kept[:count], start=1)])
    return found


def _search(index: Index, embeddings: npt.NDArray[np.float32], k: int, filters: Filters) -> list[list[Match]]:
    return index.search(embeddings, k, encoder_fingerprint=index.encoder_fingerprint, filters=filters)
