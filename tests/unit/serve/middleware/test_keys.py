import hashlib

import pytest

from gatefold.errors import InvalidSettings, Unauthorized
from serve.middleware.keys import Keys, refuse_open_host


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_without_keys_the_endpoint_is_open() -> None:
    for environment in ({}, {"GATEFOLD_API_KEYS": ""}, {"GATEFOLD_API_KEYS": " , "}):
        keys = Keys.from_environment(environment)
        assert not keys.required
        assert keys.caller(None) == "anyone"


def test_any_of_the_keys_lets_in_and_names_its_caller() -> None:
    keys = Keys.from_environment({"GATEFOLD_API_KEYS": f"{hashed('one')}, {hashed('two').upper()}"})
    assert keys.required
    assert keys.caller("one") != keys.caller("two")


@pytest.mark.parametrize("shown", [None, "", "three", hashed("one")])
def test_no_key_a_wrong_key_and_a_hash_are_turned_away(shown: str | None) -> None:
    keys = Keys.from_environment({"GATEFOLD_API_KEYS": hashed("one")})
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY"):
        keys.caller(shown)


def test_a_key_that_was_not_hashed_is_refused_without_being_repeated() -> None:
    with pytest.raises(InvalidSettings, match=r"entry 2 has 6 characters and is no SHA-256") as refused:
        Keys.from_environment({"GATEFOLD_API_KEYS": f"{hashed('one')},secret"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "box.example"])
def test_a_host_that_others_reach_needs_keys_or_the_word_open(host: str) -> None:
    keyless, keys = Keys(frozenset()), Keys(frozenset({hashed("one")}))
    with pytest.raises(InvalidSettings, match=r"GATEFOLD_API_KEYS.*--open"):
        refuse_open_host(host, keyless, is_open=False)
    refuse_open_host(host, keyless, is_open=True)
    refuse_open_host(host, keys, is_open=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_keys(host: str) -> None:
    without = Keys(frozenset())
    refuse_open_host(host, without, is_open=False)
    with pytest.raises(InvalidSettings):  # the same keys anywhere else
        refuse_open_host("0.0.0.0", without, is_open=False)
