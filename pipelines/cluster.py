"""Connection to Ray: a running cluster, or a local one that ends with this process."""

import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatefold.errors import Unavailable
from gatefold.storage.environment import storage_credentials, storage_settings

_QUIET = {
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # what fails is raised, and reported where it is caught
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Environment that Ray reads when it is imported, unless its logs are wanted; what the operator has set stays."""
_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # reports arrive at this pace, so a short training is not waited for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # a proxy is replaced after three checks failed: 6 s for Ray's 30
    "RAY_worker_niceness": "0",  # nice workers wait for Ray's own processes, and are spread over the cores unevenly
}
"""Environment that Ray reads when it is imported; what the operator has set stays."""
_IN_THIS_PROCESS = {
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it takes SIGTERM for a crash
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # of a Ray that is stopped while it starts
}
"""Environment for the import of Ray in this process alone; workers, which inherit the environment, keep theirs."""
_KNOCK_S = 10.0
LOCAL = "local"
"""address of a Ray that starts and ends with this process"""
_joined = threading.Event()
"""whether this process is connected because it called `connect`, and not its host"""


@dataclass(frozen=True)
class Place:
    """Which Ray is used.

    Args:
        address: of a cluster, as Ray takes it; "local" for one that this process starts and ends.
        why: this one, in words.
    """

    address: str
    why: str

    def __str__(self) -> str:
        if self.address == LOCAL:
            return f"a Ray of this command's own ({self.why})"
        return f"the Ray cluster at {self.address} ({self.why})"


def choose(environment: Mapping[str, str]) -> Place:
    """The cluster at RAY_ADDRESS, else the one that was started on this machine and answers, else a local Ray.

    Ray's own search is not used: in the list of processes it finds the Rays of other commands, which end with these.

    Raises: Unavailable where RAY_ADDRESS is "auto" and no cluster was started on this machine.
    """
    wanted = environment.get("RAY_ADDRESS", "")
    if wanted == LOCAL:
        return Place(LOCAL, "RAY_ADDRESS is 'local'")
    if wanted not in ("", "auto"):
        return Place(wanted, "RAY_ADDRESS")
    noted = ray_folder(environment) / "ray" / "ray_current_cluster"  # `ray start` writes it, `ray stop` removes it
    there = noted.read_text().strip() if noted.exists() else ""
    if wanted == "auto":
        if not there:
            raise Unavailable("RAY_ADDRESS is 'auto', and no Ray was started on this machine; unset it to start one")
        return Place(there, "RAY_ADDRESS is 'auto'")
    if not there:
        return Place(LOCAL, "no cluster runs on this machine")
    try:
        check_reachable(there)
    except OSError:
        return Place(LOCAL, f"the cluster that was started on this machine, {there}, does not answer")
    return Place(there, "it runs on this machine; RAY_ADDRESS=local starts another")


def ray_folder(environment: Mapping[str, str]) -> Path:
    """Where Ray keeps its temporary files."""
    return Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp")


def connect(endpoint_url: str | None = None, *, verbose: bool = False) -> Place | None:
    """Joins a Ray cluster, or starts a local Ray; nothing where this process is connected already.

    Args:
        endpoint_url: the S3 endpoint, which workers must know too.
        verbose: Ray logs as it does by itself, and shows what its workers print.

    Returns: which Ray it is; None where this process was connected.
    Raises: Unavailable when there is no Ray at RAY_ADDRESS.
    """
    place = choose(os.environ)
    for name, value in (_ENVIRONMENT if verbose else _ENVIRONMENT | _QUIET).items():
        os.environ.setdefault(name, value)
    if place.address != LOCAL and "RAY_AUTH_MODE" not in os.environ and _needs_token(place.address, os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported
    with _set_for_a_while(_IN_THIS_PROCESS):
        import ray  # here, because it reads that environment

    if ray.is_initialized():
        return None
    address = place.address
    _joined.set()  # a Ray that is stopped while it starts is ended too
    try:
        check_reachable(address)
        with nullcontext() if verbose else silence_ray_stderr(), _sigterm_kept():
            ray.init(
                address=address,
                runtime_env=_runtime_env(address, endpoint_url),
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
            )
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, OSError | RuntimeError):
            raise
        if address == LOCAL and type(error) is Exception:  # Ray's own, of processes that did not start in their time
            said = str(error).partition("\n")[0]
            raise Unavailable(f"Ray did not start: {said}; where this machine is busy, try again later") from error
        raise Unavailable(
            f"no Ray at '{address}': {error}; check RAY_ADDRESS, or unset it to start Ray here "
            "(a cluster with tokens needs RAY_AUTH_MODE=token)"
        ) from error
    for name in () if verbose else ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return place


def _needs_token(address: str, environment: Mapping[str, str]) -> bool:
    """Whether a token is at hand, and this cluster refuses a call without one. In a cluster without tokens none may be
    used: this process would refuse the calls of workers, which have none.

    True also where it cannot be asked so: by TLS, through Ray Client, or where nobody answers.
    """
    named = environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH")
    if not named and not (Path.home() / ".ray" / "auth_token").is_file():
        return False
    if "://" in address:
        return True
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=_KNOCK_S)
        except grpc.RpcError:
            return True
    return False


def _runtime_env(address: str, endpoint_url: str | None) -> dict[str, Any] | None:
    """What workers get of this process's way to storage. Those of a local Ray have its environment anyway, those of a
    cluster that already runs have none of it.

    Credentials go by a function that Ray passes on unread: `env_vars` are in its logs.
    """
    ours = {} if address == LOCAL else os.environ
    settings, credentials = storage_settings(ours, endpoint_url), storage_credentials(ours)
    environment: dict[str, Any] = {"env_vars": settings} if settings else {}
    if credentials:
        environment["worker_process_setup_hook"] = _setting(credentials)
    return environment or None


def _setting(variables: dict[str, str]) -> Callable[[], None]:
    def set_variables() -> None:
        import os

        os.environ.update(variables)

    return set_variables


def check_reachable(address: str) -> None:
    """Raises: OSError where nobody listens, which Ray itself takes minutes to say."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        except UnicodeError as error:
            raise OSError(f"'{host}' is no host's name ({error})") from error


def disconnect(*, verbose: bool = False) -> None:
    """Leaves the cluster that `connect` has joined; a local Ray ends.

    Args:
        verbose: what it says meanwhile is shown.
    """
    if _joined.is_set():
        _joined.clear()
        import ray

        if verbose:
            ray.shutdown()
            return
        # what the raylet says of workers that end with it is printed on stdout by a thread
        with silence_ray_stderr(), redirect_stdout(io.StringIO()):
            ray.shutdown()


@contextmanager
def _set_for_a_while(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """The handler of SIGTERM that this process has, if it has one, which Ray replaces by one of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def silence_ray_stderr() -> Iterator[None]:
    """Drops what Ray's compiled core writes to stderr (that it was set to be quiet); Python's stderr goes on."""
    python_stderr = sys.stderr
    try:
        descriptor = python_stderr.fileno()
    except OSError:  # captured: nothing the core writes is seen there
        yield
        return
    python_stderr.flush()
    with os.fdopen(os.dup(descriptor), "w", buffering=1) as sys.stderr, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(sys.stderr.fileno(), descriptor)
            sys.stderr = python_stderr
