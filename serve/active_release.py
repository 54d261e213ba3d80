"""The active release: new requests get its services until another is switched to; running work keeps those it began
with.

So one request, or one job, has encoder, index and generator of one release, whatever is activated meanwhile. Knows
nothing of HTTP or of Ray.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gatefold.errors import IndexNotReady
from serve.interfaces import ReleaseServices
from serve.optout_filter import OptOutFilteredRetriever, OptOuts


class ActiveRelease:
    """The services of the active release, none at first; none of them finds a song that was withdrawn."""

    def __init__(self, optouts: OptOuts) -> None:
        self.optouts = optouts
        self._current: ReleaseServices | None = None
        self._busy: Counter[str] = Counter()  # by release: requests and jobs that are under way

    def switch_to(self, services: ReleaseServices) -> None:
        """New requests get these from now on."""
        self._current = replace(services, retriever=OptOutFilteredRetriever(services.retriever, self.optouts))

    @contextmanager
    def current(self) -> Iterator[ReleaseServices]:
        """The services for one request, which keeps to them. Raises: IndexNotReady before there are any."""
        if self._current is None:
            raise IndexNotReady("no release is loaded yet; try again later")
        services = self._current
        self.acquire(services)
        try:
            yield services
        finally:
            self.release(services)

    def acquire(self, services: ReleaseServices) -> None:
        """Counts work for these services that outlives its request, until `release`."""
        self._busy[services.release.version] += 1

    def release(self, services: ReleaseServices) -> None:
        """Ends work that `acquire` counted."""
        self._busy[services.release.version] -= 1

    def in_use(self) -> list[str]:
        """Versions of the active release, which comes first, and of those that still have work to finish."""
        current = [] if self._current is None else [self._current.release.version]
        busy = sorted(version for version, count in self._busy.items() if count > 0 and version not in current)
        return current + busy
