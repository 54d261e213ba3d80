"""What a cover says of its own origin: IPTC digital source type, title, creator and credit as XMP, and a sidecar.

Sources: IPTC Photo Metadata Standard (`Iptc4xmpExt:DigitalSourceType`); IPTC NewsCodes, scheme digitalsourcetype; XMP
specification part 1 (ISO 16684-1) for the packet.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image

from gatefold.errors import InputError
from gatefold.export.encoding import XMP_OF_PNG

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPES = {
    "local-score": VOCABULARY + "compositeSynthetic",
    "transformer": VOCABULARY + "trainedAlgorithmicMedia",
    "diffusers": VOCABULARY + "compositeWithTrainedAlgorithmicMedia",
}
"""by `generator.kind`: a composite of several covers, generated; media made by a trained model; existing media changed
by a trained model"""
SOURCES_TEXT = "gatefold:sources"
"""keyword of the text in a PNG that lists sources and shares as JSON"""
_FOUND = re.compile(rb"""DigitalSourceType\s*(?:=\s*["']|>|rdf:resource\s*=\s*["'])\s*([^"'<\s]{1,300})""")
_TOOL = "<xmp:CreatorTool>gatefold</xmp:CreatorTool>"
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<photoshop:Credit>{credit}</photoshop:Credit>
{tool}{title}{creator}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_TITLE = '\n<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:title>'
_CREATOR = "\n<dc:creator><rdf:Seq><rdf:li>{}</rdf:li></rdf:Seq></dc:creator>"
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True)
class SourceShare:
    """An existing cover that a new one is made from, and its share, 0 to 1."""

    song_id: str
    share: float


@dataclass(frozen=True)
class Disclosure:
    """What is said of a cover's origin.

    Args:
        source_type: URI of an IPTC digital source type; `source_type_of` gives that of a generator.
        title: of the release.
        creator: whose cover it is.
        sources: the largest share first; empty where the generator cannot say.
        seed: of the generator.
        release: version of the models.
    """

    source_type: str
    credit: str
    title: str | None = None
    creator: str | None = None
    sources: Sequence[SourceShare] = ()
    seed: int | None = None
    release: str | None = None


def generator_kind_in(xmp: str) -> str | None:
    """The kind of generator that made a cover, by the packet that gatefold wrote into it; None for any other packet.

    Args:
        xmp: as it stands in the file.
    """
    found = _FOUND.search(xmp.encode())
    if found is None or _TOOL not in xmp:
        return None
    return next((kind for kind, uri in SOURCE_TYPES.items() if uri == found[1].decode(errors="replace")), None)


def source_type_of(generator_kind: str) -> str:
    """The IPTC digital source type of what a kind of generator makes. Raises: InputError for another kind."""
    if generator_kind not in SOURCE_TYPES:
        raise InputError(f"generator = '{generator_kind[:80]}': there are {', '.join(SOURCE_TYPES)}")
    return SOURCE_TYPES[generator_kind]


def xmp_packet(disclosure: Disclosure) -> bytes:
    """UTF-8. Raises: InputError for a title, creator or credit with characters that XML cannot hold."""
    said = {"title": disclosure.title, "creator": disclosure.creator, "credit": disclosure.credit}
    for name, text in said.items():
        if text and (wrong := _NOT_IN_XML.search(text)):
            raise InputError(f"{name} holds the character U+{ord(wrong[0]):04X}, which XMP cannot hold; leave it out")
    return _PACKET.format(
        tool=_TOOL,
        source_type=escape(disclosure.source_type),
        credit=escape(disclosure.credit),
        title=_TITLE.format(escape(disclosure.title)) if disclosure.title else "",
        creator=_CREATOR.format(escape(disclosure.creator)) if disclosure.creator else "",
    ).encode()


def source_type_in(picture: Image.Image) -> str | None:
    """The digital source type that the XMP of an opened JPEG, PNG or WebP names; None where there is none."""
    for key in ("xmp", XMP_OF_PNG):
        packet = picture.info.get(key)
        found = _FOUND.search(packet.encode() if isinstance(packet, str) else packet) if packet else None
        if found is not None:
            return found[1].decode("utf-8", "replace")
    return None


def sidecar(disclosure: Disclosure, facts: dict[str, Any]) -> dict[str, Any]:
    """What a file beside the picture says, fit for JSON: the disclosure, its sources with their shares, and `facts`."""
    said = {name: value for name, value in asdict(disclosure).items() if name != "sources"}
    return {**said, "sources": shares_of(disclosure), **facts}


def shares_of(disclosure: Disclosure) -> list[dict[str, Any]]:
    """The sources with their shares, fit for JSON."""
    return [{"song_id": one.song_id, "share": round(one.share, 4)} for one in disclosure.sources]


def png_texts(disclosure: Disclosure) -> dict[str, str]:
    """Texts for a PNG: its sources with their shares."""
    return {SOURCES_TEXT: json.dumps(shares_of(disclosure))}
