"""Which Ray a command uses: the one that is asked for, else the one that runs on this machine, else one of its own."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import ray

from gatefold.errors import Unavailable
from pipelines import cluster
from pipelines.cluster import LOCAL, choose, connect


@pytest.fixture(autouse=True)
def not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other tests have left in this process."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def started_at(folder: Path, address: str) -> dict[str, str]:
    """The environment of a machine on which `ray start` noted this address."""
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(f"{address}\n")
    return {"RAY_TMPDIR": str(folder)}


def test_a_cluster_that_runs_on_this_machine_is_joined(tmp_path: Path, listener: int) -> None:
    place = choose(started_at(tmp_path, f"127.0.0.1:{listener}"))
    assert place.address == f"127.0.0.1:{listener}"
    assert "it runs on this machine" in str(place)


def test_the_address_in_the_environment_goes_before_the_cluster_on_this_machine(tmp_path: Path, listener: int) -> None:
    here = started_at(tmp_path, f"127.0.0.1:{listener}")
    assert choose(here | {"RAY_ADDRESS": "10.0.0.1:6379"}).address == "10.0.0.1:6379"
    assert choose(here | {"RAY_ADDRESS": "local"}).address == LOCAL
    assert choose(here | {"RAY_ADDRESS": "auto"}).address == f"127.0.0.1:{listener}"


def test_where_no_cluster_runs_a_command_starts_its_own(tmp_path: Path) -> None:
    for unset in ({}, {"RAY_ADDRESS": ""}):
        place = choose(unset | {"RAY_TMPDIR": str(tmp_path)})
        assert place.address == LOCAL
        assert str(place) == "a Ray of this command's own (no cluster runs on this machine)"


def test_a_cluster_that_is_gone_without_a_stop_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    place = choose(started_at(tmp_path, f"127.0.0.1:{free}"))
    assert place.address == LOCAL
    assert f"127.0.0.1:{free}, does not answer" in str(place)


def test_auto_where_nothing_was_started_joins_no_ray_that_happens_to_run(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no Ray was started on this machine; unset it to"):
        choose({"RAY_ADDRESS": "auto", "RAY_TMPDIR": str(tmp_path)})


def test_a_ray_that_does_not_start_in_its_time_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS may be overloaded")

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "disconnect", lambda **_: None)
    with pytest.raises(Unavailable, match=r"Ray did not start: The current node timed out during startup\.; .* later$"):
        connect()
    cluster._joined.clear()


def test_what_goes_wrong_with_a_cluster_that_is_joined_names_its_address(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("Head node temp_dir not found")

    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener}")
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Unavailable, match=rf"no Ray at '127.0.0.1:{listener}': Head node .* check RAY_ADDRESS"):
        connect()
    cluster._joined.clear()


def test_an_address_that_is_no_name_is_refused_like_one_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray..example.org:6379")
    with pytest.raises(Unavailable, match=r"'ray..example.org' is no host's name"):
        connect()
    cluster._joined.clear()


@contextmanager
def gcs(*, tokens: bool) -> Iterator[str]:
    """The address of what answers as Ray's GCS does, with tokens or without."""

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        if tokens and not dict(context.invocation_metadata()).get("authorization"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    methods = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("tokens", "there", "set_by_operator", "mode"),
    [
        (True, True, None, "token"),
        (True, False, None, None),
        (False, True, None, None),
        (False, False, None, None),
        (False, True, "token", "token"),
        (True, True, "disabled", "disabled"),
    ],
)
def test_a_token_is_used_where_the_cluster_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: bool, there: bool, set_by_operator: str | None,
    mode: str | None,
) -> None:  # fmt: skip
    modes = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    monkeypatch.setattr(os, "environ", environment | {"HOME": str(tmp_path)})
    if there:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    if set_by_operator:
        os.environ["RAY_AUTH_MODE"] = set_by_operator
    monkeypatch.setattr(ray, "init", lambda **_: modes.append(os.environ.get("RAY_AUTH_MODE")))
    with gcs(tokens=tokens) as address:
        os.environ["RAY_ADDRESS"] = address
        connect()
    cluster._joined.clear()
    assert modes == [mode]
