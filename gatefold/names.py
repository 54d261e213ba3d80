"""Normalisation of names of artists, albums and genres for comparison: one writer's "BJÖRK " is another's "Björk"."""

import unicodedata

NAMED = ("artist", "album", "genre")
"""columns whose values are compared by `normal_name` everywhere"""


def normal_name(name: str | None) -> str:
    """A name in the one form in which names are compared; empty where there is none.

    Unicode in composed form (NFC), case folded, white space outside removed and inside single.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name or "").casefold())
    return " ".join(folded.split())
