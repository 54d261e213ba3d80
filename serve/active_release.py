"""Which release answers: its stages are on duty until another's are, and finish what they have begun.

So one request, or one job, has encoder, index and generator of one release, whatever is activated meanwhile. Knows
nothing of HTTP or of Ray.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gatefold.errors import IndexNotReady
from serve.interfaces import Stages
from serve.optout_filter import ConsentingRetriever, OptOuts


class Rota:
    """The stages on duty, none at first; none of them finds a song that was withdrawn."""

    def __init__(self, optouts: OptOuts) -> None:
        self.optouts = optouts
        self._on_duty: Stages | None = None
        self._busy: Counter[str] = Counter()  # by release: requests and jobs that are under way

    def change_to(self, stages: Stages) -> None:
        """New requests get these from now on."""
        self._on_duty = replace(stages, retriever=ConsentingRetriever(stages.retriever, self.optouts))

    @contextmanager
    def on_duty(self) -> Iterator[Stages]:
        """The stages for one request, which keeps to them. Raises: IndexNotReady before there are any."""
        if self._on_duty is None:
            raise IndexNotReady("no release is loaded yet; try again later")
        stages = self._on_duty
        self.keep(stages)
        try:
            yield stages
        finally:
            self.let_go(stages)

    def keep(self, stages: Stages) -> None:
        """Work for these goes on beyond its request, until `let_go`."""
        self._busy[stages.release.version] += 1

    def let_go(self, stages: Stages) -> None:
        self._busy[stages.release.version] -= 1

    def in_use(self) -> list[str]:
        """Versions of the release on duty, which comes first, and of those that still have work to finish."""
        on_duty = [] if self._on_duty is None else [self._on_duty.release.version]
        busy = sorted(version for version, count in self._busy.items() if count > 0 and version not in on_duty)
        return on_duty + busy
