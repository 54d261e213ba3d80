"""An HTTP server that answers by a script, faults among it: it refuses, redirects, cuts streams off, and hangs."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer. Where `cut` is set, the connection breaks after the body; where `hangs` is, nothing more comes."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hangs: bool = False


@dataclass(frozen=True)
class Received:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Script:
    """The answers in their order, the last one for ever; and what was received."""

    url: str
    replies: list[Reply]
    received: list[Received] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def next(self, received: Received) -> Reply:
        self.received.append(received)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def problem(status: int, code: str, detail: str = "no", **headers: str) -> Reply:
    """A problem+json; headers with `_` for `-`."""
    body = {"type": "about:blank", "title": "T", "status": status, "detail": detail, "code": code, "instance": "/"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(body).encode(), "application/problem+json", named)


def events(*numbered: tuple[int, dict[str, Any]], cut: bool = True) -> Reply:
    """A stream of events, which breaks off after them."""
    text = "".join(f"id: {number}\nevent: state\ndata: {json.dumps(data)}\n\n" for number, data in numbered)
    return Reply(200, text.encode(), "text/event-stream", cut=cut)


@contextmanager
def scripted(*replies: Reply) -> Iterator[Script]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            reply = script.next(Received(self.command, self.path, dict(self.headers.items()), body))
            if reply.hangs and not reply.body:
                script.released.wait(30)
                self.close_connection = True
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            announced = len(reply.body) + (1000 if reply.cut or reply.hangs else 0)
            if reply.status not in (204, 304):
                self.send_header("Content-Length", str(announced))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()
            if reply.hangs:
                script.released.wait(30)
            if reply.cut or reply.hangs:
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))

        do_GET = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Script(f"http://127.0.0.1:{server.server_address[1]}", list(replies))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
