"""Leases: one process at a time may write in a folder, by numbered objects of which the highest counts.

Putting the next number if it is absent is a compare-and-swap, so that of many who try one alone succeeds. The holder
renews its object. A lease is free when it is released, when its process on this host has ended, or when it was not
renewed for LEASE_TTL_S by the clock of the process that wants it, where the holder is on another machine: clocks of
two machines are never compared. A lease can be sent to other processes, which `check` it right before they write: what
a killed holder left running then writes nothing. It does not know what is written. Jobs, lines of batches and
deliveries of webhooks have leases of their own, in the database: `serve.jobs.queue`.

    holder    renews        renews        renews   (gone)
    another         looks . . . refused         looks . . . . . . . . . . . . . . . takes over
                    |<- at most RENEW_EVERY_S   |<---------- LEASE_TTL_S ---------->|
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gatefold.errors import Corrupt, GatefoldError, LeaseLost, NotFound, RunInProgress, Unavailable
from gatefold.storage import objects

RENEW_EVERY_S = 10.0
LEASE_TTL_S = 45.0
"""A holder on another machine that is seen not to renew for so long counts as gone."""
POLL_EVERY_S = 2.0
_SUFFIX = ".json"


@dataclass(frozen=True)
class _Holder:
    """Content of a numbered object. `process` distinguishes a process from one of the same pid; `renewals` counts on
    with each renewal. The times are seconds since 1970 by the holder's clock, for people to read."""

    owner: str
    host: str
    machine: str
    pid: int
    process: str
    since: float
    renewed_at: float
    released: bool = False
    renewals: int = 0


@dataclass(frozen=True)
class Lease:
    """The right to write, for as long as no higher number is there; picklable."""

    folder: str
    number: int
    _renewal: "_Renewal | None" = field(default=None, compare=False, repr=False)

    def check(self) -> None:
        """Asks the store.

        Raises: LeaseLost when another process has taken over, the one that held it is done, or as `check_renewed` does.
        """
        self.check_renewed()
        holder = _read(self.folder, self.number)
        if holder is None or max(_numbers(self.folder), default=0) != self.number:
            why = self._renewal.failure if self._renewal else None
            raise LeaseLost(
                f"'{self.folder}' was taken over while this run did not renew it for {LEASE_TTL_S:g} s or more"
                f"{f' ({why})' if why else ''}; the other run goes on, this one stops"
            )
        if holder.released:
            raise LeaseLost(f"'{self.folder}': the run that this process worked for has ended")

    def check_renewed(self) -> None:
        """Asks nobody, and costs nothing; in another process than the one that holds the lease it does nothing.

        Raises: LeaseLost when it is known to be lost, or the store has refused to renew it for too long.
        """
        if self._renewal is not None and self._renewal.lost is not None:
            raise self._renewal.lost

    def __reduce__(self) -> tuple[type["Lease"], tuple[str, int]]:
        return Lease, (self.folder, self.number)


@contextmanager
def hold(folder: str) -> Iterator[Lease]:
    """The lease on a folder, renewed by a thread until the block ends.

    Where it is held on another machine this takes until that holder is seen to renew, or `LEASE_TTL_S`.

    Raises: RunInProgress when another process holds it.
    """
    now, began = time.time(), time.monotonic()
    pid = os.getpid()
    us = _Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, _process(pid) or "", now, now)
    lease = _acquire(folder, us)
    renewal = _Renewal(lease, us, began)
    renewal.start()
    try:
        yield renewal.lease
    finally:
        renewal.stop()
        # where it is lost there is nothing to release, and where the store is away or refuses it lapses by itself
        with suppress(GatefoldError):
            renewal.lease.check()
            _put(lease, replace(us, renewed_at=time.time(), released=True))


def is_held(folder: str) -> bool:
    """Whether a process seems to hold the lease on a folder, for people to read: of another machine's, which may have
    been killed, its clock decides."""
    last = max(_numbers(folder), default=0)
    holder = _read(folder, last) if last else None
    if holder is None or holder.released:
        return False
    if holder.machine == _machine():
        return _is_alive(holder)
    return time.time() - holder.renewed_at < LEASE_TTL_S


