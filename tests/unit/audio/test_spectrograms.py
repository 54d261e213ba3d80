"""Log-mel of real songs in every format, files that mean harm, and the log-mel against its textbook definition."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gatefold.audio.decoding import Waveform, Windows, decode_windows
from gatefold.audio.spectrograms import extract_log_mel, log_mel, mel_power, spectrogram_picture
from gatefold.config import AudioSettings
from gatefold.errors import (
    AudioTooLong,
    AudioTooShort,
    EmptyFile,
    GatefoldError,
    SilentAudio,
    TooLarge,
    TruncatedAudio,
    UndecodableAudio,
)
from gatefold.records import LogMelWindows
from tests.sounds import AUDIO, CLIPS, MUSIC, encoded, tone

LARGE = AudioSettings()
ONE_WINDOW = AudioSettings(window_s=600.0, windows=1)


def clip(name: str) -> bytes:
    return (MUSIC / name).read_bytes()


def adts(samples: Waveform, rate: int) -> bytes:
    """Bare AAC, as radio streams are."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return sink.getvalue()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ---- what can be decoded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_real_songs_are_decoded_in_every_format(path: Path) -> None:
    song = extract_log_mel(path.read_bytes(), LARGE, name=path.name)
    windows = 1 if song.duration_s < LARGE.window_s else LARGE.windows
    assert 4.9 < song.duration_s < 15.1
    assert (song.log_mel.shape, song.log_mel.dtype) == ((windows, LARGE.n_mels, LARGE.frames), np.dtype(np.float16))
    assert np.isfinite(song.log_mel).all()
    assert np.ptp(song.log_mel) > 8
    assert len(song.starts_s) == windows


FORMATS = ["WAV PCM_16", "WAV PCM_24", "WAV ULAW", "RF64", "FLAC", "AIFF", "MP3", "OGG VORBIS", "OGG OPUS"]


@pytest.mark.parametrize("format", FORMATS)
def test_one_tone_sounds_alike_in_every_format(format: str) -> None:
    container, *subtype = format.split()
    plain = extract_log_mel(encoded(tone(2.0), subtype="FLOAT"), LARGE)
    other = extract_log_mel(encoded(tone(2.0), format=container, subtype=subtype[0] if subtype else None), LARGE)
    assert other.duration_s == pytest.approx(2.0, abs=0.05)
    loud = plain.log_mel > 0
    assert np.abs(plain.log_mel[loud].astype(np.float32) - other.log_mel[loud].astype(np.float32)).mean() < 0.2


def test_bare_aac_is_decoded() -> None:
    assert extract_log_mel(adts(tone(2.0), 16_000), LARGE).duration_s == pytest.approx(2.0, abs=0.15)


def test_a_flac_that_was_streamed_and_does_not_know_its_length_is_decoded_like_any_other() -> None:
    whole = encoded(tone(2.0), format="FLAC")
    streamed = bytearray(whole)
    streamed[21] &= 0xF0  # 36 bits of STREAMINFO: samples in all
    streamed[22:26] = bytes(4)
    assert np.array_equal(extract_log_mel(bytes(streamed), LARGE).log_mel, extract_log_mel(whole, LARGE).log_mel)


def test_mono_is_the_mean_of_the_channels() -> None:
    left, right = tone(1.5, hertz=300), tone(1.5, hertz=700)
    decoded = decode_windows(encoded(np.stack([left, right], axis=1), subtype="FLOAT"), ONE_WINDOW)
    assert decoded.rate == 16_000
    assert np.array_equal(decoded.waveform[0, : len(left)], np.stack([left, right]).mean(axis=0))


def test_the_name_of_a_file_is_never_believed() -> None:
    wav = encoded(tone(1.5))
    misnamed, named = (extract_log_mel(wav, LARGE, name=name).log_mel for name in ("a.mp3", "a.wav"))
    assert np.array_equal(misnamed, named)


# ---- what cannot -----------------------------------------------------------------------------------------------------

