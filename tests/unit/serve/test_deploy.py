import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from gatefold.config import ServeSettings, Settings
from gatefold.errors import GatefoldError, InvalidSettings, Unavailable
from gatefold.serve_settings import WebhookSettings
from gatefold.workspace import Workspace
from serve.access.keys import KeyStore
from serve.app import ApiArgs
from serve.deploy import deploy, load_config, unknown_keys, webhook_args
from serve.jobs.database import with_database
from tests.factories import publish_small_release
from tests.receiver import OTHER_SECRET, SECRET, authority
from tests.served import free_port

PACKAGED = Path(__file__).parents[3] / "serve" / "serve.yaml"


def test_the_file_we_ship_is_understood_by_ray_whole() -> None:
    config = load_config(PACKAGED)
    assert [one["import_path"] for one in config["applications"]] == ["serve.app:build", "serve.app:build_release"]


def test_the_file_we_ship_fits_on_two_cores_twice() -> None:
    api, release = (application["deployments"] for application in load_config(PACKAGED)["applications"])
    needed, each = (sum(d["ray_actor_options"]["num_cpus"] for d in deployments) for deployments in (api, release))
    assert needed + 2 * each <= 2  # two releases run side by side while one takes over


def test_the_api_and_what_runs_its_jobs_follow_the_active_release() -> None:
    deployments = {d["name"]: d for d in load_config(PACKAGED)["applications"][0]["deployments"]}
    assert set(deployments) == {"Api", "Runner"}
    assert deployments["Api"]["user_config"] == deployments["Runner"]["user_config"]


