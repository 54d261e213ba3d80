"""The private functions of Ray Serve that the endpoint needs, in one place: a new Ray is tried on this file.

The public ways do less. `serve.run` gives every deployment a new version, so that its replicas start anew where only
`user_config` has changed, which is how one release takes over from another; the documented way for such changes is a
PUT to Ray's dashboard, which a Ray that a command starts for itself does not have. For these functions `pyproject.toml`
bounds the version of Ray.
"""

from typing import Any

from ray.serve.context import _get_global_client, _set_request_context
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema


def listening_at() -> tuple[str, int] | None:
    """Host and port of the Serve that runs in this Ray; None where none runs."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (client.http_config.host, client.http_config.port)


def deploy_applications(schema: ServeDeploySchema) -> None:
    """Makes Serve run these applications and no others; what changes in `user_config` alone restarts nothing."""
    _get_global_client().deploy_apps(schema)


def described_applications() -> dict[str, dict[str, Any]]:
    """The applications that run, by name: `status`, and `deployed_app_config` as they were deployed."""
    applications: dict[str, dict[str, Any]] = _get_global_client().get_serve_details()["applications"]
    return applications


def initialise(handle: DeploymentHandle) -> None:
    """Prepares a handle for a driver, which has no event loop, whatever its environment says of replicas."""
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)


def use_request_id(request_id: str) -> None:
    """What this task logs, and what the deployments that it calls log, has this request's id, as if it handled it."""
    _set_request_context(request_id=request_id)
