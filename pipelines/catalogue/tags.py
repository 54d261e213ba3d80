"""Tags of an audio file: title, artist, album, genre, embedded picture. No sound is decoded."""

from dataclasses import dataclass

from gatefold.config import CoverSettings
from gatefold.storage.contents.embedded_pictures import FIELDS, first_decodable, open_audio, tags_of


@dataclass(frozen=True)
class Tags:
    """What is known of a song from its own file; None where it does not say."""

    title: str | None
    artist: str | None
    album: str | None
    genre: str | None
    has_picture: bool
    picture_decodes: bool
    """whether one of those inside can be decoded"""
    unreadable: bool
    """whether some tags could not be read"""


def read_tags(uri: str, max_bytes: int = CoverSettings().max_bytes) -> Tags:
    """The tags of a stored audio file.

    Args: max_bytes: of a picture.
    Raises: EmptyFile, UndecodableAudio when it is no audio file; storage errors.
    """
    with open_audio(uri) as file:
        tagged = tags_of(file, uri)
    decodes = first_decodable(tagged.pictures, max_bytes) is not None
    texts = {name: tagged.texts.get(name) for name in FIELDS}
    return Tags(
        **texts, has_picture=bool(tagged.pictures), picture_decodes=decodes, unreadable=tagged.unreadable
    )
