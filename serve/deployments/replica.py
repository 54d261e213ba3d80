"""Set-up of a replica before it loads anything: where storage is, which device Ray gave it, and on which threads it
may work."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import ray

from serve.observability import metrics, tracing
from serve.observability.logs import add_carried_fields
from serve.observability.ray_registry import RayRegistry
from serve.observability.tracing import TraceArgs


def set_up(endpoint_url: str | None, traces: TraceArgs | None = None) -> None:
    """What every replica does first: point the storage SDK at its endpoint, and send logs to Serve's handlers, metrics
    to Ray, spans to the collector.

    Args:
        endpoint_url: of an S3 store that is not AWS; None leaves the environment as it is.
        traces: where spans go; None records none.

    Raises: InvalidSettings where spans are wanted and this node lacks the extra `traces`.
    """
    use_endpoint(endpoint_url)
    metrics.use(RayRegistry())
    tracing.start(traces)
    add_carried_fields()
    for name in ("gatefold", "serve"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = logging.getLogger("ray.serve").handlers  # they add replica, route and request id
        logger.propagate = False


def use_endpoint(endpoint_url: str | None) -> None:
    """Points this process at an S3 store that is not AWS; None leaves the environment as it is."""
    if endpoint_url is not None:
        os.environ["AWS_ENDPOINT_URL"] = endpoint_url


def granted_device() -> str:
    """The torch device of this replica: "cuda" if Ray granted it a GPU, else "cpu"."""
    return "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


def workers(count: int, threads: int) -> ThreadPoolExecutor:
    """Threads for work that would block the event loop, each of which may use so many threads of torch."""
    import torch  # here alone: replicas that look up and answer start in half the time and memory without it

    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,))
