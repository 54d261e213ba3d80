"""Whatever is killed, and however often: each accepted job ends once, with the pictures it would have had anyway."""

import sys
import time
from pathlib import Path

import pytest

from tests.job_chaos import JOBS_AT_ONCE, QUOTA, Outcome, Trial, trial

CALLERS = 8


@pytest.mark.parametrize(
    ("jobs", "kills", "outage_s", "interrupted"),
    [
        pytest.param(
            24, {"api": 5, "runner": 5, "generator": 5, "proxy": 3, "ray": 1, "postgres": 1}, 3.0, 1,
            id="twenty kills", marks=[pytest.mark.slow, pytest.mark.timeout(1800)],
        ),
        pytest.param(
            600, {"api": 24, "runner": 24, "generator": 24, "proxy": 18, "ray": 6, "postgres": 6}, 60.0, 10,
            id="a hundred kills", marks=[pytest.mark.chaos, pytest.mark.timeout(3 * 3600)],
        ),
    ],
)  # fmt: skip
def test_every_accepted_job_ends_once(
    tmp_path: Path, jobs: int, kills: dict[str, int], outage_s: float, interrupted: int
) -> None:
    with trial(tmp_path, CALLERS, jobs) as tried:
        began = time.monotonic()
        tried.run(kills, outage_s)
        killed_s = time.monotonic() - began
        found = tried.outcome()
    accepted = {job_id for caller in tried.callers for job_id in caller.accepted}
    sys.stderr.write(
        f"{dict(tried.killer.killed)}; {len(accepted)} jobs accepted, {found.interrupted} runs interrupted; "
        f"{len(found.pictures)} kinds of pictures; all killed within {killed_s:.0f} s\n"
    )
    assert tried.killer.killed == kills
    assert set(found.jobs) == accepted
    check_jobs(tried, found)
    assert any(caller.cancelled for caller in tried.callers)
    assert {pair: len(digests) for pair, digests in found.pictures.items()} == dict.fromkeys(found.pictures, 1)
    assert {job_id: len(ids) for job_id, ids in found.messages.items()} == dict.fromkeys(accepted, 1)
    assert found.interrupted >= interrupted  # or the kills have hit too little


def check_jobs(tried: Trial, found: Outcome) -> None:
    """Ends, and the limits of keys."""
    for caller in tried.callers:
        for job_id in caller.accepted:
            state, states = found.jobs[job_id]["state"], found.states[job_id]
            assert [one for one in states if one not in ("queued", "running")] == [state], (job_id, states)
            assert state == "succeeded" or (state == "cancelled" and job_id in caller.cancelled), found.jobs[job_id]
        assert found.most_at_once(caller.accepted) <= JOBS_AT_ONCE
    *others, limited = tried.callers
    assert [caller.refused for caller in others] == [[]] * len(others)
    assert set(limited.refused) == {"quota_exceeded"}
    made = sum(len(found.jobs[job_id]["images"]) for job_id in limited.accepted)
    assert made <= QUOTA
