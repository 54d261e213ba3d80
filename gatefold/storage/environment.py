"""The storage SDK's environment: what of it an operator sets for a run, and other machines must know too.

A worker on a cluster that already runs has the environment of its node, not that of who starts a run. Credentials are
kept apart from all else, since Ray writes the environment that it is asked to make into its logs.
"""

from collections.abc import Mapping

_OF_THIS_MACHINE = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_",
    "AWS_CA_BUNDLE",
    "AWS_EXECUTION_ENV",
)
"""beginnings of names that speak of files and services of the machine itself"""
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")


def storage_settings(environment: Mapping[str, str], endpoint_url: str | None) -> dict[str, str]:
    """Variables that others must know, credentials apart.

    Args:
        endpoint_url: of an S3 store that is not AWS; it goes before what the environment says.
    """
    found = {
        name: value
        for name, value in environment.items()
        if name.startswith("AWS_") and name not in _CREDENTIALS and not name.startswith(_OF_THIS_MACHINE)
    }
    return found | ({"AWS_ENDPOINT_URL": endpoint_url} if endpoint_url else {})


def storage_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that nobody may log."""
    return {name: environment[name] for name in _CREDENTIALS if environment.get(name)}
