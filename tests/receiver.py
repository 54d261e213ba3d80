"""A receiver of webhooks on this machine: https, with a certificate of an authority of its own."""

import datetime
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = ("hooks.test", "slow.test", "private.test", "localhost")
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
OTHER_SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="


@dataclass
class Received:
    """One request; the name is what TLS was asked for."""

    path: str
    headers: dict[str, str]
    body: str
    server_name: str | None


@dataclass
class Receiver:
    """Answers with the statuses in `answers`, one after the other, the last again and again."""

    port: int = 0
    answers: list[int] = field(default_factory=lambda: [204])
    body: bytes = b""
    location: str | None = None
    hold_s: float = 0.0
    """seconds before it answers"""
    received: list[Received] = field(default_factory=list)

    def url(self, host: str = NAMES[0], path: str = "/hook?token=hunter2") -> str:
        return f"https://{host}:{self.port}{path}"


@cache
def authority() -> tuple[str, str]:
    """PEM of the authority's certificate; PEM of a certificate for NAMES that leads to it, with its key."""
    key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    root = _certificate(issuer, issuer, key, key).add_extension(x509.BasicConstraints(True, None), critical=True)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    leaf = _certificate(subject, issuer, leaf_key, key).add_extension(names, critical=False)
    pem, sha = serialization.Encoding.PEM, hashes.SHA256()
    private = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return root.sign(key, sha).public_bytes(pem).decode(), (leaf.sign(key, sha).public_bytes(pem) + private).decode()


def _certificate(subject: x509.Name, issuer: x509.Name, key: Any, issuer_key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )


@contextmanager
def receiving(receiver: Receiver | None = None) -> Iterator[Receiver]:
    """A receiver that listens, on its own port where it has one already."""
    found = receiver or Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            name = getattr(self.connection, "asked_name", None)
            status = found.answers[min(len(found.received), len(found.answers) - 1)]
            found.received.append(Received(self.path, headers, body, name))
            time.sleep(found.hold_s)
            try:
                self.send_response(status)
                if found.location is not None:
                    self.send_header("location", found.location)
                self.end_headers()
                self.wfile.write(found.body)
            except OSError:  # who called has gone
                return

        def log_message(self, *_: object) -> None:
            """Nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "receiver.pem"
        path.write_text(authority()[1])
        context.load_cert_chain(path)

    def note_name(connection: Any, name: str | None, _: object) -> None:
        connection.asked_name = name

    context.sni_callback = note_name
    server = ThreadingHTTPServer(("127.0.0.1", found.port), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


async def resolve_here(host: str, _: int) -> Sequence[str]:
    """NAMES stand for this machine. Raises: OSError for any other."""
    if host not in NAMES:
        raise OSError("unknown name")
    return ["127.0.0.1"]
