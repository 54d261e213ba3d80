"""Isolation where it is used: in a Ray actor, whose main module and whose way to our modules are Ray's."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from gatefold.isolation import Isolated
from tests.hazards import Task, Trace, make_work

pytestmark = pytest.mark.usefixtures("ray_cluster")


class _Extractor:
    def __init__(self) -> None:
        self._isolated = Isolated(make_work, timeout_s=1.0)

    def process(self) -> int:
        return os.getpid()

    def run(self, *deeds: str) -> list[str]:
        """The outcomes, in the order of the items, in words."""
        tasks = [Task(number, deed) for number, deed in enumerate(deeds)]
        return [repr(outcome) for _, outcome in sorted(self._isolated.map(tasks), key=lambda pair: pair[0])]

    def child(self) -> int:
        ((_, trace),) = self._isolated.map([Task(0)])
        assert isinstance(trace, Trace)
        return trace.process


Extractor: Any = ray.remote(num_cpus=1)(_Extractor)


def test_an_actor_outlives_whatever_its_items_do() -> None:
    extractor = Extractor.remote()
    process = ray.get(extractor.process.remote(), timeout=60)
    deeds = ["compute", "spin", "fail", "segfault", "compute", "kill"]
    wanted = [
        r"Trace\(number=0", "DecodingTimeout", "SilentAudio", "DecoderCrashed.*SIGSEGV", r"Trace\(number=4",
        "DecoderCrashed.*SIGKILL twice",
    ]  # fmt: skip
    outcomes = ray.get(extractor.run.remote(*deeds), timeout=60)
    assert [pattern for pattern, outcome in zip(wanted, outcomes, strict=True) if not re.match(pattern, outcome)] == []
    assert re.match(r"Trace\(number=0", *ray.get(extractor.run.remote("compute"), timeout=60))
    assert ray.get(extractor.process.remote(), timeout=60) == process
    ray.kill(extractor)


@pytest.mark.parametrize("end", ["ray kills the actor", "the actor's process is killed"])
def test_no_child_outlives_its_actor(end: str) -> None:
    extractor = Extractor.remote()
    process, child = ray.get([extractor.process.remote(), extractor.child.remote()], timeout=60)
    assert process != child
    hanging = extractor.run.remote("spin")
    time.sleep(0.2)
    assert Path(f"/proc/{child}").exists()
    if end == "ray kills the actor":
        ray.kill(extractor)
    else:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(hanging, timeout=60)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
