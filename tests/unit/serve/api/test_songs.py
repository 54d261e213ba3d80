import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.config import ServeSettings
from gatefold.images.pixels import encode_picture
from gatefold.index.interface import Filters

SONG = {"song": ("../x.mp3", b"12345", "audio/mpeg")}


def test_an_uploaded_song_finds_its_covers(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    answer = e.client.post("/v1/searches", files=SONG, data={"k": "2"})
    assert answer.status_code == 200
    assert answer.json() == {
        "release": "r1",
        "encoder": "encoder-1",
        "song": {"duration_s": 5.0, "window_starts_s": [0.0, 4.9], "spectrogram": None},
        "matches": [
            {
                "rank": rank,
                "score": pytest.approx(1 - rank / 100),
                "track": {"song_id": f"t{rank - 1}", "title": None, "artist": "a/b", "album": None, "genre": None},
                "cover_url": f"/v1/tracks/t{rank - 1}/cover",
            }
            for rank in (1, 2)
        ],
    }
    assert e.encoder.encoded == ["x.mp3"]


def test_the_answer_carries_a_picture_of_the_spectrogram_when_asked(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.post("/v1/searches", files=SONG, data={"spectrogram": "true"})
    head, _, data = answer.json()["song"]["spectrogram"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG"


def test_repeated_form_fields_become_filters(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.client.post("/v1/searches", files=SONG, data={"exclude_song_ids": ["t0", "t1"], "genres": "jazz", "k": "1"})
    assert e.retriever.asked[0].filters == Filters(frozenset({"t0", "t1"}), where=(("genre", frozenset({"jazz"})),))


@pytest.mark.parametrize("form", [True, False])
def test_columns_are_filtered_by_in_forms_and_in_json(endpoint: Callable[..., Any], form: bool) -> None:
    e, where = endpoint(), {"year": ["1998", "1999"], "album": ["Blue"]}
    sent: dict[str, Any] = {"files": SONG, "data": {"where": json.dumps(where)}}
    assert e.client.post("/v1/searches", **sent if form else {"json": {"song_id": "t3", "where": where}}).is_success
    asked = (("year", frozenset({"1998", "1999"})), ("album", frozenset({"Blue"})))
    assert e.retriever.asked[0].filters == Filters(where=asked)


@pytest.mark.parametrize("where", ["year=1999", '["year"]', '{"year": "1999"}', '{"year": []}', '{"year": [1999]}'])
def test_a_filter_that_is_none_is_refused_by_its_name(endpoint: Callable[..., Any], where: str) -> None:
    answer = endpoint().client.post("/v1/searches", files=SONG, data={"where": where})
    assert answer.status_code == 422
    assert "where" in answer.json()["detail"]


def test_a_song_of_the_catalogue_finds_its_covers_without_an_upload(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    answer = e.client.post("/v1/searches", json={"song_id": "t3", "k": 1, "exclude_artists": ["x"]})
    assert answer.status_code == 200
    assert answer.json()["song"] is None
    np.testing.assert_array_equal(e.retriever.asked[0].embedding, [0, 1, 0, 0])
    assert e.retriever.asked[0].filters.exclude_artists == {"x"}


def test_an_embedding_is_brought_to_unit_length(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    for scale in (1, 1e38, 1e-38, 1e300, 1e-300):  # whatever its length, also beyond float32
        embedding = [3 * scale, 0, 4 * scale, 0]
        answer = e.client.post("/v1/searches", json={"embedding": embedding, "encoder": "encoder-1"})
        assert answer.status_code == 200
        np.testing.assert_allclose(e.retriever.asked[-1].embedding, [0.6, 0, 0.8, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"song_id": "nobody"}, 404, "unknown_track", "'nobody'"),
        ({"song_id": "mute"}, 404, "unknown_track", "upload the song"),
        ({"song_id": "t0", "k": 5000}, 422, "invalid_input", "k = 5000: at most 1000"),
        ({"song_id": "t0", "key": 1}, 422, "invalid_input", "key = 1"),
        ({"embedding": [1, 0, 0, 0], "encoder": "old"}, 422, "invalid_input", "'old', here serves 'encoder-1'"),
        ({"embedding": [0, 0, 0, 0], "encoder": "encoder-1"}, 422, "invalid_input", "not all zero"),
        ({"embedding": ["x"], "encoder": "encoder-1"}, 422, "invalid_input", "embedding.0 = 'x'"),
        ({"embedding": [1, 0, 0, 0], "encoder": "o" * 100_000}, 422, "invalid_input", "ooo', here serves"),
        ({"song_id": "n" * 100_000}, 404, "unknown_track", "nnn"),
        ({}, 422, "invalid_input", "either song_id or embedding"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(
    endpoint: Callable[..., Any], body: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = endpoint().client.post("/v1/searches", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]
    assert len(answer.content) < 2_500  # however much was sent


def test_a_song_that_cannot_be_decoded_is_the_callers_problem(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.post("/v1/searches", files={"song": ("a.wav", b"silence")})
    assert (answer.status_code, answer.json()["code"]) == (422, "silent_audio")
    assert "song 'a.wav'" in answer.json()["detail"]


def test_a_fault_of_ours_shows_nothing_of_itself(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.post("/v1/searches", files={"song": ("a.wav", b"bug")})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "10.0.0.7" not in answer.text


def test_an_upload_above_the_limit_is_refused(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(upload_max_bytes=1000))
    answer = e.client.post("/v1/searches", files={"song": ("a.wav", b"x" * 1001)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert e.encoder.encoded == []


def test_a_song_gives_its_embedding(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    answer = e.client.post("/v1/embeddings", files=SONG).json()
    assert answer["embedding"] == [0, 1, 0, 0]
    assert (answer["release"], answer["encoder"], answer["song"]["duration_s"]) == ("r1", "encoder-1", 5.0)
    assert e.client.post("/v1/embeddings", json={"song_id": "t0"}).status_code == 422
    assert "'k'" in e.client.post("/v1/embeddings", files=SONG, data={"k": "1"}).json()["detail"]


def test_a_track_is_answered_with_or_without_its_cover(endpoint: Callable[..., Any]) -> None:
    client = endpoint(cover_uri="file:///nowhere/c.png").client
    assert client.get("/v1/tracks/t%2F1").json() == {
        "track": {"song_id": "t/1", "title": "T", "artist": "a/b", "album": None, "genre": None},
        "cover_url": "/v1/tracks/t%2F1/cover",
    }
    assert client.get("/v1/tracks/mute").json()["cover_url"] is None


def test_a_cover_comes_square_small_and_cacheable(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(encode_picture(np.zeros((3, 64, 64), np.uint8), 400, "png"))
    client = endpoint(cover_uri=path.as_uri()).client
    answer = client.get("/v1/tracks/t%2F1/cover?size=32")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.content[:2] == b"\xff\xd8"
    again = client.get("/v1/tracks/t%2F1/cover?size=32", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/tracks/mute/cover", 404, "'mute' has no cover"),
        ("/v1/tracks/t1/cover", 404, "has gone from storage"),
        ("/v1/tracks/nobody/cover", 404, "'nobody'"),
        ("/v1/tracks/t1/cover?size=9999", 422, "at most 1024"),
        ("/v1/tracks/t1/cover?size=2", 422, "greater than or equal to 16"),
    ],
)
def test_a_cover_that_cannot_be_had_says_why_and_names_no_place(
    endpoint: Callable[..., Any], path: str, status: int, said: str
) -> None:
    answer = endpoint(cover_uri="file:///nowhere/c.png").client.get(path)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert "/nowhere" not in answer.text


def test_what_serves_is_answered_with_its_audio_settings(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.get("/v1/releases/current").json()
    assert answer["version"] == "r1"
    assert answer["index"] == {"version": "i1", "fingerprint": "index-1"}
    assert answer["covers"] == 20
    assert answer["audio"]["sample_rate"] == 16_000


def test_health_is_live_always_and_ready_when_everything_runs(endpoint: Callable[..., Any]) -> None:
    e = endpoint(keys=hashlib.sha256(b"k").hexdigest())
    assert e.client.get("/v1/health/live").json() == {"status": "live"}
    assert e.client.get("/v1/health/ready").json() == {"status": "ready"}
    e.ready.missing = "CoverGenerator"
    answer = e.client.get("/v1/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "index_not_ready")
    assert "CoverGenerator" in answer.json()["detail"]


def test_with_keys_every_call_but_health_needs_one(endpoint: Callable[..., Any]) -> None:
    client = endpoint(keys=hashlib.sha256(b"k").hexdigest()).client
    for method, path in (("GET", "/v1/releases/current"), ("POST", "/v1/searches"), ("DELETE", "/v1/covers/x")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/releases/current", headers={"Authorization": "Bearer no"}).status_code == 401
    assert client.get("/v1/releases/current", headers={"Authorization": "Bearer k"}).status_code == 200


def test_the_api_describes_itself(endpoint: Callable[..., Any]) -> None:
    description = endpoint().client.get("/openapi.json").json()
    content = description["paths"]["/v1/searches"]["post"]["requestBody"]["content"]
    assert content["multipart/form-data"]["schema"]["properties"]["song"]["format"] == "binary"
    kinds = content["application/json"]["schema"]["oneOf"]
    assert [kind["required"] for kind in kinds] == [["song_id"], ["embedding", "encoder"]]
