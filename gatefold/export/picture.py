"""Any picture file as an upright square in sRGB, whatever colour profile it has."""

import io

import numpy as np
from PIL import Image

from gatefold.config import CoverSettings
from gatefold.errors import UndecodableCover
from gatefold.export.colour import to_srgb
from gatefold.export.encoding import XMP_OF_PNG
from gatefold.images.pixels import decode_at


def read_picture(data: bytes, cover: CoverSettings) -> tuple[Image.Image, dict[str, str]]:
    """The square in the middle at the file's own size, and the texts of a PNG, and the XMP of any.

    Args:
        cover: the limits that the file is held to.

    Raises: as `decode_at`.
    """
    pixels, side = decode_at(data, cover, 16)  # whatever is wrong with it, this says
    pixels, _ = decode_at(data, cover, side)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            icc = opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA") else None
            texts = {name: str(text) for name, text in getattr(opened, "text", {}).items()}
            if isinstance(packet := opened.info.get("xmp"), bytes):  # of a JPEG or a WebP
                texts.setdefault(XMP_OF_PNG, packet.decode(errors="replace"))
    except (OSError, SyntaxError, ValueError) as error:  # its texts or profile, which decode_at leaves out
        raise UndecodableCover(f"cover: its texts or colour profile are damaged ({error}); save it anew") from error
    return to_srgb(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), icc), texts
