"""Server-sent events out of the bytes of a stream, and where a lost one is taken up again."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from gatefold.client.errors import UnexpectedAnswer
from gatefold.client.models import JobStatus

MAX_EVENT_BYTES = 1 << 24
"""of one event; more is no event of this API"""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; `event_id` is empty where it has none."""

    kind: str
    event_id: str
    data: str


class EventParser:
    """Bytes in, events out. A line ends with LF or CR LF, and with nothing else that Unicode calls a line end, since a
    text in JSON may hold those."""

    def __init__(self) -> None:
        self._buffer = b""
        self._fields: dict[str, list[str]] = {}
        self._held = 0
        """bytes in the fields"""

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """The events that these bytes complete. Raises: UnexpectedAnswer for one that never ends or is no text."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        if self._held + len(self._buffer) > MAX_EVENT_BYTES:
            raise UnexpectedAnswer(f"an event has more than {MAX_EVENT_BYTES:,} bytes; no gatefold endpoint sends that")

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            fields, self._fields, self._held = self._fields, {}, 0
            if "data" not in fields:
                return None
            last = {name: values[-1] for name, values in fields.items()}
            return ServerSentEvent(last.get("event", "message"), last.get("id", ""), "\n".join(fields["data"]))
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError:
            raise UnexpectedAnswer("an event is no UTF-8; base_url is no gatefold endpoint") from None
        if name:  # a comment has none
            self._fields.setdefault(name, []).append(value.removeprefix(" "))
            self._held += len(line)
        return None


class EventCursor:
    """How far the events of a job were seen, over any number of connections.

    Attributes:
        last: number of the last change that was seen.
        ended: whether the job's last change was seen.
    """

    def __init__(self, after: int = 0) -> None:
        self.last, self.ended = after, False
        self._parser = EventParser()

    def headers(self) -> dict[str, str]:
        """For the next connection, which begins anew."""
        self._parser = EventParser()
        return {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(self.last)} if self.last else {})

    def feed(self, data: bytes) -> Iterator[JobStatus]:
        """The changes that these bytes complete, each once, however often a server repeats it.

        Raises: UnexpectedAnswer.
        """
        for event in self._parser.feed(data):
            if event.kind != "state":
                continue
            if not (event.event_id.isascii() and event.event_id.isdecimal()):
                raise UnexpectedAnswer(f"event id '{event.event_id[:80]}' is no number")
            number = int(event.event_id[:18])
            if number <= self.last:
                continue
            try:
                status = JobStatus.model_validate_json(event.data)
            except ValidationError as error:
                raise UnexpectedAnswer(f"event {number} is no job: {error.errors()[0]['msg']}") from None
            self.last, self.ended = number, status.ended
            yield status
