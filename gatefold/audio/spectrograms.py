"""Log-mel windows of a song. Batch and serving both use `extract_log_mel`, so they agree bit for bit.

Knows nothing of file formats, of where the bytes come from, of models, or of Ray.

Shape legend: W = windows, N = samples, M = mel bands, F = frames.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import melscale_fbanks

from gatefold.audio.decoding import Waveform, decode_windows
from gatefold.config import AudioSettings
from gatefold.errors import AudioTooShort, SilentAudio, UndecodableAudio
from gatefold.ranged import Source
from gatefold.records import LogMelWindows

_LOG_FLOOR = 1e-6  # mel power below this is inaudible; it also keeps the logarithm finite
SILENT = math.log(_LOG_FLOOR)
"""what a log-mel holds where there is no sound"""
_SILENCE = float(np.exp(np.float32(np.float16(np.log(_LOG_FLOOR)))))  # what the floor is when 16 bits have held it
_LOUDEST = 1e10  # of full scale: floats scaled like 32-bit integers pass, what would overflow in a spectrogram does not
_ZEROS, _ROLLOFF = 6, 0.99  # zero crossings on each side of a resampling kernel; its cutoff as a share of Nyquist
_OUTPUTS = 64  # of a row of samples, at least
_SLICE = 16  # kernels, or mel bands, that are multiplied at once; they are zero but for a few neighbours
_FRAMES = 250  # of a spectrogram, worked on at once
_FINEST_RATIO = 1_000  # terms of the resampling ratio; its kernel takes memory by their product


def extract_log_mel(source: Source | bytes, audio: AudioSettings, *, name: str = "song") -> LogMelWindows:
    """The log-mel windows of an encoded song; the same bytes give the same bits on every machine of one kind.

    Only what the windows need is read of the source and decoded, where the format allows.

    Args:
        source: the file, in one of `decoding.FORMATS`.
        audio: of the spectrogram, and limits of the song.
        name: what error messages call the song.

    Raises: EmptyFile, TooLarge, UndecodableAudio, TruncatedAudio, AudioTooShort, AudioTooLong, SilentAudio; and what
        the source raises.
    """
    decoded = decode_windows(source, audio, name=name)
    if decoded.duration_s < audio.min_duration_s:
        raise AudioTooShort(f"{name}: {decoded.duration_s:.2f} s of audio, {audio.min_duration_s:g} s are the least")
    ranges = [_range(window) for window in decoded.waveform]
    for least, most in ranges:
        if not (least >= -_LOUDEST and most <= _LOUDEST):  # nor may it be NaN
            peak = f"{max(most, -least):g} times full scale"
            raise UndecodableAudio(f"{name}: holds samples of {peak}, no sound; encode it again")
    samples = decoded.waveform[:, : round(decoded.duration_s * decoded.rate)]  # without what was padded
    if samples.shape != decoded.waveform.shape:
        ranges = [_range(window) for window in samples]
    quietest = 10 ** (audio.silence_dbfs / 20)
    widest = max(most - least for least, most in ranges)
    if widest < 2 * quietest and (loudest := _loudest(samples)) < quietest:  # no mean is farther than half from both
        raise SilentAudio(
            f"{name}: the loudest sample of its {len(samples)} windows is {_dbfs(loudest)}, it must exceed "
            f"{audio.silence_dbfs:g} dBFS"
        )
    return LogMelWindows(decoded.duration_s, decoded.starts_s, log_mel(decoded.waveform, decoded.rate, audio))


def log_mel(windows: Waveform, rate: int, audio: AudioSettings) -> npt.NDArray[np.float16]:
    """float16 [W, M, F], natural logarithm of mel power; SILENT where there is none.

    The power of a Hann-windowed, centred short-time Fourier transform in mel bands of Slaney's scale and norm.

    Args:
        windows: float32 [W, N], full scale being 1.
        rate: of the windows, in hertz; they are resampled to `audio.sample_rate`.
        audio: settings of the spectrogram.
    """
    hann, slices = _window_and_bands(audio)
    with torch.inference_mode():
        mel = torch.empty(len(windows), audio.frames, audio.n_mels)
        for window, samples in zip(mel, torch.from_numpy(windows), strict=True):  # a window, since the cache holds one
            waveform = _resampled(samples[None], rate, audio.sample_rate)
            centred = _centred(waveform, audio.window_length, audio.n_fft // 2)
            frames = centred[0].unfold(-1, audio.n_fft, audio.hop_length)[: audio.frames]  # [F, n_fft], a view
            for first in range(0, audio.frames, _FRAMES):
                squares = torch.view_as_real(torch.fft.rfft(frames[first : first + _FRAMES] * hann)).square_()
                power = squares[..., 0] + squares[..., 1]
                here = window[first : first + _FRAMES]
                for band, low, triangles in slices:
                    columns = here[:, band : band + triangles.shape[1]]
                    torch.mm(power[:, low : low + len(triangles)], triangles, out=columns)
        log_power = mel.add_(_LOG_FLOOR).log_().to(torch.float16)
        result: npt.NDArray[np.float16] = log_power.transpose(1, 2).contiguous().numpy()
    return result


def mel_power(log_mel: torch.Tensor) -> torch.Tensor:
    """The mel power behind a log-mel, float [..., M, F]; 0 at its floor.

    Args:
        log_mel: float [..., M, F], natural logarithm of mel power.
    """
    return (log_mel.exp() - _SILENCE).clamp(min=0)


def apply_gain(log_mel: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The log-mel [..., M, F] of the same windows, louder or softer.

    Args:
        log_mel: float [..., M, F], natural logarithm of mel power.
        gain: factor of the power, above 0, of a shape that broadcasts to [..., M, F].
    """
    return (mel_power(log_mel) * gain + _LOG_FLOOR).log()


