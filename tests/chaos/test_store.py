"""Catalogue and extraction, by their verbs, from and to a store that misbehaves: nothing lost, nothing twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatefold.storage import tables
from pipelines.report import read_report
from tests.faults import KINDS, FaultyStore
from tests.kills import ROOT
from tests.known_songs import BLOCKS, KnownSongs

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture
def songs(s3: str, tmp_path: Path) -> KnownSongs:
    return KnownSongs(tmp_path, home=f"{s3}/{tmp_path.name}")


@pytest.fixture
def store(s3: str) -> Iterator[FaultyStore]:
    """Between the verbs and their bucket; the tests themselves go straight to it."""
    assert s3
    with FaultyStore(os.environ["AWS_ENDPOINT_URL"], share=0.0, seed=3, stall_s=0.5) as between:
        yield between


def gatefold(songs: KnownSongs, store: FaultyStore, *verb: str) -> "subprocess.CompletedProcess[str]":
    """A verb in a process of its own, with a Ray of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": store.url, "RAY_ADDRESS": "local"}
    settings = [f"audio.{name}={value}" for name, value in songs.settings.audio]
    settings += [f"batch.{name}={value}" for name, value in songs.settings.batch]
    command = [sys.executable, "-m", "gatefold", "--workspace", songs.workspace.uri, *verb]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)


def test_a_store_that_fails_one_request_in_five_loses_and_doubles_nothing(
    songs: KnownSongs, store: FaultyStore
) -> None:
    songs.put()
    store.share = 0.2
    made = gatefold(songs, store, "catalogue", songs.manifest)
    assert made.returncode == 0, made.stderr
    songs.lose()
    extracted = gatefold(songs, store, "spectrograms")
    assert extracted.returncode == 0, extracted.stderr
    assert set(store.injected) == set(KINDS), "some kind of fault never came"
    assert store.injected.total() > store.requests / 8
    songs.audit()


def test_credentials_that_expire_stop_the_run_and_once_renewed_it_does_the_rest(
    songs: KnownSongs, store: FaultyStore
) -> None:
    songs.write()
    store.denied_from = store.requests + 100
    stopped = gatefold(songs, store, "spectrograms")
    assert stopped.returncode == 1
    assert "ExpiredToken" in stopped.stderr
    assert "renew them if they have expired" in stopped.stderr
    finished = songs.finished()
    assert 0 < len(tables.parts(songs.target)) < BLOCKS, "it was to be in the middle"
    store.denied_from = None
    renewed = gatefold(songs, store, "spectrograms")
    assert renewed.returncode == 0, renewed.stderr
    report = read_report(songs.workspace, "spectrograms")
    assert report is not None
    assert report.skipped == len(finished)
    songs.audit()
