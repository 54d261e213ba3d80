from gatefold.storage.environment import storage_credentials, storage_settings

OPERATOR = {
    "AWS_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "http://store:9000",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "",
    "AWS_PROFILE": "mine",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.2",
    "HOME": "/home/me",
}


def test_others_learn_where_the_store_is_but_neither_credentials_nor_what_is_of_this_machine() -> None:
    assert storage_settings(OPERATOR, None) == {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://store:9000"}


def test_an_endpoint_among_the_settings_goes_before_the_environments() -> None:
    assert storage_settings(OPERATOR, "http://other")["AWS_ENDPOINT_URL"] == "http://other"
    assert storage_settings({}, None) == {}


def test_credentials_are_those_that_are_set() -> None:
    assert storage_credentials(OPERATOR) == {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
