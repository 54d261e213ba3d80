"""The encoder as a Ray Serve deployment: embeds songs and new covers.

Songs are decoded in child processes, torch runs on threads of its own, so that the replica's event loop stays free for
health checks and for the next request. Knows nothing of HTTP or of the index.

Shape legend: n = covers, S = pixels a side, D = width of the joint space.
"""

import asyncio
import io

import numpy as np
from PIL import Image

from gatefold.config import ServeSettings, UploadAudioSettings
from gatefold.records import LogMelWindows
from serve.deployments import replica
from serve.deployments.song_decoder import SongDecoder, UploadedSong
from serve.interfaces import EncoderFacts, Pictures, SongEmbedding, Vector
from serve.observability.carried import bound
from serve.observability.metrics import DECODE, ENCODE
from serve.observability.observed import observed
from serve.observability.tracing import TraceArgs, span


@observed
class SongEncoder:
    """One encoder bundle.

    Args:
        bundle_uri: of the encoder.
        limits: bytes and seconds of an upload; the bundle's own are those of the catalogue.
    """

    def __init__(
        self, bundle_uri: str, limits: ServeSettings, endpoint_url: str | None, traces: TraceArgs | None = None
    ) -> None:
        # not above: torch takes seconds to import, and the processes that only deploy this do without it
        from gatefold.storage.models.encoders import load_encoder

        replica.set_up(endpoint_url, traces)
        self._model = load_encoder(bundle_uri, replica.granted_device())
        self._audio = UploadAudioSettings.of(self._model.audio, limits)
        self._limits = limits
        self._workers = replica.workers(1, 1)
        self._decoder = self._decoders(1)

    def reconfigure(self, tuning: dict[str, int]) -> None:
        """`user_config`: songs decoded and embedded at once, and threads of torch for each."""
        before, self._decoder = self._decoder, self._decoders(tuning["songs"])
        self._workers.submit(before.close)  # behind the songs that it is still decoding
        self._workers = replica.workers(tuning["songs"], tuning["threads"])
        self._decoder.start()

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces the replica where it raises: RuntimeError when a decoder is stuck."""
        self._decoder.check()

    async def encode_song(self, data: bytes, name: str, spectrogram: bool) -> SongEmbedding:
        """The embedding of the song in these bytes. Raises: InputError where they cannot be decoded."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, bound(self._encode_song), data, name, spectrogram)

    async def embed_covers(self, pixels: Pictures) -> Vector:
        """float32 [n, D], unit length.

        Args:
            pixels: uint8 [n, 3, S, S], RGB.
        """
        writable = np.array(pixels)  # what Ray passes is read-only, which torch warns about
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._model.embed_covers, writable)

    async def describe(self) -> EncoderFacts:
        """The limits of a song and the fingerprint of the encoder."""
        return EncoderFacts(self._audio, self._model.fingerprint)

    def _encode_song(self, data: bytes, name: str, spectrogram: bool) -> SongEmbedding:
        with span("decode"), DECODE.time():
            song = self._decoder.decode(UploadedSong(data, f"song '{name}'"))
        with span("encode"), ENCODE.time():
            embedding = self._model.embed_song(song.log_mel)
        return SongEmbedding(
            embedding=embedding,
            duration_s=song.duration_s,
            window_starts_s=song.starts_s.tolist(),
            spectrogram_png=_png(song) if spectrogram else None,
        )

    def _decoders(self, children: int) -> SongDecoder:
        limits = self._limits
        return SongDecoder(
            self._audio,
            timeout_s=limits.decode_timeout_s,
            memory_bytes=limits.decode_memory_bytes,
            children=children,
        )


def _png(song: LogMelWindows) -> bytes:
    from gatefold.audio.spectrograms import spectrogram_picture  # with torch, as in __init__

    sink = io.BytesIO()
    Image.fromarray(spectrogram_picture(song)).save(sink, "PNG")
    return sink.getvalue()