SAMPLES = tone(3.0)
WAV, FLAC, MP3, AIFF = (encoded(SAMPLES, format=format) for format in ("WAV", "FLAC", "MP3", "AIFF"))
NAN = np.where(np.arange(len(SAMPLES)) == 20_000, np.nan, SAMPLES).astype(np.float32)
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", EmptyFile, id="empty"),
        pytest.param(b"just words, in a file called song.mp3" * 9, UndecodableAudio, id="text"),
        pytest.param(b"\0" * 4096, UndecodableAudio, id="zeros"),
        pytest.param(b"R", UndecodableAudio, id="one byte"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(99), UndecodableAudio, id="jpeg named ogg"),
        pytest.param(PLAYLIST, UndecodableAudio, id="playlist"),
        pytest.param(b"ID3\x04\0\0\0\0\0\0" + PLAYLIST, UndecodableAudio, id="playlist after a tag"),
        pytest.param(b"OggS" + PLAYLIST, UndecodableAudio, id="playlist called ogg"),
        pytest.param(b"\0\0\0\x18ftypM4A " + PLAYLIST, UndecodableAudio, id="playlist called m4a"),
        pytest.param(b"RIFF\x24\0\0\0WEBPVP8 " + bytes(99), UndecodableAudio, id="a picture in RIFF"),
        pytest.param(b"RIFF", UndecodableAudio, id="wav of four bytes"),
        pytest.param(b"fLaC", UndecodableAudio, id="flac of four bytes"),
        pytest.param(WAV[:44], UndecodableAudio, id="wav without samples"),
        pytest.param(WAV[: len(WAV) // 2], TruncatedAudio, id="half a wav"),
        pytest.param(FLAC[: len(FLAC) // 2], TruncatedAudio, id="half a flac"),
        pytest.param(MP3[: len(MP3) // 2], TruncatedAudio, id="half an mp3"),
        pytest.param(AIFF[: len(AIFF) // 2], TruncatedAudio, id="half an aiff"),
        pytest.param(encoded(0 * SAMPLES), SilentAudio, id="digital silence"),
        pytest.param(encoded(tone(3.0, level=5e-4), subtype="FLOAT"), SilentAudio, id="silence"),
        pytest.param(encoded(tone(0.3)), AudioTooShort, id="a third of a second"),
        pytest.param(encoded(NAN, subtype="FLOAT"), UndecodableAudio, id="a sample that is no number"),
        pytest.param(encoded(np.full(32_000, np.inf, np.float32), subtype="FLOAT"), UndecodableAudio, id="infinite"),
        pytest.param(encoded(SAMPLES * 1e20, subtype="FLOAT"), UndecodableAudio, id="too loud for a spectrogram"),
        pytest.param(encoded(tone(2.0, 100), 100), UndecodableAudio, id="a sample rate of 100 Hz"),
    ],
)  # fmt: skip
def test_what_is_no_song_is_refused_as_what_it_is(data: bytes, error: type[GatefoldError]) -> None:
    with pytest.raises(GatefoldError, match=r"^upload 7: ") as refusal:
        extract_log_mel(data, LARGE, name="upload 7")
    assert type(refusal.value) is error


def test_a_sample_that_is_no_number_is_found_behind_the_end_that_a_header_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overshoots(*_: object, **__: object) -> Windows:
        waveform = np.append(SAMPLES, np.full(100, np.nan, np.float32)).astype(np.float32)[None]
        return Windows(len(SAMPLES) / 16_000, 16_000, np.zeros(1, np.float32), waveform)

    monkeypatch.setattr("gatefold.audio.spectrograms.decode_windows", overshoots)
    with pytest.raises(UndecodableAudio, match="nan times full scale"):
        extract_log_mel(WAV, LARGE)


@pytest.mark.parametrize("name", ["01_folk_vocals.wav", "02_jazz.ogg", "11_polka.mp3", "10_house_cc0_cover.m4a"])
def test_damage_is_refused_or_survived_but_never_breaks_anything(name: str) -> None:
    data, random = clip(name), np.random.default_rng(0)
    for _ in range(4):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[random.integers(0, len(broken), 300)] = random.integers(0, 256, 300)
        broken[random.integers(0, 200, 3)] = random.integers(0, 256, 3)
        try:
            assert np.isfinite(extract_log_mel(broken.tobytes(), LARGE).log_mel).all()
        except GatefoldError as error:
            assert error.status < 500  # noqa: PT017


@pytest.mark.parametrize("data", [WAV, FLAC, MP3, clip("02_jazz.ogg"), clip("10_house_cc0_cover.m4a")])
def test_what_is_too_long_is_refused_with_both_numbers(data: bytes) -> None:
    with pytest.raises(AudioTooLong, match=r"\d s of audio, limit 2 s; trim it"):
        extract_log_mel(data, LARGE.model_copy(update={"max_duration_s": 2.0}))


def test_what_is_too_large_is_refused_with_both_numbers() -> None:
    with pytest.raises(TooLarge, match=r"song: more than 40,000 of its 96,044 bytes would have to be read; shorten"):
        extract_log_mel(WAV, LARGE.model_copy(update={"max_bytes": 40_000}))


# ---- log-mel ---------------------------------------------------------------------------------------------------------


def slaney_hertz(mel: float) -> float:
    """Slaney's scale: linear up to 1 kHz (15 mel), then 27 mel for each factor of 6.4."""
    return 200 * mel / 3 if mel < 15 else 1_000 * 6.4 ** ((mel - 15) / 27)


def slaney_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1_000 else 15 + 27 * float(np.log(hertz / 1_000) / np.log(6.4))


def naive_log_mel(waveform: npt.NDArray[np.float64], audio: AudioSettings) -> npt.NDArray[np.float64]:
    """By the definition, one column and one band at a time: [M, F]."""
    padded = np.pad(waveform, audio.n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(audio.n_fft) / audio.n_fft)
    bins = np.arange(audio.n_fft // 2 + 1) * audio.sample_rate / audio.n_fft
    mels = np.linspace(slaney_mel(audio.f_min), slaney_mel(audio.f_max), audio.n_mels + 2)
    edges = [slaney_hertz(mel) for mel in mels]
    result = np.empty((audio.n_mels, audio.frames))
    for frame in range(audio.frames):
        piece = padded[frame * audio.hop_length :][: audio.n_fft]
        power = np.abs(np.fft.rfft(piece * window)) ** 2
        for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            triangle = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
            result[band, frame] = np.log((triangle * 2 / (high - low) * power).sum() + 1e-6)
    return result


@pytest.mark.parametrize("audio", [LARGE, AUDIO], ids=["large", "small"])
def test_the_log_mel_is_the_textbooks(audio: AudioSettings) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, audio.window_length).astype(np.float32)
    waveform = noise + tone(audio.window_s, audio.sample_rate, hertz=1_234)
    fast = log_mel(waveform[None], audio.sample_rate, audio)[0]
    assert np.abs(fast - naive_log_mel(waveform.astype(np.float64), audio)).max() < 8e-3  # a step of float16 near 8


def test_the_power_can_be_recovered_from_a_log_mel_down_to_none() -> None:
    power = torch.tensor([0.0, 1e-7, 1e-6, 1e-3, 1.0, 1e3])
    log_power = (power + 1e-6).log().to(torch.float16).float()
    recovered = mel_power(log_power)
    assert recovered[0] < 1e-12
    assert torch.allclose(recovered[1:], power[1:], rtol=0.05)
    assert torch.allclose(recovered[2:], power[2:], rtol=0.01)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 44_101, 48_000, 96_000, 192_001])
def test_songs_of_any_sample_rate_are_decoded_alike(rate: int) -> None:
    """44,101 Hz has no simple ratio to 16 kHz: resampled exactly, it would take 12 GB."""
    song, reference = (
        extract_log_mel(encoded(tone(2.0, r, hertz=1_000), r, subtype="FLOAT"), LARGE) for r in (rate, 16_000)
    )
    loud = reference.log_mel > 0
    assert song.log_mel.shape == reference.log_mel.shape
    assert song.log_mel[loud].astype(np.float32) == pytest.approx(reference.log_mel[loud].astype(np.float32), abs=0.1)


def same(a: LogMelWindows, b: LogMelWindows) -> bool:
    return a.log_mel.tobytes() == b.log_mel.tobytes() and a.starts_s.tobytes() == b.starts_s.tobytes()


@pytest.mark.parametrize("name", ["02_jazz.ogg", "11_polka.mp3", "10_house_cc0_cover.m4a", "16_acoustic_guitar.flac"])
@pytest.mark.usefixtures("threads")
def test_the_same_file_gives_the_same_bits_with_any_number_of_threads(name: str) -> None:
    songs = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        songs.append(extract_log_mel(clip(name), LARGE))
    assert same(songs[0], songs[1])
    assert same(songs[1], songs[2])


def test_windows_computed_together_are_those_computed_alone() -> None:
    decoded = decode_windows(clip("02_jazz.ogg"), LARGE)
    alone = np.concatenate([log_mel(window[None], decoded.rate, LARGE) for window in decoded.waveform])
    assert log_mel(decoded.waveform, decoded.rate, LARGE).tobytes() == alone.tobytes()


def test_the_picture_of_a_song_shows_all_its_windows_with_low_notes_below() -> None:
    song = extract_log_mel(encoded(tone(2.0, hertz=100)), LARGE)
    picture = spectrogram_picture(song)
    assert (picture.shape, picture.dtype) == ((LARGE.n_mels, len(song.log_mel) * LARGE.frames, 3), np.dtype(np.uint8))
    assert picture[-10:, 10].sum() > picture[:10, 10].sum()
