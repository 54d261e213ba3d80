"""Deployment of serve/serve.yaml: check the file, fill in what the command line knows, deploy, wait until it answers.

Does what `serve run CONFIG` does, and what it leaves out: a key that nobody knows is refused (Ray would ignore it), a
port that is taken is named before anything starts, and the call returns only when requests are answered. What is served
later on is up to the endpoint (serve.endpoint).
"""

import asyncio
import os
import socket
import time
import types
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray import serve
from ray.serve.schema import ServeDeploySchema

from gatefold.config import Settings
from gatefold.errors import InvalidSettings, Unavailable
from gatefold.export.credentials import load_signer
from gatefold.renamed_settings import refuse_renamed
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.storage.environment import storage_settings
from gatefold.workspace import Workspace
from serve.access.keys import KeyStore
from serve.app import ApiArgs, ReleaseArgs
from serve.endpoint import ANSWER_WITHIN_S, FOLLOWING, Endpoint
from serve.jobs.database import Database, configured_url, database_url, with_database
from serve.middleware.hosts import ANY_ADDRESS, names_of
from serve.middleware.keys import Keys, is_loopback, refuse_open_host
from serve.observability.logs import JSON_ENCODING
from serve.observability.tracing import TraceArgs, trace_args
from serve.ray_private import listening_at
from serve.webhooks.sender import secrets_of, trust_context

_POLL_S = 0.3


def deploy(
    config_path: str | Path,
    *,
    workspace: str,
    examples: str | None,
    host: str,
    port: int,
    settings: Settings | None = None,
    is_open: bool = False,
) -> Endpoint:
    """The endpoint, which answers by now; deployed to the Ray this process is connected to.

    Args:
        workspace: its current release is served, unless the file names another under `args: release`.
        examples: folder of songs to try, with an ATTRIBUTION.csv.
        settings: limits of the endpoint and of new covers; None leaves them to the file.
        is_open: whether an endpoint without API keys may listen where other machines reach it.

    Raises: InvalidSettings for wrong keys in the file, a port that is taken, or a host that is open to others without
        that being meant; BundleNotFound without a release; SchemaMismatch for a database of a newer gatefold;
        Unavailable where that, or a deployment, does not start.
    """
    api, release = (config := load_config(Path(config_path)))["applications"]
    given: dict[str, Any] = {"workspace": objects.resolve(workspace), "traces": _traces(settings)}
    of_release: dict[str, Any] = {}
    if settings is not None:
        limits = settings.serve.model_dump(exclude={"database_url"})  # which is a secret, and handed over by itself
        given |= {"limits": limits, "endpoint_url": settings.endpoint_url}
        of_release = {"originality": settings.originality.model_dump(), "cache_bytes": settings.generator.cache_bytes}
    release["args"] = _arguments(ReleaseArgs, release, given | of_release)
    songs = None if examples is None else str(Path(examples).resolve())
    keys = Keys.from_environment(os.environ)  # ours: that of a replica may be the environment of a cluster
    of_api = {"examples": songs, "api_key_hashes": keys.hashes if keys.required else None, **export_args(settings)}
    named = settings.serve.database_url if settings else None
    of_api |= {"database_url": configured_url(named, os.environ), "webhooks": webhook_args(settings)}
    api["args"] = _arguments(ApiArgs, api, given | of_api)
    api["args"]["limits"]["hosts"] += names_of(host)
    refuse_open_host(host, has_keys=is_loopback(host) or _has_keys(api["args"]), is_open=is_open)
    for application in (api, release):
        _set_environment(application, settings.endpoint_url if settings else None)
    _set_options(config, host, port, settings)
    served = Workspace(release["args"]["workspace"])
    if (pinned := release["args"]["release"]) is None:
        releases.current(served)  # where there is none, it says so before anything starts
    _prepare_database(api["args"])
    _start(_validated(config, config_path))
    endpoint = Endpoint(config, served, pinned, _url(host, port))
    endpoint.start()
    _wait_until_answering(endpoint.url)
    return endpoint


