"""A store that misbehaves: a proxy in front of a good S3 server, which spoils a share of the answers on purpose.

    with FaultyStore("http://127.0.0.1:5000", share=0.2, kinds=KINDS, seed=1) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        ...  # everything, in this process and its children, now goes through the proxy
    assert store.injected.total() > 0

It answers each request by itself, on as many threads and connections as the client likes, and keeps connections alive.
It checks no signature, as moto does not. `share`, `missing` and `denied_from` may be set at any time.
"""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

BEFORE = ("slow_down", "server_error", "reset")
"""503 SlowDown; 500 InternalError; a connection reset: the request never reaches the good server."""
AFTER = ("lost_answer", "reset_in_body", "truncated_body", "emptied_body", "stalled_body", "crawling_body")
"""The good server has done its part. A reset in the place of the answer; after half of the body a reset, or an orderly
end, though more was announced; an orderly end before the body begins; half of the body, `stall_s` of silence, then the
rest; a byte at a time for `stall_s`, then the rest. Answers without a body are spoilt by `lost_answer` alone."""
KINDS = BEFORE + AFTER

_XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>injected</Message></Error>'
_CRAWL_S = 0.02  # between one byte and the next
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyStore:
    """The proxy, serving while its `with` block lasts. `url` is what the client talks to; see the module."""

    def __init__(
        self, upstream_url: str, share: float = 0.2, kinds: Sequence[str] = KINDS, seed: int = 1, stall_s: float = 2.0
    ) -> None:
        """Args:
        upstream_url: of the good server, "http://host:port".
        share: of the requests that are spoilt, 0 to 1; which ones is drawn from `seed`.
        kinds: the faults to draw from, of `KINDS`.
        stall_s: how long a body stalls or crawls.
        """
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"kinds {sorted(unknown)} are not known; allowed: {KINDS}")
        self.share, self.kinds, self.stall_s = share, tuple(kinds), stall_s
        self.injected: Counter[str] = Counter()
        """how often each kind of fault was injected, "missing" and "denied" among them"""
        self.requests = 0
        self.missing: set[str] = set()
        """paths, "bucket/key", that are answered with 404 NoSuchKey"""
        self.denied_from: int | None = None
        """from this request on all are answered with `denial`; 0 for all"""
        self.denial = (400, "ExpiredToken")
        """or (403, "AccessDenied") and the like"""
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self, urlsplit(upstream_url).netloc)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultyStore":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join()

    def draw(self, path: str) -> str | None:
        """What is to befall this request: one of `kinds`, "missing", "denied", or nothing."""
        with self._lock:
            self.requests += 1
            if self.denied_from is not None and self.requests > self.denied_from:
                return "denied"
            if unquote(urlsplit(path).path).lstrip("/") in self.missing:
                return "missing"
            return self._random.choice(self.kinds) if self._random.random() < self.share else None

    def count(self, fault: str) -> None:
        """Notes that this fault was injected."""
        with self._lock:
            self.injected[fault] += 1


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], store: FaultyStore, upstream: str) -> None:
        self.store, self.upstream = store, upstream
        self.stopped, self.one_writer = threading.Event(), threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        self.close_request(request)  # and no more: an orderly shutdown first would make a reset an end

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: clients that hang up on a spoilt answer are what this is for."""

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        for connection in list(self._open):  # kept alive by clients, on whom their threads wait
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        try:
            super().finish()
        except OSError:
            self.rfile.close()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()  # or the client would wait a second for it
        return goes_on

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        store = self.server.store
        fault = store.draw(self.path)
        if fault == "denied":
            return self._refuse(fault, *store.denial)
        if fault == "missing":
            return self._refuse(fault, 404, "NoSuchKey")
        if fault == "slow_down":
            return self._refuse(fault, 503, "SlowDown")
        if fault == "server_error":
            return self._refuse(fault, 500, "InternalError")
        if fault == "reset":
            return self._reset(fault)
        status, headers, answer = self._ask(body)
        if fault == "lost_answer":
            return self._reset(fault)
        self._head(status, headers, answer)
        return self._spoil(fault, answer) if fault and answer else self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815 - the names are the library's

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        # moto looks whether there is an object, then writes; S3 does both at once
        with self.server.one_writer if "If-None-Match" in self.headers else nullcontext():
            self._upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = self._upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _head(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def _refuse(self, fault: str, status: int, code: str) -> None:
        self.server.store.count(fault)
        body = b"" if self.command == "HEAD" else _XML.format(code).encode()
        self._head(status, [("Content-Type", "application/xml")], body)
        self._send(body)

    def _reset(self, fault: str) -> None:
        self.server.store.count(fault)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _spoil(self, fault: str, body: bytes) -> None:
        half, stall_s = len(body) // 2, self.server.store.stall_s
        if fault == "reset_in_body":
            self._send(body[:half])
            return self._reset(fault)
        self.server.store.count(fault)
        if fault in ("truncated_body", "emptied_body"):
            self._send(body[:half] if fault == "truncated_body" else b"")
            self.close_connection = True
            return None
        sent = half if fault == "stalled_body" else 0
        self._send(body[:sent])
        if fault == "stalled_body":
            self.server.stopped.wait(stall_s)
        else:
            while sent < min(len(body), int(stall_s / _CRAWL_S)) and not self.server.stopped.wait(_CRAWL_S):
                self._send(body[sent : sent + 1])
                sent += 1
        return self._send(body[sent:])
