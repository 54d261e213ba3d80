"""Instruments of the synthetic songs: tuned voices from tables of overtones, and drums from falling tones and noise.

Every sound is made here once and used many times. It knows nothing of songs.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22_050

Wave = NDArray[np.float32]

_TABLE = 4096  # samples in a single cycle


@dataclass(frozen=True)
class Voice:
    """An instrument: a recipe of overtones, how long it takes to die away in beats, and its level."""

    wave: str
    decay_beats: float
    level: float


def _overtones(wave: str, harmonic: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude of each harmonic number, of a named instrument."""
    odd = (harmonic % 2).astype(np.float64)
    drawbars = {1.0: 1.0, 2.0: 0.8, 3.0: 0.6, 4.0: 0.5, 6.0: 0.3, 8.0: 0.35}
    peaks = {"brass": 4.0, "reed": 5.0, "choir": 3.0, "acid": 7.0, "steel": 6.0}
    peak = peaks.get(wave, 0.0)
    recipes = {
        "sine": np.exp(-1.6 * (harmonic - 1)),
        "flute": np.exp(-1.0 * (harmonic - 1)),
        "rhodes": np.exp(-0.7 * (harmonic - 1)) + 0.25 * (harmonic == 5),
        "bell": np.isin(harmonic, (1, 3, 7, 11)) / harmonic**0.6,
        "organ": np.array([drawbars.get(float(h), 0.0) for h in harmonic]),
        "wood": harmonic**-2.0,
        "pluck": harmonic**-1.3 * np.abs(np.sin(harmonic * math.pi / 5)) * 1.6,
        "piano": harmonic**-1.2 * np.exp(-harmonic / 9),
        "strings": 1 / harmonic * np.exp(-harmonic / 14),
        "square": odd / harmonic,
        "fuzz": harmonic**-0.55 * np.exp(-harmonic / 22),
    }
    plain = np.asarray(recipes.get(wave, 1 / harmonic), dtype=np.float64)
    return plain * (0.35 + 2.0 * np.exp(-(((harmonic - peak) / 1.8) ** 2))) if peak else plain


@lru_cache(maxsize=1024)
def _cycle(wave: str, formant: int, harmonics: int) -> Wave:
    """A single cycle [_TABLE] of unit energy that holds no harmonic above `harmonics`, so that nothing folds back."""
    harmonic = np.arange(1, harmonics + 1, dtype=np.float64)
    amplitude = _overtones(wave, harmonic) * (1 + 1.2 * np.exp(-(((harmonic - 2 - formant) / 1.5) ** 2)))
    phase = np.random.default_rng(harmonics).uniform(0, 2 * math.pi, harmonics) if wave in ("choir", "strings") else 0.0
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    spectrum[1 : harmonics + 1] = amplitude * np.exp(1j * (phase - math.pi / 2))
    cycle = np.fft.irfft(spectrum)
    return np.asarray(cycle / np.sqrt(np.mean(cycle**2)), dtype=np.float32)


