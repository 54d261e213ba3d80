"""Content Credentials (C2PA) of a picture file: signed with the operator's certificate, and verified.

They are written last, since any byte of the picture, its profile or its XMP that changes later breaks them. (Of the
credentials themselves, C2PA signs all but the names of the boxes and about 1,000 bytes of padding.) It needs the extra
`credentials`; keys are arguments, never looked up here but in `load_signer`, which the command line calls.

Source: C2PA technical specification 2; actions `c2pa.created` and `c2pa.edited` with the IPTC digital source type.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from gatefold.errors import Corrupt, InvalidSettings
from gatefold.export.disclosure import VOCABULARY, Disclosure, shares_of
from gatefold.export.encoding import encode
from gatefold.export.profiles import Format
from gatefold.generator_settings import ExportSettings

if TYPE_CHECKING:
    import c2pa

_FROM_ENVIRONMENT = "env:"
_ACTIONS, _SOURCES = "c2pa.actions.v2", "org.gatefold.sources"
"""labels of the assertions: what was done, and the sources with their shares"""
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_MANIFEST_BYTES = 32_000
"""that a signature takes at most, beside the certificates and the sources, of which there are at most 256"""


@dataclass(frozen=True)
class Signer:
    """What covers are signed with.

    Args:
        certificate_chain: PEM, its own certificate first.
        private_key: PEM.
        algorithm: as in `export.signing_algorithm`.
        time_stamp_url: of a time-stamping service, or None.
    """

    certificate_chain: str
    private_key: str = field(repr=False)
    algorithm: str = "es256"
    time_stamp_url: str | None = None


@dataclass(frozen=True)
class Verified:
    """What C2PA's own reader says of a file.

    Args:
        state: Trusted (the certificate leads to a trust anchor), Valid (it does not, all else holds), Invalid, or None
            where there are no credentials that can be read.
        problems: codes of what does not hold.
        manifest: the active one; empty where there is none.
    """

    state: str | None
    problems: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def holds(self) -> bool:
        """Whether the file is as it was signed."""
        return self.state in ("Valid", "Trusted")


def load_signer(settings: ExportSettings, environment: Mapping[str, str]) -> Signer | None:
    """The operator's certificate and key from where the settings say; None where they name none.

    Args:
        environment: of the process that was started by the operator, for `env:NAME`.

    Raises: InvalidSettings naming the setting, and what cannot be read.
    """
    if settings.certificate_chain is None or settings.private_key is None:
        return None
    _library()
    chain = _pem("certificate_chain", settings.certificate_chain, environment, "CERTIFICATE")
    key = _pem("private_key", settings.private_key, environment, "PRIVATE KEY")
    signer = Signer(chain, key, settings.signing_algorithm, settings.time_stamp_url)
    _try(signer)
    return signer


def reserve_bytes(signer: Signer, disclosure: Disclosure) -> int:
    """Bytes that the credentials of a file take at most."""
    return _MANIFEST_BYTES + 2 * len(signer.certificate_chain) + 200 * len(disclosure.sources)


def sign(data: bytes, format: Format, signer: Signer, disclosure: Disclosure, *, lettered: bool) -> bytes:
    """The file with credentials inside.

    Args:
        data: a PNG, JPEG or WebP, with all else that it is to hold.
        lettered: whether title and artist were set on it.

    Raises: InvalidSettings where the certificate and key do not sign; Corrupt where what was signed does not verify.
    """
    library = _library()
    building = {"thumbnail": {"enabled": False}, "created_assertion_labels": [_ACTIONS.removesuffix(".v2"), _SOURCES]}
    context = library.Context.from_dict({"verify": _OFFLINE, "builder": building})
    sink = io.BytesIO()
    with _opened(signer) as opened:
        try:
            with context, library.Builder(_manifest(disclosure, lettered), context) as builder:
                builder.sign(opened, f"image/{format}", io.BytesIO(data), sink)
        except library.C2paError as error:
            raise InvalidSettings(f"export.certificate_chain: signing failed: {error}; see export.*") from error
    signed = sink.getvalue()
    if not (verified := verify(signed, format)).holds:
        raise Corrupt(
            f"content credentials do not verify after signing: {', '.join(verified.problems) or verified.state}"
        )
    return signed


def verify(data: bytes, format: Format, trust_anchors: str | None = None) -> Verified:
    """What C2PA's own reader says of a file's credentials; it asks no other machine.

    Args:
        trust_anchors: PEM of certificates to trust beside those of the library.
    """
    library = _library()
    settings: dict[str, Any] = {"verify": _OFFLINE}
    if trust_anchors:
        settings["trust"] = {"user_anchors": trust_anchors}
    try:
        with (
            library.Context.from_dict(settings) as context,
            library.Reader(f"image/{format}", io.BytesIO(data), context=context) as reader,
        ):
            state, found = reader.get_validation_state(), json.loads(reader.json())
    except library.C2paError as error:
        return Verified(None, (str(error),), {})
    failures = (found.get("validation_results") or {}).get("activeManifest", {}).get("failure", [])
    manifest: dict[str, Any] = found.get("manifests", {}).get(found.get("active_manifest"), {})
    return Verified(state, tuple(str(failure["code"]) for failure in failures), manifest)


def _try(signer: Signer) -> None:
    """Signs a small picture. Raises: InvalidSettings for a key of another certificate or one that expired."""
    picture = encode(Image.new("RGB", (16, 16)), "png", 90)
    disclosure = Disclosure(VOCABULARY + "algorithmicMedia", "gatefold")
    try:
        sign(picture, "png", replace(signer, time_stamp_url=None), disclosure, lettered=False)
    except Corrupt as error:
        raise InvalidSettings(f"export.certificate_chain, export.private_key: {error.message}") from error


def _manifest(disclosure: Disclosure, lettered: bool) -> dict[str, Any]:
    agent = {"name": "gatefold", "version": version("gatefold")}
    created = {"action": "c2pa.created", "digitalSourceType": disclosure.source_type, "softwareAgent": agent}
    edited = {"action": "c2pa.edited", "softwareAgent": agent, "parameters": {"description": "title and artist"}}
    actions = [created, edited] if lettered else [created]
    assertions: list[dict[str, Any]] = [{"label": _ACTIONS, "data": {"actions": actions}}]
    if disclosure.sources:
        assertions.append({"label": _SOURCES, "data": {"sources": shares_of(disclosure)}})
    named = {"title": disclosure.title} if disclosure.title else {}
    return {"claim_generator_info": [agent], "assertions": assertions, **named}


def _opened(signer: Signer) -> "c2pa.Signer":
    library = _library()
    try:
        chain, key = signer.certificate_chain.encode(), signer.private_key.encode()
        info = library.C2paSignerInfo(signer.algorithm, chain, key, signer.time_stamp_url)
        return library.Signer.from_info(info)
    except (library.C2paError, ValueError) as error:
        raise InvalidSettings(f"export.certificate_chain and export.private_key cannot sign as {signer.algorithm} "
                              f"(export.signing_algorithm): {error}") from error  # fmt: skip


def _pem(name: str, place: str, environment: Mapping[str, str], kind: str) -> str:
    if place.startswith(_FROM_ENVIRONMENT):
        text = environment.get(place.removeprefix(_FROM_ENVIRONMENT), "")
    else:
        try:
            text = Path(place).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"export.{name} = '{place}' cannot be read: {error}") from error
    if f"{kind}-----" not in text:
        raise InvalidSettings(f"export.{name} = '{place}' holds no PEM with BEGIN {kind}")
    return text


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise InvalidSettings("content credentials need the extra: pip install 'gatefold[credentials]'") from error
    return c2pa
