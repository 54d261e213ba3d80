"""Synthesis of a track's audio: chords, bass, a melody with phrases, drums, a little room.

Each trait has its place in the music. Tempo is the beat, and everything that lasts, lasts a share of it. Energy is
drive, attack, and how loud the drums are beside the rest; never plain loudness, for songs are levelled. Brightness
is the filter and the register of the melody. Mode is the scale. Density is notes a bar and voices a chord. The
genre is the instruments, the rhythm and the room. It knows nothing of covers and of files.

Shape legend: N = samples.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gatefold.synthetic.catalogue import SyntheticTrack, beats_per_minute
from gatefold.synthetic.instruments import SAMPLE_RATE, Voice, Wave, drum_hit, tone

_STEPS = 16  # sixteenths in a bar
_LEVEL = 0.14  # root mean square of a levelled song, before the peak limit
_PEAK = 0.89

_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 3), (0, 5, 3, 4), (0, 3, 0, 4)),
    "minor": ((0, 5, 3, 0), (0, 3, 5, 0), (0, 5, 0, 3), (0, 3, 0, 6)),
}


@dataclass(frozen=True)
class Style:
    """How a genre plays. Rhythms are bars of sixteen steps: `x` struck, `o` struck softly, anything else silent."""

    key: int
    """semitones above C of the tonic"""
    pad: Voice
    pad_rhythm: str
    bass: Voice
    bass_rhythm: str
    lead: Voice
    kick: str
    snare: str
    hat: str
    kit: tuple[str, str, str]
    """what plays the three drum rhythms"""
    drums: float
    """level of the drums at middle energy"""
    swing: float
    """share of an eighth by which the off-beats come late"""
    room: float
    """share of reverberation"""


STYLES: dict[str, Style] = {
    "ambient": Style(
        0, Voice("choir", 6.0, 0.9), "x...............", Voice("sine", 4.0, 0.5), "x.......o.......",
        Voice("bell", 2.5, 0.9), "x.......x.......", "................", "....o.......o...",
        ("thump", "rim", "shaker"), 0.60, 0.0, 0.75,
    ),
    "folk": Style(
        7, Voice("pluck", 0.9, 0.7), "x.o.x.o.x.oox.o.", Voice("wood", 0.8, 0.5), "x.......x.......",
        Voice("reed", 0.8, 0.8), "x.......x.......", "....o.......o...", "..o...o...o...o.",
        ("thump", "brush", "shaker"), 0.40, 0.1, 0.30,
    ),
    "jazz": Style(
        0, Voice("rhodes", 1.4, 0.6), "...x......x.....", Voice("wood", 0.9, 0.8), "x...x...x...x...",
        Voice("brass", 0.7, 0.75), "x.......o.......", "......o.......o.", "x...x.o.x...x.o.",
        ("thump", "brush", "ride"), 0.45, 0.55, 0.30,
    ),
    "metal": Style(
        0, Voice("fuzz", 0.7, 0.9), "x.xxx.xxx.xxx.xx", Voice("saw", 0.5, 0.7), "x.xxx.xxx.xxx.xx",
        Voice("fuzz", 0.8, 0.65), "x.xxx.xxx.xxx.xx", "....x.......x...", "x...x...x...x...",
        ("kick", "snare", "crash"), 0.80, 0.0, 0.12,
    ),
    "techno": Style(
        0, Voice("square", 0.25, 0.45), "..x..x....x..x..", Voice("saw", 0.3, 0.7), "..x...x...x...x.",
        Voice("acid", 0.3, 0.6), "x...x...x...x...", "....o.......o...", "..x...x...x...x.",
        ("boom", "clap", "hat"), 0.85, 0.0, 0.25,
    ),
    "house": Style(
        7, Voice("organ", 0.4, 0.8), "x..x..x...x..x..", Voice("square", 0.4, 0.7), "x..x..x.x..x..x.",
        Voice("bell", 0.5, 0.8), "x...x...x...x...", "....x.......x...", "..x...x...x...x.",
        ("boom", "clap", "openhat"), 0.75, 0.0, 0.25,
    ),
    "hip-hop": Style(
        0, Voice("rhodes", 2.0, 0.6), "x.......x.......", Voice("sine", 1.4, 1.0), "x......x..x.....",
        Voice("flute", 0.7, 0.65), "x......x..x.....", "....x.......x...", "x.x.x.x.x.xxx.x.",
        ("boom", "snare", "hat"), 0.80, 0.25, 0.15,
    ),
    "classical": Style(
        7, Voice("strings", 3.0, 0.8), "x.......x.......", Voice("strings", 1.5, 0.5), "x...x...x...x...",
        Voice("piano", 1.2, 1.3), "x.......o.......", "................", "................",
        ("timpani", "rim", "shaker"), 0.60, 0.0, 0.50,
    ),
    "reggae": Style(
        7, Voice("organ", 0.22, 0.9), "....x.......x...", Voice("sine", 0.9, 1.1), "x..x..o.x.....x.",
        Voice("brass", 0.5, 0.5), "........x.......", "........x.......", "x.o.x.o.x.o.x.o.",
        ("kick", "rim", "hat"), 0.60, 0.2, 0.35,
    ),
    "synthwave": Style(
        0, Voice("supersaw", 3.5, 0.8), "x...............", Voice("saw", 0.4, 0.8), "x.x.x.x.x.x.x.x.",
        Voice("supersaw", 0.8, 1.0), "x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x.",
        ("kick", "gated", "hat"), 0.65, 0.0, 0.50,
    ),
    "punk": Style(
        7, Voice("fuzz", 0.45, 1.0), "x.x.x.x.x.x.x.x.", Voice("square", 0.45, 0.7), "x.x.x.x.x.x.x.x.",
        Voice("reed", 0.6, 0.65), "x.....x.x.x.....", "....x.......x...", "x.x.x.x.x.x.x.x.",
        ("kick", "snare", "openhat"), 0.85, 0.0, 0.08,
    ),
    "blues": Style(
        7, Voice("organ", 1.2, 0.5), "x.....o.x.....o.", Voice("wood", 0.7, 0.9), "x...x...x...x...",
        Voice("steel", 1.1, 1.0), "x.......x.......", "....x.......x...", "x...x...x...x...",
        ("thump", "snare", "ride"), 0.55, 0.6, 0.25,
    ),
}  # fmt: skip


# ---- the piece ---------------------------------------------------------------------------------------------------


class _Player:
    """Places sounds on a grid of sixteenths; equal notes are made once."""

    def __init__(self, length: int, beat_s: float, swing: float) -> None:
        self.length = length
        self.beat_s = beat_s
        self.swing = swing
        self.steps = math.ceil(length / SAMPLE_RATE / (beat_s / 4))
        self._tones: dict[tuple[str, float], Wave] = {}

    def bus(self) -> Wave:
        return np.zeros(self.length, dtype=np.float32)

    def start(self, step: int) -> int:
        """The sample at which a step begins; the off-beat eighths come late where the music swings."""
        late = self.swing * 2 / 3 if step % 4 == 2 else 0.0
        return int((step + late) * self.beat_s / 4 * SAMPLE_RATE)

    def place(self, bus: Wave, step: int, sound: Wave, gain: float) -> None:
        start = self.start(step)
        room = self.length - start
        if room > 0:
            bus[start : start + len(sound)] += np.float32(gain) * sound[:room]

    def tone(self, voice: Voice, formant: int, pitch: float, attack_s: float) -> Wave:
        key = (voice.wave + str(voice.decay_beats), pitch)
        if key not in self._tones:
            self._tones[key] = tone(voice, formant, pitch, self.beat_s, attack_s)
        return self._tones[key]


def render_song(track: SyntheticTrack, duration_s: float) -> Wave:
    """The song, mono float32 [N] at `SAMPLE_RATE`, N = round(duration_s * SAMPLE_RATE); peaks below 0.9, the end
    faded.

    The same track and duration give the same samples in every process.
    """
    style, latent = STYLES[track.genre], track.latent
    rng = np.random.default_rng(track.song_seed)
    length = round(duration_s * SAMPLE_RATE)
    player = _Player(length, 60.0 / beats_per_minute(latent.tempo), style.swing)
    mode = "major" if latent.mode >= 0.5 else "minor"
    progression = _PROGRESSIONS[mode][int(rng.integers(4))]
    attack_s = 0.002 + 0.05 * (1 - latent.energy) ** 2
    music = _play_chords(player, track, progression, attack_s) + _play_melody(player, track, progression, attack_s, rng)
    music *= np.float32(1.0 / (3.0 * _rms(music)))
    drive = 0.4 + 4.0 * latent.energy**1.5
    music = np.tanh(np.float32(drive) * music)
    music *= np.float32(1.0 / _rms(music))
    drums = _play_drums(player, style, rng)
    drums *= np.float32(2.2 * style.drums * 10 ** ((latent.energy - 0.5) * 24 / 20))
    return _master(music + drums, latent.brightness, style.room)


def _pitch(style: Style, scale: tuple[int, ...], degree: int, octave: int) -> int:
    """The MIDI pitch of a scale degree, counted from the tonic of an octave; degrees beyond the seventh go on
    upwards.
    """
    return 12 * (octave + 1) + style.key + scale[degree % 7] + 12 * (degree // 7)


def _play_chords(player: _Player, track: SyntheticTrack, progression: tuple[int, ...], attack_s: float) -> Wave:
    """Pad and bass, a chord a bar."""
    style, formant = STYLES[track.genre], int(track.signature.formant * 5)
    scale = _SCALES["major" if track.latent.mode >= 0.5 else "minor"]
    intervals = (0, 2, 4, 7, 9, 11)[: 2 + round(track.latent.density * 4)]
    bus = player.bus()
    for step in range(player.steps):
        root = progression[step // _STEPS % len(progression)]
        accent = _accent(style.pad_rhythm, step)
        if accent:
            for interval in intervals:
                note = player.tone(
                    style.pad, formant, _pitch(style, scale, root + interval, 4 - style.key // 7), attack_s * 2
                )
                player.place(bus, step, note, accent * style.pad.level / math.sqrt(len(intervals)))
        accent = _accent(style.bass_rhythm, step)
        if accent:
            note = player.tone(style.bass, 0, _pitch(style, scale, root, 2 - style.key // 7), 0.004)
            player.place(bus, step, note, accent * style.bass.level * 0.9)
    return bus


def _play_melody(
    player: _Player, track: SyntheticTrack, progression: tuple[int, ...], attack_s: float, rng: np.random.Generator
) -> Wave:
    """The lead: a phrase of two bars, answered by itself with a new ending. Strong beats fall on notes of the
    chord.
    """
    style, latent = STYLES[track.genre], track.latent
    scale = _SCALES["major" if latent.mode >= 0.5 else "minor"]
    weight = np.tile([1.0, 0.15, 0.5, 0.2, 0.8, 0.15, 0.5, 0.25], 4) + rng.uniform(0, 0.35, 2 * _STEPS)
    notes = round(2 * (1.5 + 13.0 * latent.density))
    sounding = set(np.argsort(-weight)[:notes].tolist())
    walk = np.cumsum(rng.choice([-2, -1, -1, 0, 1, 1, 2], 4 * _STEPS))
    lift = round(7 * (latent.brightness - 0.35))
    bus = player.bus()
    for step in range(player.steps):
        place = step % (2 * _STEPS)
        if place not in sounding:
            continue
        answer = step // (2 * _STEPS) % 2 and place >= 24
        degree = int(walk[place + (2 * _STEPS if answer else 0)]) % 8 + lift
        root = progression[step // _STEPS % len(progression)]
        if place % 4 == 0:
            degree = root + min((-7, -5, -3, 0, 2, 4, 7, 9, 11), key=lambda tone, d=degree - root: abs(tone - d))  # type: ignore[misc]
        note = player.tone(
            style.lead, int(track.signature.formant * 5), _pitch(style, scale, degree, 5 - style.key // 7), attack_s
        )
        player.place(bus, step, note, style.lead.level * (1.0 if place % 4 == 0 else 0.75))
    return bus


def _play_drums(player: _Player, style: Style, rng: np.random.Generator) -> Wave:
    bus = player.bus()
    human = rng.uniform(0.9, 1.1, player.steps)
    for rhythm, name in zip((style.kick, style.snare, style.hat), style.kit, strict=True):
        stroke = drum_hit(name)
        for step in range(player.steps):
            accent = _accent(rhythm, step)
            if accent:
                player.place(bus, step, stroke, accent * float(human[step]))
    return bus


def _accent(rhythm: str, step: int) -> float:
    return {"x": 1.0, "o": 0.55}.get(rhythm[step % _STEPS], 0.0)


# ---- the room ----------------------------------------------------------------------------------------------------


def _master(dry: Wave, brightness: float, room: float) -> Wave:
    """Filter, reverberation, level and fades: from the mix, float32 [N], to the song."""
    length = len(dry)
    size = _fast_size(length + SAMPLE_RATE // 2)
    spectrum = np.fft.rfft(dry, size)
    spectrum *= _filter(size, round(brightness, 3)) * (1 + np.float32(room) * _reverberation(size))
    song = np.fft.irfft(spectrum, size)[:length].astype(np.float32)
    song -= song.mean()
    fade_in, fade_out = min(200, length), min(int(0.8 * SAMPLE_RATE), length)
    song[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
    song[-fade_out:] *= np.cos(np.linspace(0, math.pi / 2, fade_out, dtype=np.float32)) ** 2
    return song * np.float32(min(_LEVEL / _rms(song), _PEAK / float(np.abs(song).max())))


@lru_cache(maxsize=4)
def _reverberation(size: int) -> NDArray[np.complex64]:
    """Spectrum of a room that rings for about a second, of unit energy."""
    length = min(SAMPLE_RATE, size)
    time = np.arange(length) / SAMPLE_RATE
    impulse = np.random.default_rng(7).standard_normal(length) * np.exp(-time / 0.22)
    impulse[: int(0.012 * SAMPLE_RATE)] = 0
    return np.asarray(np.fft.rfft(impulse / np.sqrt(np.sum(impulse**2)), size), dtype=np.complex64)


def _filter(size: int, brightness: float) -> Wave:
    """Gain of every bin: rumble cut away, and a low-pass whose corner rises from 350 Hz to 8 kHz with brightness."""
    frequency = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / size)
    corner = 350.0 * 2 ** (4.5 * brightness)
    ratio = frequency / np.float32(corner)
    gain: Wave = np.reciprocal(1 + ratio * ratio)
    gain[: int(30 * size / SAMPLE_RATE)] = 0
    return gain


def _fast_size(length: int) -> int:
    """The smallest size of at least `length` that the FFT is quick at."""
    power = 1 << max(0, length.bit_length() - 4)
    return next(power * factor for factor in (8, 9, 10, 12, 14, 15, 16, 18) if power * factor >= length)


def _rms(wave: Wave) -> float:
    return max(float(np.sqrt(np.mean(wave * wave))), 1e-9)