def mel_bands(audio: AudioSettings) -> torch.Tensor:
    """float32 [n_fft / 2 + 1, M], what each frequency adds to each band: triangles of Slaney's scale and norm."""
    bands: torch.Tensor = melscale_fbanks(
        n_freqs=audio.n_fft // 2 + 1,
        f_min=audio.f_min,
        f_max=audio.f_max,
        n_mels=audio.n_mels,
        sample_rate=audio.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return bands


def spectrogram_picture(song: LogMelWindows) -> npt.NDArray[np.uint8]:
    """The log-mel windows as a picture uint8 [M, W * F, 3]: windows side by side, low frequencies below, from black
    over red to white."""
    level = np.concatenate(list(song.log_mel.astype(np.float32)), axis=1)[::-1]
    low, high = np.quantile(level, [0.05, 0.999])
    level = np.clip((level - low) / max(high - low, 1e-6), 0, 1)
    stops = np.array([0.0, 0.3, 0.55, 0.8, 1.0])
    colours = np.array([[12, 10, 20], [74, 26, 84], [190, 54, 70], [245, 150, 66], [255, 244, 214]])
    channels = [np.interp(level, stops, colours[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


@lru_cache(maxsize=8)
def _window_and_bands(audio: AudioSettings) -> tuple[torch.Tensor, list[tuple[int, int, torch.Tensor]]]:
    """The window of a frame [n_fft]; and the mel bands in slices of neighbours, which reach over few frequencies: first
    band, first frequency, triangles [frequencies, bands].
    """
    around = audio.n_fft - audio.win_length
    hann = torch.nn.functional.pad(torch.hann_window(audio.win_length), (around // 2, around - around // 2))
    bands = mel_bands(audio)
    return hann, [(band, *_without_zeros(bands[:, band : band + _SLICE])) for band in range(0, audio.n_mels, _SLICE)]


def _without_zeros(columns: torch.Tensor) -> tuple[int, torch.Tensor]:
    """The first row that is not all zeros, and from it on the rows to the last such."""
    used = (columns != 0).any(1).nonzero().flatten()
    first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    return first, columns[first:end].contiguous()


def _centred(waveform: torch.Tensor, length: int, around: int) -> torch.Tensor:
    """The first `length` samples of each row, or all and silence, with `around` samples mirrored at each end."""
    here = min(length, waveform.shape[-1])
    centred = torch.zeros(len(waveform), around + length + around)
    whole = centred[:, around : around + length]
    whole[:, :here] = waveform[:, :here]
    centred[:, :around] = whole[:, 1 : around + 1].flip(1)
    centred[:, around + length :] = whole[:, -around - 1 : -1].flip(1)
    return centred


def _resampled(waveform: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """Mono [W, N] at another rate, by a Hann-windowed sinc; what `torchaudio.functional.resample` gives, in a fifth of
    its time.

    Output sample j of each group of `up` is one product of a row of `down` input samples with a kernel. The kernels are
    a band in a matrix, zero elsewhere; cut into slices of neighbours, hardly a zero is left to multiply by.
    """
    # exact for the rates of the world (160/441 for 44.1 to 16 kHz), within a thousandth for any other
    ratio = Fraction(wanted, rate).limit_denominator(_FINEST_RATIO)
    if ratio == 1:
        return waveform
    several = math.ceil(_OUTPUTS / ratio.numerator)  # a matrix with a single column is no product worth the name
    up, down = ratio.numerator * several, ratio.denominator * several
    width, slices = _resampling_kernels(up, down)
    windows, samples = waveform.shape
    rows = -(-(samples + 2 * width) // down) + 1  # of each window; the last holds nothing but the kernels' overhang
    padded = torch.empty(windows, rows * down)
    padded[:, :width] = padded[:, width + samples :] = 0
    padded[:, width : width + samples] = waveform
    whole = windows * rows - (2 * width) // down - 1  # behind them lie no samples, and no output that is asked for
    made = torch.empty(windows * rows, up)
    for first, offset, kernels in slices:
        taps, count = kernels.shape
        view = padded.view(-1).as_strided((whole, taps), (down, 1), offset)
        torch.mm(view, kernels, out=made[:whole, first : first + count])
    return made.view(windows, rows * up)[:, : -(-samples * up // down)]


@lru_cache(maxsize=16)
def _resampling_kernels(up: int, down: int) -> tuple[int, list[tuple[int, int, torch.Tensor]]]:
    """The kernels' half width in input samples, and slices: first output, first input, kernels [taps, outputs]."""
    cutoff = min(up, down) * _ROLLOFF
    width = math.ceil(_ZEROS * down / cutoff)
    taps = torch.arange(-width, width + down, dtype=torch.float64) / down
    outputs = torch.arange(up, dtype=torch.float64) / up
    time = ((taps[:, None] - outputs) * cutoff).clamp(-_ZEROS, _ZEROS)
    kernels = torch.sinc(time) * torch.cos(time * (math.pi / _ZEROS / 2)).square() * (cutoff / down)
    kernels = torch.where(time.abs() < _ZEROS, kernels, 0.0).to(torch.float32)
    return width, [(first, *_without_zeros(kernels[:, first : first + _SLICE])) for first in range(0, up, _SLICE)]


def _range(window: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The least and the largest of samples [N]; NaN where one is. Of all windows at once it takes twice as long."""
    least, most = torch.aminmax(torch.from_numpy(window))
    return float(least), float(most)


def _loudest(windows: Waveform) -> float:
    """The largest distance of a sample of [W, N] from the mean of its window: a constant is no sound."""
    means = windows.mean(axis=1, dtype=np.float64)
    return float(max((windows.max(axis=1) - means).max(), (means - windows.min(axis=1)).max()))


def _dbfs(peak: float) -> str:
    return f"{20 * np.log10(peak):.0f} dBFS" if peak > 0 else "digital silence"
