"""Machines for the extraction and their prices: the worker types of `cluster.yaml` and the operator's prices.

Knows nothing of songs. A price that is missing is asked for, never guessed.
"""

from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from gatefold.config import Section
from gatefold.errors import InvalidSettings


class MachinePrice(Section):
    """USD an hour for one machine."""

    on_demand: float = Field(ge=0)
    spot: float | None = Field(None, ge=0)


class StoragePrices(Section):
    """USD."""

    get_per_1000: float = Field(ge=0)
    """ranged or whole reads"""
    put_per_1000: float = Field(ge=0)
    """writes and listings"""
    gb_read: float = Field(ge=0)
    """transfer of 10^9 bytes from the store to the workers"""
    gb_month: float = Field(ge=0)
    """10^9 bytes kept for a month"""


class Prices(Section):
    """The operator's price list."""

    as_of: date
    machines: dict[str, MachinePrice]
    storage: StoragePrices


class WorkerType(Section):
    """Machines of one kind that extract spectrograms: those of `cluster.yaml` with CPUs and without a GPU."""

    name: str
    instance_type: str
    vcpus: int
    """of one machine"""
    workers: int
    """machines at most"""
    spot: bool
    usd_per_hour: float
    """one machine"""
    head_usd_per_hour: float
    """the cluster's head, which runs beside them as long as they do"""


def read_prices(path: Path) -> Prices:
    """The prices in a YAML file. Raises: InvalidSettings naming the file and what is wrong in it."""
    try:
        return Prices.model_validate(_read_mapping(path))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidSettings(f"prices '{path}': {faults}; fix it there") from error


def read_worker_types(cluster: Path, prices_file: Path) -> list[WorkerType]:
    """The worker types of a cluster in the order of its file, with their prices.

    Raises: InvalidSettings, naming the file, where it is no cluster or a machine has no price.
    """
    prices = read_prices(prices_file)
    described = _read_mapping(cluster)
    try:
        kinds: dict[str, Any] = described["available_node_types"]
        head, most = described["head_node_type"], int(described["max_workers"])
        head_usd = _usd_per_hour(kinds[head], prices, prices_file)
        return [
            WorkerType(
                name=name,
                instance_type=kind["node_config"]["InstanceType"],
                vcpus=kind["resources"]["CPU"],
                workers=min(most, kind.get("max_workers", most)),
                spot=_is_spot(kind),
                usd_per_hour=_usd_per_hour(kind, prices, prices_file),
                head_usd_per_hour=head_usd,
            )
            for name, kind in kinds.items()
            if name != head and kind["resources"].get("CPU") and not kind["resources"].get("GPU")
        ]
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InvalidSettings(f"cluster '{cluster}' is no description of a Ray cluster: {error!r}") from error


def _usd_per_hour(kind: dict[str, Any], prices: Prices, prices_file: Path) -> float:
    machine = kind["node_config"]["InstanceType"]
    price = prices.machines.get(machine)
    market = "spot" if _is_spot(kind) else "on_demand"
    usd: float | None = getattr(price, market, None)
    if usd is None:
        raise InvalidSettings(f"prices '{prices_file}' lacks machines.{machine}.{market}, USD an hour; write it there")
    return usd


def _is_spot(kind: dict[str, Any]) -> bool:
    market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
    return bool(market == "spot")


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"'{path}' cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InvalidSettings(f"'{path}' must be a mapping, not {type(values).__name__}")
    return values
