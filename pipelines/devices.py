"""The device of a task: what Ray granted it, and no other."""

import ray


def gpus() -> int:
    """GPUs of the cluster that is connected."""
    return int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0


def granted_device() -> str:
    """Where this task or actor computes: "cuda" if Ray granted it a GPU, else "cpu", as also outside of Ray."""
    if not ray.is_initialized():
        return "cpu"
    return "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"