def tone(voice: Voice, formant: int, pitch: float, beat_s: float, attack_s: float) -> Wave:
    """One note of unit level with its envelope, float32 [n] at `SAMPLE_RATE`.

    Args:
        formant: which overtones are raised: those about number 2 + formant.
        pitch: MIDI number, 69 is 440 Hz.
        beat_s: seconds of a beat; the note decays over `voice.decay_beats` of them.
        attack_s: seconds that it takes to rise.
    """
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    harmonics = max(1, min(64, int(9_500 / frequency)))
    decay_s = voice.decay_beats * beat_s
    length = int(SAMPLE_RATE * min(attack_s + 2.2 * decay_s, 4.0))
    time = np.arange(length, dtype=np.float32) / np.float32(SAMPLE_RATE)
    table = _cycle(voice.wave, formant, harmonics)
    detunes = (0.994, 1.0, 1.007) if voice.wave in ("supersaw", "strings", "choir") else (1.0,)
    note = np.zeros(length, dtype=np.float32)
    for detune in detunes:
        note += table[(time * np.float32(frequency * detune * _TABLE)).astype(np.int32) % _TABLE]
    envelope = np.exp(time * np.float32(-1.0 / decay_s))
    rise, fall = max(16, int(attack_s * SAMPLE_RATE)), min(length // 3, 600)
    envelope[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)[:length]
    envelope[-fall:] *= np.linspace(1, 0, fall, dtype=np.float32)
    note *= envelope / np.float32(math.sqrt(len(detunes)))
    return note


@dataclass(frozen=True)
class _Hit:
    """A drum: a falling tone and a burst of filtered noise."""

    from_hz: float
    to_hz: float
    tone: float
    tone_decay_s: float
    noise: float
    noise_decay_s: float
    noise_low_hz: float
    noise_high_hz: float


_HITS: dict[str, _Hit] = {
    "kick": _Hit(160, 52, 1.0, 0.11, 0.25, 0.010, 800, 5_000),
    "boom": _Hit(120, 45, 1.1, 0.20, 0.10, 0.008, 500, 3_000),
    "thump": _Hit(95, 60, 0.9, 0.09, 0.05, 0.010, 200, 900),
    "timpani": _Hit(98, 92, 0.9, 0.35, 0.15, 0.020, 100, 700),
    "snare": _Hit(220, 170, 0.5, 0.07, 0.8, 0.09, 900, 9_000),
    "gated": _Hit(200, 150, 0.6, 0.12, 0.9, 0.18, 500, 7_000),
    "clap": _Hit(900, 900, 0.0, 0.01, 0.9, 0.08, 900, 4_500),
    "brush": _Hit(240, 200, 0.1, 0.04, 0.5, 0.07, 1_500, 7_000),
    "rim": _Hit(820, 780, 0.6, 0.025, 0.2, 0.010, 1_500, 6_000),
    "hat": _Hit(900, 900, 0.0, 0.01, 0.45, 0.028, 6_000, 11_000),
    "openhat": _Hit(900, 900, 0.0, 0.01, 0.42, 0.11, 5_500, 11_000),
    "shaker": _Hit(900, 900, 0.0, 0.01, 0.30, 0.05, 4_000, 9_000),
    "ride": _Hit(3_100, 3_090, 0.05, 0.20, 0.30, 0.16, 4_500, 11_000),
    "crash": _Hit(2_300, 2_290, 0.04, 0.20, 0.40, 0.20, 3_500, 11_000),
}


@lru_cache(maxsize=32)
def drum_hit(name: str) -> Wave:
    """One stroke of a drum, float32 [n] at `SAMPLE_RATE`.

    Args:
        name: of the drum, as "kick".
    """
    hit = _HITS[name]
    length = int(SAMPLE_RATE * max(hit.tone_decay_s, hit.noise_decay_s) * 5)
    time = np.arange(length) / SAMPLE_RATE
    sweep = hit.to_hz + (hit.from_hz - hit.to_hz) * np.exp(-time / 0.03)
    tone = np.sin(2 * math.pi * np.cumsum(sweep) / SAMPLE_RATE) * np.exp(-time / hit.tone_decay_s)
    spectrum = np.fft.rfft(np.random.default_rng(sorted(_HITS).index(name)).standard_normal(length))
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    spectrum *= (
        1 / (1 + (hit.noise_low_hz / np.maximum(frequency, 1.0)) ** 4) / (1 + (frequency / hit.noise_high_hz) ** 4)
    )
    noise = np.fft.irfft(spectrum, length)
    noise *= np.exp(-time / hit.noise_decay_s) / np.sqrt(np.mean(noise**2))
    stroke = hit.tone * tone + 0.35 * hit.noise * noise
    stroke[:12] *= np.linspace(0, 1, 12)
    stroke[-64:] *= np.linspace(1, 0, 64)
    return np.asarray(stroke, dtype=np.float32)
