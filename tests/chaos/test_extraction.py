"""Extraction on machines that go away: the driver with its Ray, nodes, the whole cluster, at moments drawn from seeds.

The long half of the kills, each with a Ray of its own; the quick half is `tests/integration/test_kills.py`.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests import kills
from tests.kills import Moment
from tests.known_songs import BLOCKS, SONGS, SONGS_PER_BLOCK, KnownSongs

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
ENDS_WITHIN_S = 300.0


@pytest.fixture
def songs(tmp_path: Path) -> KnownSongs:
    made = KnownSongs(tmp_path, pace_s=0.04)
    made.write()
    return made


@contextmanager
def cluster_of(nodes: int) -> Iterator[Cluster]:
    """A head that does no work, and nodes of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with cluster_of(nodes=2) as made:
        yield made


def finish(songs: KnownSongs, address: str | None = None) -> None:
    """Run to the end what was killed, and see that all is there, and that what was there was not decoded again."""
    finished = songs.finished()
    songs.empty_decodings()
    complete(songs, address)
    assert not finished & {found.song_id for found in songs.decodings()}
    songs.audit()


def complete(songs: KnownSongs, address: str | None = None) -> None:
    with kills.driver(songs, address) as process:
        assert process.wait(ENDS_WITHIN_S) == 0, kills.said(songs)


@pytest.mark.parametrize(
    ("moment", "group"),
    [
        pytest.param(kills.after_songs(1), True, id="with all it started, at the first song"),
        pytest.param(kills.after_parts(random.Random(12).randint(8, 14)), False, id="alone, in the second half"),
        pytest.param(kills.after_songs(random.Random(13).randint(20, 100)), True, id="with all it started, midway"),
        pytest.param(kills.pieces_half_gone, True, id="with all it started, half of the merged pieces deleted"),
        pytest.param(kills.rows_merged, False, id="alone, rows merged and rejects not"),
        pytest.param(kills.rejects_doubled, False, id="alone, merged rejects put and their pieces not deleted"),
        pytest.param(kills.all_but_the_note, False, id="alone, before it noted that all is done"),
    ],
)
def test_a_killed_driver_loses_and_doubles_nothing(songs: KnownSongs, moment: Moment, group: bool) -> None:
    kills.kill_driver(moment, songs, group=group)
    finish(songs)


def test_a_driver_killed_while_it_puts_in_order_what_another_left_loses_nothing(songs: KnownSongs) -> None:
    kills.kill_driver(kills.rows_doubled, songs)
    left = songs.parts()
    kills.kill_driver(lambda songs: songs.parts() != left, songs)
    finish(songs)


@pytest.mark.parametrize(
    ("at", "together"),
    [
        pytest.param([1], 1, id="a node at its first song"),
        pytest.param([random.Random(21).randint(20, 100)], 1, id="a node in the middle"),
        pytest.param([random.Random(22).randint(20, 100)], 2, id="both nodes at once"),
        pytest.param(sorted(random.Random(23).sample(range(10, 110, 25), 3)), 1, id="three nodes in turn"),
    ],
)
def test_a_run_goes_on_without(songs: KnownSongs, cluster: Cluster, at: list[int], together: int) -> None:
    with kills.driver(songs, cluster.address) as process:
        for begun in at:
            kills.wait_for(kills.after_songs(begun), songs)
            for node in list(cluster.worker_nodes)[:together]:
                cluster.remove_node(node, allow_graceful=False)
            for _ in range(together):
                cluster.add_node(num_cpus=1)
        assert process.wait(ENDS_WITHIN_S) == 0, kills.said(songs)
    assert len(songs.decodings()) <= SONGS + len(at) * together * SONGS_PER_BLOCK, "more was done again than was lost"
    songs.audit()


def test_a_run_goes_on_when_a_raylet_is_killed(songs: KnownSongs, cluster: Cluster) -> None:
    with kills.driver(songs, cluster.address) as process:
        kills.wait_for(kills.after_songs(random.Random(24).randint(20, 100)), songs)
        next(iter(cluster.worker_nodes)).kill_raylet()
        cluster.add_node(num_cpus=1)
        assert process.wait(ENDS_WITHIN_S) == 0, kills.said(songs)
    assert len(songs.decodings()) <= SONGS + SONGS_PER_BLOCK
    songs.audit()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(kills.after_songs(random.Random(31).randint(1, 40)), id="early"),
        pytest.param(kills.after_songs(random.Random(32).randint(41, 120)), id="late"),
        pytest.param(kills.after_parts(BLOCKS), id="while rows are merged"),
    ],
)
def test_another_cluster_does_the_rest_of_one_that_is_gone(songs: KnownSongs, moment: Moment) -> None:
    with cluster_of(nodes=2) as lost, kills.driver(songs, lost.address) as process:
        kills.wait_for(moment, songs)
        for node in [*lost.worker_nodes, lost.head_node]:
            lost.remove_node(node, allow_graceful=False)
        process.kill()  # its machine, too
        process.wait()
    with cluster_of(nodes=2) as another:
        finish(songs, another.address)
