"""Robustness of song embeddings to encoding: the cosine between the embedding of each real clip and
that of the same clip re-encoded, resampled, softer, or after a pause; and between different clips, which should differ.

Takes the encoder of a workspace's active release. Writes results/robustness.md beside this file. `make
bench-robustness BENCH_ARGS=workspace`.
"""

import argparse
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torchaudio.functional import resample

from gatefold.audio.decoding import decode_windows
from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings
from gatefold.storage import objects
from gatefold.storage.models.loaded_release import LoadedRelease, load_active_release
from gatefold.workspace import Workspace
from tests.sounds import CLIPS, Samples, muxed, written

RESULTS = Path(__file__).parent / "results" / "robustness.md"
WHOLE = AudioSettings(window_s=60.0, windows=1)
PAUSE_S, SOFTER_DB, LOWER_HZ, MP3_HZ = 1.2, 12, 22_050, 44_100


def at_rate(samples: Samples, rate: int, wanted: int) -> Samples:
    """[N, channels] at another rate."""
    made: Samples = resample(torch.from_numpy(samples.T.copy()), rate, wanted).numpy().T
    return made


CHANGES: dict[str, Callable[[Samples, int], bytes]] = {
    "mp3, 64 kbit/s": lambda samples, rate: muxed(at_rate(samples, rate, MP3_HZ), "libmp3lame", "mp3", MP3_HZ, 64_000),
    "ogg vorbis": lambda samples, rate: written(samples, "OGG", "VORBIS", rate),
    f"at {LOWER_HZ:,} Hz": lambda samples, rate: written(at_rate(samples, rate, LOWER_HZ), "WAV", "PCM_16", LOWER_HZ),
    f"{SOFTER_DB} dB softer": lambda samples, rate: written(samples * 10 ** (-SOFTER_DB / 20), "WAV", "PCM_16", rate),
    f"after {PAUSE_S} s of silence": lambda samples, rate: written(
        np.concatenate([np.zeros((round(PAUSE_S * rate), 2), np.float32), samples]), "WAV", "PCM_16", rate
    ),
}


def whole(clip: Path) -> tuple[Samples, int]:
    """All of a clip, both channels its mean: [N, 2], and its rate."""
    encoded = decode_windows(clip.read_bytes(), WHOLE)
    samples = encoded.waveform[0][: round(encoded.duration_s * encoded.rate)]
    return np.stack([samples, samples], axis=1), encoded.rate


def embedded(loaded: LoadedRelease, data: bytes) -> Samples:
    encoder = loaded.encoder
    return encoder.embed_song(extract_log_mel(data, encoder.audio).log_mel)


def report(loaded: LoadedRelease, source: str) -> str:
    clips = [whole(clip) for clip in CLIPS]
    own = np.stack([embedded(loaded, written(samples, "WAV", "PCM_16", rate)) for samples, rate in clips])
    lines = [
        f"`make bench-robustness BENCH_ARGS={source}`, {date.today()}, {platform.machine()}; {len(clips)} real clips, "
        f"encoder {loaded.encoder.fingerprint[:12]}.",
        "",
        "| cosine of a clip with | worst | median |",
        "|---|---:|---:|",
    ]
    for name, change in CHANGES.items():
        changed = np.stack([embedded(loaded, change(samples, rate)) for samples, rate in clips])
        cosines = (own * changed).sum(1)
        lines.append(f"| itself, {name} | {cosines.min():.3f} | {np.median(cosines):.3f} |")
    others = (own @ own.T)[np.triu_indices(len(own), 1)]
    lines.append(f"| another clip | {others.max():.3f} (the nearest) | {np.median(others):.3f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", help="with an active release, such as workspace")
    arguments = parser.parse_args()
    loaded = load_active_release(Workspace(objects.resolve(arguments.workspace)))
    made = report(loaded, arguments.workspace)
    RESULTS.write_text(made)
    Console().print(made, markup=False)


if __name__ == "__main__":
    main()
