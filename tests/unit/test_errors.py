"""Errors: three families, stable codes, and a way through pickle, which is how they travel between Ray processes."""

import inspect
import pickle
from http import HTTPStatus

import pytest

from gatefold import errors
from gatefold.errors import Corrupt, GatefoldError, InputError, NotFound, Unavailable

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GatefoldError)]


def example(kind: type[GatefoldError]) -> GatefoldError:
    """An error with a value for each of its arguments: text for the message, then numbers."""
    more = list(inspect.signature(kind).parameters)[1:]
    return kind("song 'a1': 901 s of audio, limit 900 s; trim it", *(7 for name in more if name != "rest"))


@pytest.mark.parametrize("kind", TREE)
def test_every_error_survives_pickling_with_its_attributes(kind: type[GatefoldError]) -> None:
    error = example(kind)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", TREE)
def test_no_error_has_an_attribute_that_ray_uses_itself(kind: type[GatefoldError]) -> None:
    assert not hasattr(example(kind), "cause")


def test_an_error_says_its_message_and_nothing_of_its_other_arguments() -> None:
    error = errors.Overloaded("64 jobs wait, more are refused; come back", 7)
    assert str(error) == error.message == "64 jobs wait, more are refused; come back"
    assert error.retry_after_s == 7


def test_codes_are_unique_and_spelt_alike() -> None:
    codes = [kind.code for kind in TREE]
    assert sorted(codes) == sorted(set(codes))
    assert [code for code in codes if not code.replace("_", "").isalpha() or not code.islower()] == []


def test_every_error_declares_a_code_of_its_own() -> None:
    assert [kind for kind in TREE if "code" not in vars(kind)] == []


@pytest.mark.parametrize("kind", TREE)
def test_the_status_is_that_of_the_family(kind: type[GatefoldError]) -> None:
    HTTPStatus(kind.status)
    if issubclass(kind, InputError):
        assert 400 <= kind.status < 500
    elif issubclass(kind, NotFound):
        assert kind.status == 404
    elif issubclass(kind, Unavailable):
        assert kind.status in (429, 503)
    else:
        assert kind.status == 500


def test_only_what_passes_is_worth_another_try() -> None:
    assert {kind for kind in TREE if kind.retryable} == {kind for kind in TREE if issubclass(kind, Unavailable)}


def test_no_error_belongs_to_two_families() -> None:
    families = (InputError, NotFound, Unavailable, Corrupt)
    assert [kind for kind in TREE if sum(issubclass(kind, family) for family in families) > 1] == []
