"""Where the operator's certificate and key come from, and every way in which they can be wrong."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gatefold.config import load
from gatefold.errors import InvalidSettings
from gatefold.export.credentials import Signer, load_signer, verify
from gatefold.generator_settings import ExportSettings


@pytest.fixture
def files(tmp_path: Path, signer: Signer) -> tuple[str, str]:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_text(signer.certificate_chain)
    key.write_text(signer.private_key)
    return str(chain), str(key)


def test_certificate_and_key_are_read_from_files(files: tuple[str, str], signer: Signer) -> None:
    assert load_signer(ExportSettings(certificate_chain=files[0], private_key=files[1]), {}) == signer


def test_certificate_and_key_are_read_from_the_environment_that_is_handed_over(signer: Signer) -> None:
    settings = ExportSettings(certificate_chain="env:CHAIN", private_key="env:KEY")
    assert load_signer(settings, {"CHAIN": signer.certificate_chain, "KEY": signer.private_key}) == signer
    with pytest.raises(InvalidSettings, match=r"export\.certificate_chain = 'env:CHAIN' holds no PEM"):
        load_signer(settings, {})


def test_without_a_certificate_there_is_no_signer() -> None:
    assert load_signer(ExportSettings(), {}) is None


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="go together"):
        load(None, ["export.certificate_chain=/tmp/chain.pem"])


def test_a_file_that_is_not_there_is_named(files: tuple[str, str]) -> None:
    with pytest.raises(InvalidSettings, match=r"export\.private_key = '/nowhere/key\.pem' cannot be read"):
        load_signer(ExportSettings(certificate_chain=files[0], private_key="/nowhere/key.pem"), {})


def test_files_that_are_mixed_up_are_named(files: tuple[str, str]) -> None:
    with pytest.raises(InvalidSettings, match=r"export\.certificate_chain.*BEGIN CERTIFICATE"):
        load_signer(ExportSettings(certificate_chain=files[1], private_key=files[0]), {})


def test_a_key_of_another_kind_than_the_algorithm_is_refused_when_it_is_loaded(files: tuple[str, str]) -> None:
    settings = ExportSettings(certificate_chain=files[0], private_key=files[1], signing_algorithm="ps256")
    with pytest.raises(InvalidSettings, match=r"cannot sign as ps256 \(export\.signing_algorithm\)"):
        load_signer(settings, {})


def test_the_key_of_another_certificate_is_refused_when_it_is_loaded(files: tuple[str, str]) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings = ExportSettings(certificate_chain=files[0], private_key="env:KEY")
    with pytest.raises(InvalidSettings, match=r"export\.certificate_chain"):
        load_signer(settings, {"KEY": other.decode()})


def test_the_private_key_is_in_no_representation(signer: Signer) -> None:
    assert "PRIVATE KEY" not in repr(signer)


def test_a_file_without_credentials_has_none_that_hold() -> None:
    assert not verify(b"no picture", "jpeg").holds
