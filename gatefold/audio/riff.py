"""Chunks of wav and aiff files: where the samples lie, and the plain file that a decoder is given instead.

The plain file is a header with true sizes and then the samples, nothing behind them. So a decoder never meets a size
that a pipe left behind (sox, arecord), and opening reads nothing but the header and the first block. Knows no decoder.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gatefold.ranged import PrefixedRange, RangedFile, Source

PCM_TAGS = frozenset({1, 2, 3, 6, 7, 0x11})
"""Format tags of a wav that libsndfile reads and seeks exactly: PCM, float, A-law, u-law and two kinds of ADPCM."""
_EXTENSIBLE = 0xFFFE
_LEAST_PLACEHOLDER = 0x7F00_0000  # bytes; 32-bit sizes from here on are what programs write that do not know the size
_UNKNOWN_64 = 1 << 62
_MOST_CHUNKS = 4_096
_MOST_FORMAT_BYTES = 1 << 16


@dataclass(frozen=True)
class Samples:
    """The samples of a wav or aiff: `size` bytes from `start` on."""

    header: bytes
    """of a plain file with these samples"""
    start: int
    size: int
    tag: int
    """format tag of a wav; 0 for an aiff"""
    block: int
    """bytes of all channels' samples that belong together; 1 where it is not known"""
    promised: int
    """bytes that the file had before it was cut short, by both sizes in it; `size` where it is whole"""

    def plain(self, source: Source) -> Source:
        """The plain file."""
        return PrefixedRange(self.header, source, self.start, self.size)


def find_samples(file: RangedFile) -> Samples:
    """Where the samples of a wav (RIFF, RIFX, RF64, BW64) or aiff (AIFF, AIFC) lie.

    Raises: ValueError where there is no description of the samples, or there are none.
    """
    file.seek(0)
    magic, _, form = (head := file.read(12).ljust(12, b"\0"))[:4], head[4:8], head[8:12]
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _aiff(file, head)
    if form == b"WAVE":
        return _wav(file, head)
    raise ValueError(f"{magic.decode('latin-1')} that holds {form.decode('latin-1')!r}, no sound")


def chunks(file: RangedFile, order: str, start: int = 12) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, size) of the chunks from `start` on, up to the end of the file.

    Args: order: '<' or '>', as `struct` has it.
    """
    at = start
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        header = file.read(8)
        file.check()
        if len(header) < 8:
            return
        name, size = header[:4], struct.unpack(f"{order}I", header[4:])[0]
        yield name, at + 8, size
        at += 8 + size
        if size % 2 and not _is_name(file, at):  # a byte of padding, which some writers leave out
            at += 1


def tag_chunks(file: RangedFile) -> Iterator[tuple[bytes, int, int]]:
    """`chunks` without the samples, behind which it goes on wherever they really end."""
    file.seek(0)
    order = ">" if file.read(4) in (b"FORM", b"RIFX") else "<"
    for name, start, size in chunks(file, order):
        if name not in (b"data", b"SSND"):
            yield name, start, size
            continue
        samples = find_samples(file)
        end = samples.start + samples.size
        yield from ((name, at, length) for name, at, length in chunks(file, order, end + end % 2) if name.strip(b"\0"))
        return


def _is_name(file: RangedFile, at: int) -> bool:
    file.seek(at)
    name = file.read(4)
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _wav(file: RangedFile, head: bytes) -> Samples:
    order = ">" if head[:4] == b"RIFX" else "<"
    whole, length, form = struct.unpack(f"{order}I", head[4:8])[0], None, b""
    large = head[:4] in (b"RF64", b"BW64")
    for name, start, size in chunks(file, order):
        if name == b"ds64" and large:
            file.seek(start)
            whole, length = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif name == b"fmt ":
            file.seek(start)
            form = file.read(min(size, _MOST_FORMAT_BYTES))
        elif name == b"data" and len(form) >= 16:
            known = length if large and length is not None else size
            there, promised = _true_size(file, order, start, known, 8 + whole, large)
            tag, block = struct.unpack(f"{order}H10xH", form[:14])
            if tag == _EXTENSIBLE and len(form) >= 26:
                tag = struct.unpack(f"{order}H", form[24:26])[0]
            return Samples(_wav_header(head[:4], form, there), start, there, tag, max(block, 1), promised)
    raise ValueError("no samples in it" if form else "no description of its samples")


def _wav_header(magic: bytes, form: bytes, size: int) -> bytes:
    order = ">" if magic == b"RIFX" else "<"
    described = b"fmt " + struct.pack(f"{order}I", len(form)) + form + b"\0" * (len(form) % 2)
    whole = 4 + len(described) + 8 + size + size % 2
    if whole < 0xFFFF_FFFF:
        known = b"RIFX" if magic == b"RIFX" else b"RIFF"
        data = b"data" + struct.pack(f"{order}I", size)
        return known + struct.pack(f"{order}I", whole) + b"WAVE" + described + data
    block = max(1, struct.unpack("<H", form[12:14])[0])
    sizes = b"ds64" + struct.pack("<IQQQI", 28, whole + 36, size, size // block, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + described + b"data\xff\xff\xff\xff"


def _aiff(file: RangedFile, head: bytes) -> Samples:
    whole, form, place = int.from_bytes(head[4:8], "big"), b"", None
    for name, start, size in chunks(file, ">"):
        if name == b"COMM":
            file.seek(start)
            form = file.read(min(size, _MOST_FORMAT_BYTES))
        elif name == b"SSND" and place is None:
            file.seek(start)
            offset = int.from_bytes(file.read(4), "big")
            first = start + 8 + offset
            place = (first, *_true_size(file, ">", first, max(0, size - 8 - offset), 8 + whole, False))
        if place and len(form) >= 18:
            first, there, promised = place
            return Samples(_aiff_header(head[8:12], form, there), first, there, 0, 1, promised)
    raise ValueError("no samples in it" if form else "no description of its samples")


def _aiff_header(kind: bytes, form: bytes, size: int) -> bytes:
    described = b"COMM" + struct.pack(">I", len(form)) + form + b"\0" * (len(form) % 2)
    version = b"FVER" + struct.pack(">II", 4, 0xA280_5140) if kind == b"AIFC" else b""
    sound = b"SSND" + struct.pack(">III", min(8 + size, 0xFFFF_FFFF), 0, 0)
    body = kind + version + described + sound
    return b"FORM" + struct.pack(">I", min(len(body) + size + size % 2, 0xFFFF_FFFF)) + body


def _true_size(
    file: RangedFile, order: str, start: int, size: int, whole: int, large: bool
) -> tuple[int, int]:
    """Bytes of samples that are there, and that were before the file was cut short."""
    there = max(0, file.size - start)
    if size == 0:
        return (0 if _is_empty(file, order, start) else there,) * 2
    if size <= there:
        return size, size
    placeholder = size >= (_UNKNOWN_64 if large else _LEAST_PLACEHOLDER)
    agree = start + size <= whole + 1  # one size alone that reaches too far is a mistake
    return there, size if agree and not placeholder else there


def _is_empty(file: RangedFile, order: str, start: int) -> bool:
    """Whether what follows a size of 0 are chunks, or nothing: then there really are no samples."""
    end = start
    for name, at, size in chunks(file, order, start):
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        end = at + size
    return file.size - 1 <= end + (end % 2) <= file.size + 1