def test_keys_that_ray_would_ignore_are_found_however_deep() -> None:
    config = {
        "http_option": {},
        "http_options": {"prot": 1},
        "applications": [
            {
                "import_path": "a:b",
                "args": {"anything": 1},
                "deployments": [
                    {
                        "name": "D",
                        "user_confg": {},
                        "user_config": {"anything": 1},
                        "ray_actor_options": {"num_cpu": 1},
                        "autoscaling_config": {"min_replica": 1},
                        "logging_config": {"log_lvl": "INFO"},
                    }
                ],
            }
        ],
    }
    place = "applications[0].deployments[0]"
    assert unknown_keys(ServeDeploySchema, config) == [
        "http_option",
        "http_options.prot",
        f"{place}.user_confg",
        f"{place}.ray_actor_options.num_cpu",
        f"{place}.autoscaling_config.min_replica",
        f"{place}.logging_config.log_lvl",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("applications: [{import_path: 'a:b', deploymnts: []}, {}]", r"does not know: applications\[0\].deploymnts"),
        ("applications: []", "must hold two applications"),
        ("nothing", "must hold two applications"),
        ("applications: [", "cannot be read"),
        ("applications: [{import_path: nonsense}, {name: b, import_path: 'a:c'}]", "import_path"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=said):
        load_config(path)


@pytest.mark.parametrize("missing", ["Api", "Runner"])
def test_a_file_without_what_follows_the_release_is_refused(tmp_path: Path, missing: str) -> None:
    config = yaml.safe_load(PACKAGED.read_text())
    deployments = config["applications"][0]["deployments"]
    config["applications"][0]["deployments"] = [one for one in deployments if one["name"] != missing]
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(InvalidSettings, match=f"no deployment '{missing}' with user_config"):
        load_config(path)


def test_a_file_that_is_absent_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_a_proxy_too_slow_to_start_is_reported_in_our_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise TimeoutError("HTTP proxies not available after 60s.")

    monkeypatch.setattr("ray.serve.start", start)
    monkeypatch.setattr("serve.deploy.listening_at", lambda: None)
    publish_small_release(Workspace(tmp_path.as_uri()), 3)
    with pytest.raises(Unavailable, match=r"does not listen on 127\.0\.0\.1:0 yet: HTTP proxies not available"):
        deploy(PACKAGED, workspace=str(tmp_path), examples=None, host="127.0.0.1", port=0)


class _EnoughError(Exception):
    """Nothing more is deployed in a test."""


def deployed(monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """The applications that would be deployed to Ray Serve."""
    found: list[dict[str, Any]] = []

    def start(schema: ServeDeploySchema) -> None:
        logging = schema.logging_config
        found.extend(
            {"args": one.args, "runtime_env": one.runtime_env, "logging": logging} for one in schema.applications
        )
        raise _EnoughError

    monkeypatch.setattr("serve.deploy._start", start)
    publish_small_release(Workspace(folder.as_uri()), 3)
    with pytest.raises(_EnoughError):
        deploy(PACKAGED, workspace=str(folder), examples=None, port=0, **options)
    return found


def test_keys_and_the_way_to_storage_go_with_the_deployment_and_credentials_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEFOLD_API_KEYS", "A" * 64)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    api, release = deployed(monkeypatch, tmp_path, host="0.0.0.0")
    assert list(api["args"]["api_key_hashes"]) == ["a" * 64]
    for application in (api, release):
        assert application["runtime_env"]["env_vars"]["AWS_REGION"] == "eu-west-1"
    assert "secret" not in str([api, release])


def test_where_spans_go_is_said_by_our_environment_and_goes_with_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert {one["args"]["traces"] for one in deployed(monkeypatch, tmp_path / "w", host="127.0.0.1")} == {None}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=t")
    settings = Settings(serve=ServeSettings(traces_share=0.1))
    expected = {
        "endpoint": "http://collector:4318", "headers": {"x-token": "t"}, "service": "gatefold", "share": 0.1
    }  # fmt: skip
    for application in deployed(monkeypatch, tmp_path / "v", host="127.0.0.1", settings=settings):
        assert application["args"]["traces"] == expected
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    with pytest.raises(InvalidSettings, match="must be the URL of a collector"):
        deploy(PACKAGED, workspace=str(tmp_path / "v"), examples=None, host="127.0.0.1", port=0)


@pytest.mark.parametrize(("log_format", "encoding"), [("json", "JSON"), ("text", None)])
def test_logs_are_json_where_the_settings_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: str, encoding: str | None
) -> None:
    settings = Settings.model_validate({"serve": {"log_format": log_format}})
    api, _ = deployed(monkeypatch, tmp_path, host="127.0.0.1", settings=settings)
    assert (api["logging"] and api["logging"].encoding) == encoding


def test_a_host_that_others_reach_is_refused_without_keys_unless_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEFOLD_API_KEYS", raising=False)
    with pytest.raises(InvalidSettings, match=r"host '0\.0\.0\.0' can be reached.*--open"):
        deploy(PACKAGED, workspace=str(tmp_path), examples=None, host="0.0.0.0", port=0)
    api, _ = deployed(monkeypatch, tmp_path, host="0.0.0.0", is_open=True)
    assert list(api["args"]["api_key_hashes"]) == []


def test_keys_in_the_database_let_the_endpoint_listen_where_others_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEFOLD_API_KEYS", raising=False)
    url = f"sqlite:///{tmp_path}/keys.sqlite"
    monkeypatch.setenv("GATEFOLD_DATABASE_URL", url)
    asyncio.run(with_database(url, lambda found: KeyStore(found).create("Acme", ["search"])))
    api, _ = deployed(monkeypatch, tmp_path, host="0.0.0.0")
    assert api["args"]["database_url"] == url


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"args": {"limits": {"jobs_kept": 5}}}, "serve.jobs_kept is serve.results_kept_s now"),
        ({"args": {"limits": {"look_every_s": 5}}}, "serve.look_every_s is serve.poll_interval_s now"),
        (
            {"deployments": [{"name": "Api", "user_config": {"searches": {"together": 32}}}]},
            "user_config.searches.together is user_config.searches.max_batch_size now",
        ),
    ],
)
def test_an_old_name_of_a_setting_in_the_file_is_answered_with_the_new_one(
    tmp_path: Path, place: dict[str, Any], said: str
) -> None:
    api = {"name": "gatefold", "import_path": "serve.app:build"} | place
    release = {"name": "release", "import_path": "serve.app:build_release"}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({"applications": [api, release]}))
    with pytest.raises(InvalidSettings, match=said):
        load_config(path)


