"""FLAC headers: the number of samples of a file, and whether a frame of it is complete."""

from functools import lru_cache

from gatefold.ranged import RangedFile


def samples(file: RangedFile) -> int:
    """Samples that the header promises; 0 where the length was not known when it was written."""
    file.seek(0)
    head = file.read(26)
    file.check()
    file.seek(0)
    return int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF


def is_whole(frame: bytes) -> bool:
    """Whether the checksum at the end of a frame is that of its bytes."""
    table = _table()
    remainder = 0
    for byte in frame:
        remainder = (remainder << 8 & 0xFFFF) ^ table[remainder >> 8 ^ byte]
    return remainder == 0


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    """Of the checksum with the polynomial x^16 + x^15 + x^2 + 1, most significant bit first."""
    made = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = value << 1 & 0xFFFF ^ (0x8005 if value & 0x8000 else 0)
        made.append(value)
    return tuple(made)
