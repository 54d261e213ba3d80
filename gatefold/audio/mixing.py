"""Frames of sound as they are decoded, joined to long blocks, and their channels mixed to one.

Shape legend: N = samples.
"""

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt

_MOST_PLANES = 7  # more, and PyAV counts them beyond the end of FFmpeg's table of them
_FULL_SCALE = {"u1": 2**7, "i2": 2**15, "i4": 2**31, "i8": 2**63}
_CANCELLED = 0.1  # share of the power of unrelated channels below which their mean is what is left of them
_COMPARED, _TURNS = 4_096, 4  # samples of every so many blocks whose power is compared
Waveform = npt.NDArray[np.float32]


class Mixer:
    """Channels to one: their mean; or the first of them, where the mean of a whole song cancels (left = -right)."""

    def __init__(self) -> None:
        self._first_alone = False
        self._of_mean = self._of_all = 0.0
        self._turn = 0

    @property
    def cancels(self) -> bool:
        """Whether the channels mixed so far extinguish each other."""
        return not self._first_alone and self._of_mean < _CANCELLED * self._of_all

    def take_first(self) -> None:
        """From now on the first channel alone is used."""
        self._first_alone = True

    def mono(self, block: Waveform, gain: float = 1.0) -> Waveform:
        """float32 [N], the channels of a block mixed to one.

        Args:
            block: float32 [N, channels].
            gain: factor of every sample.
        """
        channels = block.shape[1]
        if self._first_alone:
            return block[:, 0] * np.float32(gain)
        # a product takes 1/50 of the time of numpy's mean
        mixed: Waveform = block @ np.full(channels, gain / channels, np.float32)
        self._turn += 1
        if channels > 1 and self._turn % _TURNS == 1:
            some = block[:_COMPARED].ravel()
            self._of_all += float(some @ some) * gain * gain
            self._of_mean += float(mixed[:_COMPARED] @ mixed[:_COMPARED]) * channels * channels
        return mixed

    def mono_of(self, frame: av.AudioFrame) -> Waveform:
        """The frame's channels as one, float32 [N], full scale being 1."""
        if frame.layout.nb_channels > _MOST_PLANES:
            (frame,) = av.AudioResampler(format="flt").resample(frame)
        block = frame.to_ndarray()
        block = block.T if frame.format.is_planar else block.reshape(-1, frame.layout.nb_channels)
        scale = _FULL_SCALE.get(block.dtype.str[1:], 1)
        samples = block.astype(np.float32, copy=False)
        if block.dtype == np.uint8:  # the only ones whose silence is not zero
            samples = samples - np.float32(scale)
        return self.mono(samples, 1 / scale)


def joined(
    placed: Iterator[tuple[int, av.AudioFrame]], end: int, block: int
) -> Iterator[tuple[int, av.AudioFrame]]:
    """Frames that follow one another as one, of `block` samples or up to `end`: to Python a long one costs no more."""
    first = held = channels = 0
    together, format = av.AudioFifo(), ""
    for at, frame in placed:
        if held and (at != first + held or frame.format.name != format or frame.layout.nb_channels != channels):
            yield first, _taken(together)
            held = 0
        if not held:
            first, together = at, av.AudioFifo()
            format, channels = frame.format.name, frame.layout.nb_channels
        frame.pts = None  # else they would have to be where it counts them to be
        together.write(frame)
        held += frame.samples
        if held * channels >= block or first + held >= end:
            yield first, _taken(together)
            held = 0
    if held:
        yield first, _taken(together)


def _taken(together: av.AudioFifo) -> av.AudioFrame:
    frame = together.read()
    assert frame is not None  # none is asked for that holds nothing
    return frame