class _Renewal(threading.Thread):
    """Renews a lease until it is stopped or the lease is lost."""

    def __init__(self, lease: Lease, us: _Holder, renewed_at: float) -> None:
        """Args:
            renewed_at: by the monotonic clock, before the object was put.
        """
        super().__init__(name="lease", daemon=True)
        self.lease = replace(lease, _renewal=self)
        self._us, self._renewed_at = us, renewed_at
        self._done = threading.Event()
        self.failure: Exception | None = None
        """why the last renewal failed, if it did"""
        self.lost: LeaseLost | None = None

    def stop(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while self.lost is None and not self._done.wait(RENEW_EVERY_S):
            began = time.monotonic()
            try:
                self.lease.check()
                self._us = replace(self._us, renewed_at=time.time(), renewals=self._us.renewals + 1)
                _put(self.lease, self._us)
            except LeaseLost as error:
                self.lost = error
            except Unavailable as error:
                # nothing can be written either while the store is away; once it is back, the next check shows it
                self.failure = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the work must not go on for long without a lease
                self.failure = error
                silent_s = time.monotonic() - self._renewed_at
                if silent_s > LEASE_TTL_S:
                    self.lost = LeaseLost(
                        f"'{self.lease.folder}' could not be renewed for {silent_s:.0f} s, so this run stops and "
                        f"another may follow: {error}"
                    )
            else:
                self.failure, self._renewed_at = None, began


def _acquire(folder: str, us: _Holder) -> Lease:
    while True:
        numbers = _numbers(folder)
        last = max(numbers, default=0)
        if last and (holder := _read(folder, last)) is not None:
            _wait_for_end(folder, last, holder)
        lease = Lease(folder, last + 1)
        if not objects.put_if_absent(_uri(folder, lease.number), _encoded(us)):
            continue
        for number in numbers:
            objects.delete(_uri(folder, number))
        if max(_numbers(folder)) == lease.number:  # else this very number was released, and deleted, meanwhile
            return lease


def _wait_for_end(folder: str, number: int, holder: _Holder) -> None:
    """Until the holder has released it or is gone; at once where it already is, or where it runs on this machine.

    Raises: RunInProgress when it is there.
    """
    if holder.released:
        return
    if holder.machine == _machine():
        if _is_alive(holder):
            raise _in_progress(folder, holder)
        return
    began = time.monotonic()
    while time.monotonic() - began < LEASE_TTL_S:
        time.sleep(POLL_EVERY_S)
        now = _read(folder, number)
        if now is None or now.released:
            return
        if now != holder:
            raise _in_progress(folder, holder)


def _in_progress(folder: str, holder: _Holder) -> RunInProgress:
    since = datetime.fromtimestamp(holder.since, UTC)
    held = folder.removesuffix(".lease") if folder.endswith(".lease") else objects.parent(folder)
    return RunInProgress(
        f"'{held}': process {holder.pid} on {holder.host} works on it since "
        f"{since:%Y-%m-%d %H:%M:%S} UTC; wait for it or stop it"
    )


def _put(lease: Lease, holder: _Holder) -> None:
    objects.put(_uri(lease.folder, lease.number), _encoded(holder))


def _numbers(folder: str) -> list[int]:
    names = (objects.name(info.uri).removesuffix(_SUFFIX) for info in objects.list_objects(folder))
    return [int(name) for name in names if name.isdigit()]


def _read(folder: str, number: int) -> _Holder | None:
    """None where it was deleted since it was listed. Raises: Corrupt."""
    uri = _uri(folder, number)
    try:
        return _Holder(**json.loads(objects.read(uri)))
    except NotFound:
        return None
    except (ValueError, TypeError) as error:
        raise Corrupt(f"'{uri}' is no lease: {error}; delete it if no run is under way") from error


def _uri(folder: str, number: int) -> str:
    return objects.join(folder, f"{number:08}{_SUFFIX}")


def _encoded(holder: _Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _machine() -> str:
    """One that shares its processes with us: another container or another boot of this host is another machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_alive(holder: _Holder) -> bool:
    """Of a holder on this machine."""
    return _process(holder.pid) == holder.process


def _process(pid: int) -> str | None:
    """Distinguishes this process from a later one of the same pid: when it was started; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _process_without_proc(pid)
    state, *numbers = status[status.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
    return None if state in "ZX" else numbers[18]


def _process_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it lives, and is another user's
        return ""
    return ""
