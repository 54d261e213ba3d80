"""Which covers may be sources of a song's new covers: the one rule, for training, command line and endpoint alike.

Not the song's own cover nor its artist's others, since a cover made from those would be a copy; none that was withdrawn;
none whose `may_be_source` is false or empty; and only those that `generator.sources` allows.
"""

from collections.abc import Collection, Mapping, Sequence

from gatefold.errors import NoSources
from gatefold.records import MAY_BE_SOURCE, Match
from gatefold.retrieval import Filters

Rule = Mapping[str, Sequence[str]]
"""`generator.sources`: columns, and the values of which one must stand there"""


def source_filters(
    rule: Rule, *, song_id: str | None = None, artist: str | None = None, withdrawn: Collection[str] = ()
) -> Filters:
    """Args:
    rule: of the generator that is asked.
    song_id, artist: of the song, where it is in the catalogue.
    withdrawn: song_ids of opt-outs.
    """
    own = {song_id} if song_id else set()
    return Filters(
        exclude_song_ids=frozenset(withdrawn) | own,
        exclude_artists=frozenset({artist} if artist else ()),
        where=(
            (MAY_BE_SOURCE, frozenset({"true"})),
            *((column, frozenset(values)) for column, values in sorted(rule.items())),
        ),
    )


def chosen(matches: Sequence[Match], source_song_ids: Collection[str] | None) -> list[Match]:
    """The matches that a new cover is made from: all, or those that the caller picked among them.

    Raises: NoSources where nothing is left.
    """
    wanted = None if source_song_ids is None else set(source_song_ids)
    kept = [match for match in matches if wanted is None or match.track.song_id in wanted]
    if not kept:
        picked = "" if wanted is None else f" among the {len(wanted)} that source_song_ids names"
        raise NoSources(
            f"no cover{picked} may be a source for this song: its own and its artist's, withdrawn ones, those with "
            "may_be_source false and those that generator.sources leaves out are not used"
        )
    return kept
