import asyncio
import inspect
import json
import subprocess
import sys
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from gatefold.client import AsyncClient, AsyncCoverJob, Client, CoverJob, RetryPolicy, calls, uploads
from gatefold.client.batches import create_batch
from gatefold.client.endpoint import Endpoint
from gatefold.client.errors import SongUnreadable
from gatefold.client.models import EmbeddingAnswer, EncodedSong
from gatefold.client.uploads import MultipartBody, SongUpload

URL = "https://covers.example/api/"


def endpoint(key: str | None = None) -> Endpoint:
    return Endpoint(URL, key, 30.0, RetryPolicy())


def parts(body: MultipartBody) -> list[tuple[str, bytes]]:
    """The form as another library reads it: disposition and content of each part."""
    data = b"".join(body)
    assert int(body.headers["Content-Length"]) == len(data)
    message = message_from_bytes(f"Content-Type: {body.headers['Content-Type']}\r\n\r\n".encode() + data)
    found: Any = message.get_payload()
    return [(part["Content-Disposition"], part.get_payload(decode=True)) for part in found]


def test_importing_the_client_imports_nothing_heavy() -> None:
    heavy = "ray torch numpy pyarrow mutagen transformers fastapi serve pipelines"
    code = f"import gatefold.client, sys; print([one for one in '{heavy}'.split() if one in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (CoverJob, AsyncCoverJob)])
def test_both_clients_take_the_same(one: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        public = {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items()}

    assert methods(one) == methods(other)


def test_a_form_is_read_by_another_library_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / 'a "b"\n.ogg'
    path.write_bytes(b"\r\n--sound--\r\n" * 3)
    call = calls.generate(path, None, "k", None, {"n": 2, "source_song_ids": ["a", "ü"], "seed": None, "novelty": 0.5})
    assert call.song is not None
    assert [(disposition.partition("; ")[2], content) for disposition, content in parts(
        MultipartBody(call.song, call.fields)
    )] == [
        ('name="n"', b"2"), ('name="source_song_ids"', b"a"), ('name="source_song_ids"', "ü".encode()),
        ('name="novelty"', b"0.5"), ('name="song"; filename="a %22b%22%0A.ogg"', path.read_bytes()),
    ]  # fmt: skip


def test_an_upload_is_read_from_disk_in_chunks_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 10)
    path = tmp_path / "song.ogg"
    path.write_bytes(bytes(range(95)))
    body = MultipartBody(SongUpload.of(path), ())
    chunks = list(body)

    async def again() -> list[bytes]:
        return [chunk async for chunk in body]

    assert [len(chunk) for chunk in chunks[1:-1]] == [10] * 9 + [5]
    assert asyncio.run(again()) == chunks


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "song.ogg"
    path.write_bytes(b"12345")
    body = MultipartBody(SongUpload.of(path), ())
    path.write_bytes(b"12")
    with pytest.raises(SongUnreadable, match="became 3 bytes shorter"):
        list(body)


def test_a_song_that_is_not_there_is_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(SongUnreadable, match="is not a file"):
        endpoint().request(calls.embed(tmp_path / "none.ogg", None))
    with pytest.raises(SongUnreadable, match="is not a file"):
        endpoint().request(calls.embed(tmp_path, None))


def test_an_embedding_goes_back_with_its_encoder() -> None:
    song = EncodedSong(duration_s=1, window_starts_s=[0])
    answer = EmbeddingAnswer(release="r", encoder="f1", embedding=[1, 0], song=song)
    assert calls.search(None, None, answer, None, None, {}).json == {"embedding": [1.0, 0.0], "encoder": "f1"}
    assert calls.search(None, None, (1, 0), "f2", None, {"k": 3}).json == {
        "embedding": [1.0, 0.0], "encoder": "f2", "k": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="encoder = None"):
        calls.search(None, None, [1, 0], None, None, {})


def test_a_call_for_two_songs_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not song and song_id"):
        calls.search(b"x", "t1", None, None, None, {})
    with pytest.raises(ValueError, match="not none"):
        calls.search(None, None, None, None, None, {})
    with pytest.raises(ValueError, match="either song or song_id"):
        calls.generate(None, None, None, None, {})


def test_a_number_that_json_cannot_write_is_refused() -> None:
    call = calls.search(None, None, [float("nan")], "f", None, {})
    with pytest.raises(ValueError, match="is no JSON"):
        endpoint().request(call)


def test_every_job_and_batch_has_an_idempotency_key_of_its_own_and_may_be_repeated() -> None:
    made = [calls.generate(None, "t1", None, None, {}) for _ in range(2)]
    keys = {call.headers["Idempotency-Key"] for call in made}
    assert len(keys) == 2
    assert calls.generate(None, "t1", "mine", None, {}).headers == {"Idempotency-Key": "mine"}
    assert [call.repeatable for call in made] == [True, True]
    batches = [create_batch(b"{}", key) for key in (None, None, "mine")]
    assert len({call.headers["Idempotency-Key"] for call in batches}) == 3
    assert batches[2].headers["Idempotency-Key"] == "mine"
    assert all(call.repeatable for call in batches)
    assert not calls.search(None, "t1", None, None, None, {}).repeatable
    assert not calls.embed(b"x", None).repeatable


def test_ids_are_one_segment_of_the_path_and_never_climb() -> None:
    url = endpoint().request(calls.track("a/../b?c#d %2F")).url
    assert url.raw_path == b"/api/v1/tracks/a%2F..%2Fb%3Fc%23d%20%252F"
    for odd in ("", ".", ".."):
        with pytest.raises(ValueError, match="no path can hold it"):
            calls.withdraw(odd)


def test_the_key_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(key: str | None) -> Any:
        return endpoint(key).request(calls.job("j")).headers.get("Authorization")

    monkeypatch.setenv("GATEFOLD_API_KEY", "from outside")
    assert (shown("mine"), shown(None), shown("")) == ("Bearer mine", "Bearer from outside", None)
    monkeypatch.delenv("GATEFOLD_API_KEY")
    assert shown(None) is None


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated() -> None:
    for key in ("sécret", "secret\n", " secret"):
        with pytest.raises(ValueError, match="api_key") as refused:
            Client(URL, api_key=key)
        assert "cret" not in str(refused.value)
    assert "hidden" not in repr(Client(URL, api_key="hidden"))


@pytest.mark.parametrize(
    "url", ["covers.example", "ftp://covers.example", "https://", "https://a:b@covers.example", "https://x/?a=1", ""]
)
def test_a_base_url_that_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Client(url)


def test_options_in_a_form_are_written_as_the_endpoint_reads_them() -> None:
    call = calls.search(b"x", None, None, None, None, {"where": {"year": ("1998",)}, "spectrogram": True, "k": 1})
    assert dict(call.fields) == {"where": json.dumps({"year": ["1998"]}), "spectrogram": "true", "k": "1"}
    with pytest.raises(ValueError, match="a set cannot be sent"):
        calls.search(b"x", None, None, None, None, {"genres": {"jazz"}})  # type: ignore[typeddict-item]
