"""A PostgreSQL server of our own: on a free port, as an unprivileged user, in a folder that goes with it."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tests.served import free_port

_USER = "postgres"  # which Debian's package makes; root may not run a server
_WITHIN_S = 60


class PostgresServer:
    """Started by `start`, and again after `stop` or `kill`, on the same port with the same data."""

    def __init__(self) -> None:
        self.port = free_port()
        self._programs = _programs()
        self._as_user: dict[str, Any] = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
        self._folder = Path(tempfile.mkdtemp(prefix="gatefold-postgres-"))
        if self._as_user:
            shutil.chown(self._folder, _USER, _USER)
        self._data = self._folder / "data"
        self._run("initdb", "-D", str(self._data), "-U", "gatefold", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-t", str(_WITHIN_S), "-o", options, "start")

    def stop(self) -> None:
        """Breaks off all connections, and ends it."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "stop")

    def kill(self) -> None:
        """Ends all its processes at once, as a crash would."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def new_database(self, template: str = "template1") -> str:
        """The URL of an empty database, with a password in it that the server does not ask for.

        Args:
            template: name of the database that it is a copy of, which nobody uses meanwhile.
        """
        name = f"t{uuid.uuid4().hex}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "gatefold", "-T", template, name)
        return f"postgresql://gatefold:hunter2@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        """Ends it, and deletes its folder."""
        if (self._data / "postmaster.pid").exists():
            os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=program not in ("pg_ctl",), text=True,
            timeout=2 * _WITHIN_S, cwd="/", check=False, **self._output(program), **self._as_user,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr or ''}")

    @staticmethod
    def _output(program: str) -> dict[str, Any]:
        """The server keeps what pg_ctl writes to open, so that nobody may wait for its end."""
        return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if program == "pg_ctl" else {}


def _programs() -> Path:
    """Where the newest server's programs are. Raises: RuntimeError where none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise RuntimeError("these tests need a PostgreSQL server: apt-get install postgresql")
    return Path(on_path).resolve().parent
