"""Progress counts of a stage over blocks: for display, for the report, for the limit of rejects."""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from pipelines.extraction.compaction import Part
from pipelines.extraction.rejects import RejectSample, most_frequent
from pipelines.extraction.stages import Stage, StageOutcome
from pipelines.report import Report


@dataclass(frozen=True)
class BlockCounts:
    """One finished block: the name of its parts, those of rows and of rejects if there are any, and what it took.

    `codes` counts the rejects by code, `postponed` says what the store did not return, by song_id; `seconds` are its
    worker's.
    """

    name: str
    rows: Part | None
    rejects: Part | None
    codes: dict[str, int]
    postponed: dict[str, str]
    bytes_read: int
    seconds: float

    def to_json(self) -> str:
        """As text, from which `from_json` makes the same block."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, said: str) -> "BlockCounts":
        """What `to_json` wrote."""
        read = json.loads(said)
        parts = {side: Part(**read[side]) if read[side] else None for side in ("rows", "rejects")}
        return cls(**(read | parts))


@dataclass
class ProgressCounts:
    """Of one run of a stage: its `songs` and the `codes` of those rejected; the first five are of all runs together.

    `tried` counts the songs, and those that could not be read yet each time; `block_songs` is the size of a block.
    """

    total: int = 0
    done: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Part] = field(default_factory=dict)
    rejects: dict[str, Part] = field(default_factory=dict)
    songs: int = 0
    tried: int = 0
    block_songs: int = 1
    codes: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    work_s: float = 0.0
    workers: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, block: BlockCounts) -> None:
        """Counts the songs of a block that is done."""
        songs = sum(block.codes.values()) + (block.rows.songs if block.rows else 0)
        self.done += songs
        self.songs += songs
        self.tried += songs + len(block.postponed)
        self.codes.update(block.codes)
        self.rejected.update(block.codes)
        self.bytes_read += block.bytes_read
        self.work_s += block.seconds
        if block.rows:
            self.rows[block.name] = block.rows
        if block.rejects:
            self.rejects[block.name] = block.rejects

    def facts(self) -> dict[str, str]:
        """What a watcher may want to see beside the count."""
        facts = {}
        if self.bytes_read:
            facts["read"] = f"{self.bytes_read / 1e6 / self._seconds():.1f} MB/s"
        if self.rejected:
            facts["rejects"] = most_frequent(self.rejected)
        return facts | {"workers": str(self.workers)}

    def sample(self) -> RejectSample:
        """What this run says of the songs that it has not come to yet."""
        return RejectSample(self.codes, self.songs, self.tried, self.block_songs, self.total - self.done)

    def outcome(self) -> StageOutcome:
        """Songs in all and rejects by code, of all runs together."""
        return StageOutcome(self.total, dict(self.rejected))

    def report(self, stage: Stage, **more: JsonValue) -> Report:
        """Of this run; what it did not finish counts as neither done nor skipped."""
        seconds = self._seconds()
        details: dict[str, JsonValue] = {
            "target": stage.target,
            "songs": self.total,
            "songs_per_s": round(self.songs / seconds, 3),
            "bytes_read": self.bytes_read,
            "work_s": round(self.work_s, 3),
            "workers": self.workers,
            "rejected": dict(self.rejected),
        }
        return Report(
            stage=stage.name,
            done=self.songs,
            skipped=self.done - self.songs,
            rejected=self.rejected.total(),
            seconds=seconds,
            details=details | more,
        )

    def _seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-3)
