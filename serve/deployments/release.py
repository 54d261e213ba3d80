"""One release, as an application of its own: handles of its encoder, retriever and generator, and the services that
others call through them.

Two releases can run side by side, which is how one takes over from another without a pause. Knows nothing of HTTP,
or of which release is active.
"""

from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve.deployments.handles import EncoderHandle, GeneratorHandle, RetrieverHandle, ServeReadiness, call
from serve.interfaces import ReleaseServices, ServedRelease
from serve.observability.observed import observed


@dataclass(frozen=True)
class ReleaseHandles:
    """The release, and handles of its deployments."""

    release: ServedRelease
    encoder: DeploymentHandle
    retriever: DeploymentHandle
    generator: DeploymentHandle


@observed
class ReleaseRoot:
    """The root deployment of a release's application."""

    def __init__(
        self,
        release: ServedRelease,
        encoder: DeploymentHandle,
        retriever: DeploymentHandle,
        generator: DeploymentHandle,
    ) -> None:
        self._handles = ReleaseHandles(release, encoder, retriever, generator)

    async def handles(self) -> ReleaseHandles:
        """The release, and handles of its deployments."""
        return self._handles


async def services_of(config: dict[str, Any]) -> ReleaseServices:
    """The services of a release, for a replica whose `user_config` names it. Waits until it is there.

    Args:
        config: `release`, the name of its application; `searches`, how they cross to it.
    """
    application: str = config["release"]
    handles: ReleaseHandles = await call(DeploymentHandle(ReleaseRoot.__name__, application).handles)
    return ReleaseServices(
        handles.release,
        EncoderHandle(handles.encoder),
        RetrieverHandle(handles.retriever, **config["searches"]),
        GeneratorHandle(handles.generator),
        ServeReadiness(serve.get_replica_context().app_name, application),
    )
