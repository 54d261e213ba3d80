import pytest

from gatefold.errors import InvalidSettings
from serve.webhooks.sender import WebhookTrust, secrets_of, trust_context
from tests.receiver import OTHER_SECRET, SECRET, authority


def test_secrets_are_separated_by_white_space_and_may_be_absent() -> None:
    assert secrets_of({"GATEFOLD_WEBHOOK_SECRET": f" {SECRET}\n{OTHER_SECRET} "}) == (SECRET, OTHER_SECRET)
    assert secrets_of({}) == secrets_of({"GATEFOLD_WEBHOOK_SECRET": " "}) == ()


WRONG = ["hunter2", "whsec_aHVudGVyMg==", "whsec_hunter2", f"{SECRET}hunter2", "whsec_" + "A" * 96]


@pytest.mark.parametrize("secret", WRONG)
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidSettings, match="secret 2 of 2 must be 'whsec_'") as refused:
        secrets_of({"GATEFOLD_WEBHOOK_SECRET": f"{SECRET} {secret}"})
    assert "hunter2" not in refused.value.message
    assert secret not in refused.value.message


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(WebhookTrust((SECRET,)))


def test_authorities_are_certificates_in_pem() -> None:
    with_ours, public = (trust_context(one).cert_store_stats()["x509_ca"] for one in (authority()[0], None))
    assert with_ours == public + 1
    for wrong in ("", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(InvalidSettings, match="no certificates in PEM"):
            trust_context(wrong)
