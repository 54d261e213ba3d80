import hashlib

import pytest

from gatefold.errors import InvalidSettings
from serve.middleware.keys import Keys, refuse_open_host


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_an_environment_without_the_variable_has_no_keys() -> None:
    for environment in ({}, {"GATEFOLD_API_KEYS": ""}, {"GATEFOLD_API_KEYS": " , "}):
        assert not Keys.from_environment(environment).required


def test_the_keys_of_an_environment_are_known_by_their_digests() -> None:
    keys = Keys.from_environment({"GATEFOLD_API_KEYS": f"{hashed('one')}, {hashed('two').upper()}"})
    assert keys.required
    assert [keys.has(hashed(key)) for key in ("one", "two", "three", "")] == [True, True, False, False]


def test_a_key_that_was_not_hashed_is_refused_without_being_repeated() -> None:
    with pytest.raises(InvalidSettings, match=r"entry 2 has 6 characters and is no SHA-256") as refused:
        Keys.from_environment({"GATEFOLD_API_KEYS": f"{hashed('one')},secret"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "box.example"])
def test_a_host_that_others_reach_needs_keys_or_the_word_open(host: str) -> None:
    with pytest.raises(InvalidSettings, match=r"gatefold keys create.*GATEFOLD_API_KEYS.*--open"):
        refuse_open_host(host, has_keys=False, is_open=False)
    refuse_open_host(host, has_keys=False, is_open=True)
    refuse_open_host(host, has_keys=True, is_open=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_keys(host: str) -> None:
    refuse_open_host(host, has_keys=False, is_open=False)
    with pytest.raises(InvalidSettings):  # the same anywhere else
        refuse_open_host("0.0.0.0", has_keys=False, is_open=False)
