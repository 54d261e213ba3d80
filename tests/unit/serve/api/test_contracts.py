from typing import Any

import pytest
from pydantic import ValidationError

from gatefold.config import ServeSettings
from serve.api.contracts import cover_url
from serve.api.limits import SEED_MAX
from serve.api.requests import CoverFields, CoverQuery, SearchQuery, SearchUpload, parse

LIMITS = ServeSettings(k_max=50, n_max=3, size_max=256, steps_max=10)


def test_fields_of_a_form_are_read_from_their_text() -> None:
    fields = parse(SearchUpload, {"k": "7", "spectrogram": "true", "genres": ["jazz"]}, LIMITS)
    assert (fields.k, fields.spectrogram, fields.genres) == (7, True, ["jazz"])


def test_defaults_shrink_to_the_limits_of_the_endpoint() -> None:
    assert parse(SearchUpload, {}, LIMITS).k == 50
    assert parse(SearchUpload, {}, ServeSettings()).k == 100
    covers = parse(CoverFields, {}, LIMITS)
    assert (covers.n, covers.size, covers.seed, covers.num_inference_steps) == (3, 256, None, None)


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        (SearchUpload, {"k": 51}, r"at most 50 \(serve.k_max\)"),
        (SearchUpload, {"k": 0}, "greater than or equal to 1"),
        (SearchUpload, {"kk": 5}, "Extra inputs are not permitted"),
        (SearchQuery, {}, "either song_id or embedding"),
        (SearchQuery, {"song_id": "a", "embedding": [1.0], "encoder": "e"}, "either song_id or embedding"),
        (SearchQuery, {"embedding": [1.0]}, "embedding and encoder"),
        (SearchQuery, {"song_id": "a", "encoder": "e"}, "embedding and encoder"),
        (CoverFields, {"n": 4}, r"at most 3 \(serve.n_max\)"),
        (CoverFields, {"size": 257}, r"at most 256 \(serve.size_max\)"),
        (CoverFields, {"num_inference_steps": 11}, r"at most 10 \(serve.steps_max\)"),
        (CoverFields, {"guidance_scale": "nan"}, "finite"),
        (CoverFields, {"guidance_scale": 21}, "less than or equal to 20"),
        (CoverFields, {"seed": -1}, "greater than or equal to 0"),
        (CoverFields, {"seed": SEED_MAX, "n": 2}, "leaves no room for 2 seeds"),
        (CoverQuery, {}, "Field required"),
    ],
)
def test_what_lies_outside_the_limits_is_refused_with_what_is_allowed(
    model: type, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        parse(model, values, LIMITS)


def test_the_largest_seed_can_be_asked_for() -> None:
    assert parse(CoverFields, {"seed": str(SEED_MAX), "n": "1"}, LIMITS).seed == SEED_MAX


def test_ids_are_quoted_whole_in_urls() -> None:
    assert cover_url("a/b c?é") == "/v1/tracks/a%2Fb%20c%3F%C3%A9/cover"
