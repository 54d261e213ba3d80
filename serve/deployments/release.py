"""One release, as an application of its own: encoder, retriever and generator, and this door to them.

Two releases can stand side by side, which is how one takes over from another without a pause. Knows nothing of HTTP,
or of which release is on duty.
"""

from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from serve.interfaces import ServedRelease


@dataclass(frozen=True)
class Crew:
    """Who works for a release."""

    release: ServedRelease
    encoder: DeploymentHandle
    retriever: DeploymentHandle
    generator: DeploymentHandle


class Release:
    """The root of the application."""

    def __init__(
        self,
        release: ServedRelease,
        encoder: DeploymentHandle,
        retriever: DeploymentHandle,
        generator: DeploymentHandle,
    ) -> None:
        self._crew = Crew(release, encoder, retriever, generator)

    async def crew(self) -> Crew:
        """The release and the ways to its deployments."""
        return self._crew
