"""Worker types and their prices: what is read from our own files, and what is asked for where it is missing."""

from pathlib import Path

import pytest

from gatefold.errors import InvalidSettings
from pipelines.planning.machines import read_prices, read_worker_types

ROOT = Path(__file__).parents[4]
CLUSTER, WORKERS = ROOT / "cluster.yaml", ROOT / "pipelines" / "workers.yaml"
PRICES = ROOT / "pipelines" / "prices.yaml"

A_CLUSTER = """
max_workers: 10
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {InstanceType: m}}
  wide: {resources: {CPU: 32}, max_workers: 40, node_config: {InstanceType: w}}
  gpu: {resources: {CPU: 8, GPU: 1}, node_config: {InstanceType: g}}
  cheap:
    resources: {CPU: 4}
    node_config: {InstanceType: c, InstanceMarketOptions: {MarketType: spot}}
"""
SOME_PRICES = """
as_of: 2026-01-02
machines: {m: {on_demand: 0.1}, w: {on_demand: 2, spot: 1}, c: {on_demand: 0.4, spot: 0.2}}
storage: {get_per_1000: 0.0004, put_per_1000: 0.005, gb_read: 0, gb_month: 0.02}
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_worker_type_of_our_own_cluster_has_a_price() -> None:
    types = read_worker_types(CLUSTER, PRICES)
    assert [(one.name, one.vcpus, one.workers, one.spot) for one in types] == [("audio", 16, 32, True)]
    assert 0 < types[0].usd_per_hour < read_prices(PRICES).machines["c7i.4xlarge"].on_demand


def test_the_workers_of_an_installed_gatefold_are_those_of_its_cluster() -> None:
    assert read_worker_types(WORKERS, PRICES) == read_worker_types(CLUSTER, PRICES)


def test_types_without_gpu_are_workers_at_their_own_market_and_the_head_is_none(tmp_path: Path) -> None:
    cluster, prices = written(tmp_path, "c.yaml", A_CLUSTER), written(tmp_path, "p.yaml", SOME_PRICES)
    found = [(one.name, one.workers, one.spot, one.usd_per_hour) for one in read_worker_types(cluster, prices)]
    assert found == [("wide", 10, False, 2.0), ("cheap", 10, True, 0.2)]
    assert {one.head_usd_per_hour for one in read_worker_types(cluster, prices)} == {0.1}


@pytest.mark.parametrize(
    ("was", "now", "lacks"),
    [
        ("c: {on_demand: 0.4, spot: 0.2}", "d: {on_demand: 1}", r"machines\.c\.spot"),
        ("c: {on_demand: 0.4, spot: 0.2}", "c: {on_demand: 0.4}", r"machines\.c\.spot"),
        ("m: {on_demand: 0.1}, ", "", r"machines\.m\.on_demand"),
    ],
)
def test_a_missing_price_is_asked_for_by_file_and_machine(tmp_path: Path, was: str, now: str, lacks: str) -> None:
    cluster = written(tmp_path, "c.yaml", A_CLUSTER)
    prices = written(tmp_path, "p.yaml", SOME_PRICES.replace(was, now))
    with pytest.raises(InvalidSettings, match=rf"p\.yaml' lacks {lacks}, USD an hour; write it there"):
        read_worker_types(cluster, prices)


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("gb_month: 0.02", "", "storage.gb_month: Field required"),
        ("gb_month: 0.02", "gb_month: -1", "storage.gb_month"),
        ("as_of: 2026-01-02", "as_of: soon", "as_of"),
        (SOME_PRICES, "[1, 2]", "must be a mapping"),
        (SOME_PRICES, "{", "cannot be read"),
    ],
)
def test_a_price_list_that_makes_no_sense_is_refused_by_name(tmp_path: Path, was: str, now: str, says: str) -> None:
    prices = written(tmp_path, "p.yaml", SOME_PRICES.replace(was, now))
    with pytest.raises(InvalidSettings, match=r"p\.yaml'") as caught:
        read_prices(prices)
    assert says in caught.value.message


def test_a_file_that_describes_no_cluster_is_refused_by_name(tmp_path: Path) -> None:
    prices = written(tmp_path, "p.yaml", SOME_PRICES)
    for text in ("max_workers: 3", A_CLUSTER.replace("InstanceType: w", "machineType: w")):
        with pytest.raises(InvalidSettings, match=r"c\.yaml' is no description of a Ray cluster"):
            read_worker_types(written(tmp_path, "c.yaml", text), prices)
    with pytest.raises(InvalidSettings, match=r"none\.yaml' cannot be read"):
        read_worker_types(tmp_path / "none.yaml", prices)
