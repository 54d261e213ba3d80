from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from gatefold.errors import InvalidSettings, Unavailable
from gatefold.workspace import Workspace
from serve.deploy import deploy, load_config, unknown_keys
from tests.factories import publish_small_release

HOUSE = Path(__file__).parents[3] / "infra" / "serve.yaml"


def test_the_file_we_ship_is_understood_by_ray_whole() -> None:
    config = load_config(HOUSE)
    assert [one["import_path"] for one in config["applications"]] == ["serve.app:build", "serve.app:build_release"]


def test_the_file_we_ship_fits_on_two_cores_twice() -> None:
    api, release = (application["deployments"] for application in load_config(HOUSE)["applications"])
    needed, each = (sum(d["ray_actor_options"]["num_cpus"] for d in deployments) for deployments in (api, release))
    assert needed + 2 * each <= 2  # two releases run side by side while one takes over


def test_the_ingress_has_one_replica_as_its_jobs_live_in_memory() -> None:
    deployments = {d["name"]: d for d in load_config(HOUSE)["applications"][0]["deployments"]}
    assert deployments["Api"]["num_replicas"] == 1
    assert "autoscaling_config" not in deployments["Api"]


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


def test_a_file_that_is_absent_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_a_proxy_too_slow_to_start_is_told_in_our_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise TimeoutError("HTTP proxies not available after 60s.")

    monkeypatch.setattr("ray.serve.start", start)
    monkeypatch.setattr("serve.deploy._get_global_client", lambda **_: None)
    publish_small_release(Workspace(tmp_path.as_uri()), 3)
    with pytest.raises(Unavailable, match=r"does not listen on 127\.0\.0\.1:0 yet: HTTP proxies not available"):
        deploy(HOUSE, workspace=str(tmp_path), examples=None, host="127.0.0.1", port=0)
