"""Set-up of a child process that decodes songs: one thread, a limit of memory, and an error for the song that needs
more.

Used by the child of a batch worker and by that of the endpoint (gatefold.isolation). Knows nothing of where the bytes
come from.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gatefold.errors import GatefoldError
from gatefold.isolation import limit_memory, memory_left

MEMORY_BYTES = 1 << 30
"""that the songs in a child's hands may take; a header of a few bytes can make FFmpeg ask for gigabytes"""


def prepare(memory_bytes: int) -> None:
    """To be called once in the child, before its first song.

    Args:
        memory_bytes: that it may allocate beyond what it has by now.
    """
    import torch

    import gatefold.audio.spectrograms  # noqa: F401  what it loads is not counted as the songs'

    torch.set_num_threads(1)  # one decoder a core; threads within would only fight
    limit_memory(memory_bytes)


@contextmanager
def bounded(memory_bytes: int) -> Iterator[None]:
    """For decoding inside: a lack of memory in any of the decoders becomes a MemoryError.

    A song that asked for too much at once, while most of the memory is left, keeps its own error.

    Args:
        memory_bytes: as for `prepare`.
    """
    try:
        yield
    except GatefoldError as error:
        if isinstance(error.__cause__, MemoryError) and memory_left() < memory_bytes / 2:
            raise MemoryError from error  # others have it; what is left when this song has given back its own says so
        raise
    except RuntimeError as error:
        if "allocate memory" in str(error):  # what torch makes of it
            raise MemoryError from error
        raise
