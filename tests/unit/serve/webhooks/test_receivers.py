import asyncio
import ipaddress

import httpcore
import pytest

from serve.webhooks.receivers import (
    CheckedNetwork,
    ReceiverRefused,
    check_receiver,
    is_allowed,
    is_public,
    parse_receiver,
)

PRIVATE = [
    "127.0.0.1", "10.1.1.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.1", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_known(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_known(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/", "must begin with https"),
        ("ftp://example.org/", "must begin with https"),
        ("https://", "must begin with https://"),
        ("https:///hook", "must begin with https://"),
        ("https://" + "a" * 254, "at most 253 characters"),
        ("https://me:hunter2@example.org/", "neither a user name"),
        ("https://example.org/#part", "nor a fragment"),
        ("https://example.org:0/", "port"),
        ("https://example.org:99999/", "port|URL"),
        ("https://[::1/", "is no URL"),
        ("https://a..b/x", "between two dots"),
        ("https://.example.org/x", "between two dots|is no URL"),
        ("https://" + "a" * 64 + ".org/", "longer than 63"),
        ("https://example.org/" + "a" * 2048, "at most 2,048"),
        ("https://2130706433/", "ends in a number"),
        ("https://0x7f000001/", "ends in a number"),
        ("https://127.1/", "ends in a number"),
        ("https://example.0x1./", "ends in a number"),
    ],
)
def test_a_url_that_is_no_receiver_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_receiver(url)
    assert "hunter2" not in str(refused.value)


def test_of_a_receiver_host_and_port_are_shown_and_nothing_else() -> None:
    receiver = parse_receiver("https://Bücher.example:8443/hook/hunter2?token=hunter2")
    assert receiver.name == "xn--bcher-kva.example:8443"
    assert "hunter2" not in repr(receiver)
    assert parse_receiver("https://[2606:4700::1111]/a").name == "[2606:4700::1111]:443"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_refused_at_once_unless_the_operator_allows_it(host: str) -> None:
    receiver = parse_receiver(f"https://{host}/")
    with pytest.raises(ValueError, match="not public"):
        check_receiver(receiver, ["example.org"])
    check_receiver(receiver, [host])
    check_receiver(parse_receiver("https://8.8.8.8/"), [])


@pytest.mark.parametrize("url", ["https://example.org./", "https://8.8.8.8/", "https://[2606:4700::1111]/a"])
def test_addresses_and_whole_names_are_receivers(url: str) -> None:
    check_receiver(parse_receiver(url), [])


def test_names_below_a_name_are_allowed_by_a_star() -> None:
    assert is_allowed("Hooks.Internal.", ["hooks.internal"])
    assert is_allowed("a.b.internal", ["*.internal"])
    assert not is_allowed("internal", ["*.internal"])
    assert not is_allowed("hooks.internal.example.org", ["hooks.internal"])


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["not an address"]])
def test_a_name_that_stands_for_a_private_address_is_not_called(addresses: list[str]) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return addresses

    with pytest.raises(ReceiverRefused) as refused:
        asyncio.run(CheckedNetwork(resolve, ["hooks.test"]).connect_tcp("hooks.example.org", 443))
    assert not any(address in str(refused.value) for address in addresses)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_private_address_in_place_of_a_name_is_not_called(host: str) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        raise AssertionError("an address is not looked up")

    with pytest.raises(ReceiverRefused):
        asyncio.run(CheckedNetwork(resolve, []).connect_tcp(host, 443))


def test_a_name_without_an_address_cannot_be_called() -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return []

    async def unknown(_: str, __: int) -> list[str]:
        raise OSError("no such name")

    async def unwritable(_: str, __: int) -> list[str]:
        raise UnicodeError("label empty or too long")  # as getaddrinfo does

    for one in (resolve, unknown, unwritable):
        with pytest.raises(httpcore.ConnectError, match="name"):
            asyncio.run(CheckedNetwork(one, []).connect_tcp("hooks.example.org", 443))
