"""One release, as an application of its own: handles of its encoder, retriever and generator.

Two releases can run side by side, which is how one takes over from another without a pause. Knows nothing of HTTP,
or of which release is active.
"""

from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from serve.interfaces import ServedRelease


@dataclass(frozen=True)
class ReleaseHandles:
    """The release, and handles of its deployments."""

    release: ServedRelease
    encoder: DeploymentHandle
    retriever: DeploymentHandle
    generator: DeploymentHandle


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