def _url(host: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    name = "127.0.0.1" if host in ANY_ADDRESS else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _has_keys(arguments: dict[str, Any]) -> bool:
    """Whether callers of this API must show a key. Raises: DatabaseUnavailable."""
    if arguments["api_key_hashes"]:
        return True
    found = asyncio.run(with_database(_url_of(arguments), lambda database: KeyStore(database).read_all()))
    return bool(found)


def _prepare_database(arguments: dict[str, Any]) -> None:
    """Brings the schema up to date before anything starts, so that what is wrong is said here."""

    async def nothing(_: Database) -> None:
        pass

    asyncio.run(with_database(_url_of(arguments), nothing))


def _url_of(arguments: dict[str, Any]) -> str:
    return database_url(arguments["workspace"], arguments["database_url"])


def _set_environment(application: dict[str, Any], endpoint_url: str | None) -> None:
    """What its replicas need to reach storage, since on a cluster they have none of our environment."""
    if found := storage_settings(os.environ, endpoint_url):
        runtime_env = application.setdefault("runtime_env", {})
        runtime_env["env_vars"] = (runtime_env.get("env_vars") or {}) | found


def _traces(settings: Settings | None) -> TraceArgs | None:
    """Where spans go, as our environment says: that of a replica decides nothing."""
    return trace_args(os.environ, (settings or Settings()).serve.traces_share)


def _set_options(config: dict[str, Any], host: str, port: int, settings: Settings | None) -> None:
    """Where it listens; and logs as JSON, where the settings want that and the file does not say something else."""
    config.setdefault("http_options", {}).update(host=host, port=port)
    if settings is not None and settings.serve.log_format == "json":
        config["logging_config"] = {"encoding": JSON_ENCODING} | (config.get("logging_config") or {})


def export_args(settings: Settings | None) -> dict[str, Any]:
    """Credit and certificate of exported covers, read here: a replica may see other files and another environment."""
    if settings is None:
        return {}
    signer = load_signer(settings.export, os.environ)
    return {"credit": settings.export.credit, "signer": None if signer is None else asdict(signer)}


def webhook_args(settings: Settings | None) -> dict[str, Any] | None:
    """What webhooks are signed with, and whom they trust, read here as the certificate of covers is; None without a
    secret. Raises: InvalidSettings."""
    secrets = secrets_of(os.environ)
    if not secrets:
        return None
    path = settings.serve.webhooks.authorities if settings else None
    try:
        authorities = None if path is None else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"serve.webhooks.authorities = '{path}' cannot be read: {error}") from error
    trust_context(authorities)  # what is wrong with them is said before anything starts
    return {"secrets": secrets, "authorities": authorities}


def stop() -> None:
    """Ends the endpoint; Ray goes on."""
    serve.shutdown()


def load_config(path: Path) -> dict[str, Any]:
    """The file, every key of which is known to Ray Serve. Raises: InvalidSettings."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSettings(f"'{path}' cannot be read: {error}") from error
    if not isinstance(config, dict) or len(config.get("applications") or []) != 2:
        raise InvalidSettings(f"'{path}' must hold two applications, the API and a release, as serve/serve.yaml does")
    unknown = unknown_keys(ServeDeploySchema, config)
    if unknown:
        raise InvalidSettings(f"'{path}' has keys that Ray Serve does not know: {', '.join(unknown)}; check them")
    for application in config["applications"]:
        refuse_renamed({"serve": (application.get("args") or {}).get("limits")})
        for deployment in application.get("deployments") or []:
            refuse_renamed(deployment)
    _validated(config, path)
    _check_following(config, path)
    return config


def _check_following(config: dict[str, Any], path: Path) -> None:
    """Raises: InvalidSettings where a deployment that follows the active release has no name of it."""
    listed = {one["name"]: one for one in config["applications"][0].get("deployments") or []}
    for name in FOLLOWING:
        if not (listed.get(name, {}).get("user_config") or {}).get("release"):
            raise InvalidSettings(
                f"'{path}': the first application has no deployment '{name}' with user_config: {{release: ...}}; "
                "take it over from serve/serve.yaml"
            )


def unknown_keys(model: type[BaseModel], values: dict[str, Any], where: str = "") -> list[str]:
    """Paths of the keys in `values`, however deep, that `model` has no field for."""
    unknown = []
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        field = model.model_fields.get(key)
        if field is None:
            unknown.append(path)
            continue
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
        for inner in _models(field.annotation):
            for place, item in items:
                if isinstance(item, dict):
                    unknown += unknown_keys(inner, item, place)
    return unknown


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Pydantic models inside an annotation such as `list[X] | None`."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (Union, types.UnionType, list):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []


def _arguments(
    model: type[ApiArgs | ReleaseArgs], application: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """`args:` for the builder: what is given here goes before what the file says."""
    arguments = (application.get("args") or {}) | {name: value for name, value in given.items() if value is not None}
    try:
        valid = model.model_validate(arguments)
    except ValidationError as error:
        raise InvalidSettings(f"args: {_explain(error)}") from error
    if valid.limits.database_url is not None:
        raise InvalidSettings("args: limits.database_url must be args.database_url in this file")
    return valid.model_dump(exclude={"limits": {"database_url"}})


def _validated(config: dict[str, Any], path: str | Path) -> ServeDeploySchema:
    try:
        return ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        raise InvalidSettings(f"'{path}': {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())


def _start(schema: ServeDeploySchema) -> None:
    """Serve, listening where the schema says. Raises: InvalidSettings where it cannot; Unavailable where it takes too
    long."""
    host, port = schema.http_options.host, schema.http_options.port
    running = listening_at()
    if running is None:
        _refuse_taken_port(host, port)
        try:
            serve.start(
                http_options=schema.http_options.model_dump(),
                proxy_location=schema.proxy_location,
                logging_config=schema.logging_config,
            )
        except TimeoutError as error:
            raise Unavailable(
                f"Ray Serve does not listen on {host}:{port} yet: {error} Is the machine busy? Try again"
            ) from error
    elif running != (host, port):
        there = ":".join(map(str, running))
        raise InvalidSettings(f"this Ray serves on {there} already, not {host}:{port}; ask for that, or stop it")


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidSettings(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _wait_until_answering(url: str) -> None:
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/health/ready", timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"the endpoint runs, but {url}/v1/health/ready does not answer: {error}") from error
        time.sleep(_POLL_S)