def test_the_database_goes_with_the_deployment_the_environments_before_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEFOLD_DATABASE_URL", raising=False)
    settings = Settings(serve=ServeSettings(database_url=f"sqlite:///{tmp_path}/a.sqlite"))
    api, release = deployed(monkeypatch, tmp_path / "w", host="127.0.0.1", settings=settings)
    assert api["args"]["database_url"] == f"sqlite:///{tmp_path}/a.sqlite"
    assert "a.sqlite" not in str(release)
    assert (tmp_path / "a.sqlite").exists()
    monkeypatch.setenv("GATEFOLD_DATABASE_URL", f"sqlite:///{tmp_path}/b.sqlite")
    api, _ = deployed(monkeypatch, tmp_path / "v", host="127.0.0.1", settings=settings)
    assert api["args"]["database_url"] == f"sqlite:///{tmp_path}/b.sqlite"
    assert "database_url" not in api["args"]["limits"]


def test_a_database_that_cannot_be_used_is_refused_before_anything_starts_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish_small_release(Workspace(tmp_path.as_uri()), 3)
    refused: list[str] = []
    for url in (f"postgresql://me:hunter2@127.0.0.1:{free_port()}/jobs", "mysql://me:hunter2@host/jobs"):
        monkeypatch.setenv("GATEFOLD_DATABASE_URL", url)
        with pytest.raises(GatefoldError) as error:
            deploy(PACKAGED, workspace=str(tmp_path), examples=None, host="127.0.0.1", port=0)
        refused.append(f"{error.value.code} {error.value.message} {error.value!r}")
    assert [one.split()[0] for one in refused] == ["database_unavailable", "invalid_settings"]
    assert "hunter2" not in "".join(refused) + caplog.text


def test_a_database_in_the_limits_of_the_file_is_refused_as_it_would_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    config = yaml.safe_load(PACKAGED.read_text())
    config["applications"][0]["args"]["limits"]["database_url"] = "postgresql://me:hunter2@host/jobs"
    path.write_text(yaml.safe_dump(config))
    publish_small_release(Workspace(tmp_path.as_uri()), 3)
    with pytest.raises(InvalidSettings, match=r"limits\.database_url must be args\.database_url") as refused:
        deploy(path, workspace=str(tmp_path), examples=None, host="127.0.0.1", port=0)
    assert "hunter2" not in refused.value.message


def test_a_database_is_not_shown_with_the_settings() -> None:
    settings = Settings(serve=ServeSettings(database_url="postgresql://me:hunter2@host/jobs"))
    arguments = ApiArgs(workspace="w", database_url="postgresql://me:hunter2@host/jobs")
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()} {arguments!r} {arguments}"


def test_the_secret_of_webhooks_goes_with_the_deployment_and_apart_from_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "authority.pem"
    pem.write_text(authority()[0])
    settings = Settings(serve=ServeSettings(webhooks=WebhookSettings(authorities=str(pem))))
    monkeypatch.delenv("GATEFOLD_WEBHOOK_SECRET", raising=False)
    api, _ = deployed(monkeypatch, tmp_path / "w", host="127.0.0.1", settings=settings)
    assert api["args"]["webhooks"] is None
    monkeypatch.setenv("GATEFOLD_WEBHOOK_SECRET", f"{SECRET} {OTHER_SECRET}")
    api, release = deployed(monkeypatch, tmp_path / "v", host="127.0.0.1", settings=settings)
    assert api["args"]["webhooks"] == {"secrets": (SECRET, OTHER_SECRET), "authorities": authority()[0]}
    assert SECRET not in f"{release} {api['args']['limits']}"
    assert SECRET not in repr(ApiArgs.model_validate(api["args"]))


def test_what_webhooks_cannot_be_signed_or_trusted_by_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(serve=ServeSettings(webhooks=WebhookSettings(authorities=str(tmp_path / "absent.pem"))))
    monkeypatch.setenv("GATEFOLD_WEBHOOK_SECRET", SECRET)
    with pytest.raises(InvalidSettings, match=r"serve\.webhooks\.authorities = .*absent\.pem' cannot be read"):
        webhook_args(settings)
    monkeypatch.setenv("GATEFOLD_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(InvalidSettings, match="GATEFOLD_WEBHOOK_SECRET: secret 1 of 1"):
        webhook_args(settings)
