"""Who may write: one process at a time holds a lease on a folder, by numbered objects of which the highest counts.

Putting the next number if it is absent is a compare-and-swap, so that of many who try one alone succeeds. The holder
renews its object; who has let go, is gone from this very machine, or was not heard of for long, is followed by the next
number. A lease can be sent to other processes, which `check` it right before they write: what a killed holder left
running then writes nothing. It does not know what is written.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from gatefold.errors import Corrupt, LeaseLost, NotFound, RunInProgress, Unavailable
from gatefold.storage import objects

RENEWED_EVERY_S = 10.0
FORSAKEN_AFTER_S = 45.0
"""without a renewal for so long, a holder elsewhere counts as gone"""
_SUFFIX = ".json"


@dataclass(frozen=True)
class _Holder:
    """What a numbered object says; times are seconds since 1970. `process` tells a process from one of the same pid."""

    owner: str
    host: str
    machine: str
    pid: int
    process: str
    since: float
    renewed_at: float
    released: bool = False


@dataclass(frozen=True)
class Lease:
    """The right to write, for as long as no higher number is there; picklable."""

    folder: str
    number: int

    def check(self) -> None:
        """Raises: LeaseLost when another process has taken over, or the one that held it is done."""
        holder = _read(self.folder, self.number)
        if holder is None or max(_numbers(self.folder), default=0) != self.number:
            raise LeaseLost(
                f"'{self.folder}' was taken over while this run did not renew it for {FORSAKEN_AFTER_S:g} s or more; "
                "the other run goes on, this one stops"
            )
        if holder.released:
            raise LeaseLost(f"'{self.folder}': the run that this process worked for has ended")


@contextmanager
def hold(folder: str) -> Iterator[Lease]:
    """The lease on a folder, renewed by a thread until the block ends.

    Raises: RunInProgress when another process holds it.
    """
    now = time.time()
    pid = os.getpid()
    us = _Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, _process(pid) or "", now, now)
    lease = _acquire(folder, us)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, us, done), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        done.set()
        renewing.join()
        # where it is lost there is nothing to let go of, and where the store is away it lapses by itself
        with suppress(LeaseLost, Unavailable):
            lease.check()
            _put(lease, replace(us, renewed_at=time.time(), released=True))


def _acquire(folder: str, us: _Holder) -> Lease:
    while True:
        numbers = _numbers(folder)
        last = max(numbers, default=0)
        if last and (holder := _read(folder, last)) is not None:
            _refuse_if_held(folder, holder)
        lease = Lease(folder, last + 1)
        if not objects.put_if_absent(_uri(folder, lease.number), _encoded(us)):
            continue
        for number in numbers:
            objects.delete(_uri(folder, number))
        if max(_numbers(folder)) == lease.number:  # else this very number was let go of, and deleted, while we looked
            return lease


def _refuse_if_held(folder: str, holder: _Holder) -> None:
    """Raises: RunInProgress unless the holder has let go or is gone."""
    silent_s = time.time() - holder.renewed_at
    if holder.released or silent_s > FORSAKEN_AFTER_S:
        return
    if holder.machine == _machine() and _process(holder.pid) != holder.process:
        return
    since = datetime.fromtimestamp(holder.since, timezone.utc)
    left_s = max(1.0, FORSAKEN_AFTER_S - silent_s)
    raise RunInProgress(
        f"'{objects.parent(folder)}': process {holder.pid} on {holder.host} works on it since "
        f"{since:%Y-%m-%d %H:%M:%S} UTC; wait for it or stop it, or if it is gone, try again in {left_s:.0f} s"
    )


def _renew(lease: Lease, us: _Holder, done: threading.Event) -> None:
    while not done.wait(RENEWED_EVERY_S):
        try:
            lease.check()
            _put(lease, replace(us, renewed_at=time.time()))
        except LeaseLost:
            return
        except Unavailable:  # tried again in a while; if it lasts, another may take over, which the next check tells
            continue


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


def _process(pid: int) -> str | None:
    """What tells this process from a later one of the same pid: when it was started; None when it is gone."""
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
