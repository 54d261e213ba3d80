"""What a changed file needs to become the original again, byte for byte, without the whole of it being kept.

A picture in the tags moves the sound and leaves it alone. So the two files are laid over each other, from their
beginnings or from their ends, whichever differs less, and only the bytes that differ are kept.
"""

import hashlib
import io
import zlib

import numpy as np

from gatefold.errors import Corrupt

_MAGIC = b"gfpatch1"
_GAP = 16
"""equal bytes between two differences that are kept with them, since another run costs as much"""
_WHOLE, _BEGIN, _END = 0, 1, 2


def make_patch(original: bytes, changed: bytes) -> bytes:
    """What `apply_patch` needs beside `changed`; never much more than the original itself."""
    digest = hashlib.sha256(original).digest() + hashlib.sha256(changed).digest()
    made = [_encoded(original, changed, align) for align in (_BEGIN, _END)]
    body = min([*made, bytes([_WHOLE]) + zlib.compress(original, 1)], key=len)
    return _MAGIC + digest + body


def apply_patch(patch: bytes, changed: bytes) -> bytes:
    """The original. Raises: Corrupt when the patch is damaged, or is one of another file."""
    head = len(_MAGIC)
    was, now, body = patch[head : head + 32], patch[head + 32 : head + 64], patch[head + 64 :]
    if not patch.startswith(_MAGIC) or not body:
        raise Corrupt(f"a patch of {len(patch):,} bytes is damaged")
    if hashlib.sha256(changed).digest() != now:
        raise Corrupt("the patch is one of another file, or the file was changed since")
    original = _decoded(body, changed)
    if hashlib.sha256(original).digest() != was:
        raise Corrupt("the patch is damaged: what it makes is not the original")
    return original


def _encoded(original: bytes, changed: bytes, align: int) -> bytes:
    """The original's length, then each run that differs: where, how long; and the bytes of all runs."""
    shift = _shift(len(original), len(changed), align)
    common = range(max(0, -shift), min(len(original), len(changed) - shift))
    runs = [(0, common.start)] if common.start else []
    old = np.frombuffer(original, np.uint8)[common.start : common.stop]
    new = np.frombuffer(changed, np.uint8)[common.start + shift : common.stop + shift]
    at = np.flatnonzero(old != new) + common.start
    if len(at):
        cuts = np.flatnonzero(np.diff(at) > _GAP)
        starts, ends = at[np.concatenate([[0], cuts + 1])], at[np.concatenate([cuts, [len(at) - 1]])] + 1
        runs += list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))
    if common.stop < len(original):
        runs.append((max(common.stop, 0), len(original) - max(common.stop, 0)))
    table = np.array([(len(original), len(runs)), *runs], "<u8").tobytes()
    literal = b"".join(original[start : start + length] for start, length in runs)
    return bytes([align]) + zlib.compress(table + literal, 1)


def _decoded(body: bytes, changed: bytes) -> bytes:
    try:
        content = zlib.decompress(body[1:])
    except zlib.error as error:
        raise Corrupt(f"the patch is damaged: {error}") from error
    if body[0] == _WHOLE:
        return content
    if body[0] not in (_BEGIN, _END) or len(content) < 16:
        raise Corrupt(f"the patch is damaged: alignment {body[0]}, {len(content)} bytes")
    size, count = np.frombuffer(content[:16], "<u8").tolist()
    runs = np.frombuffer(content[16 : 16 + 16 * count], "<u8").reshape(-1, 2).tolist()
    shift = _shift(size, len(changed), body[0])
    start = max(0, -shift)
    original = io.BytesIO(bytes(start) + changed[start + shift : max(0, size + shift)])
    at = 16 + 16 * count
    for offset, length in runs:
        original.seek(offset)
        original.write(content[at : at + length])
        at += length
    return original.getvalue()[:size]


def _shift(original_bytes: int, changed_bytes: int, align: int) -> int:
    """Where byte 0 of the original lies in the changed file."""
    return 0 if align == _BEGIN else changed_bytes - original_bytes
