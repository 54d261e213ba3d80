"""Checks of this machine and of this workspace, each with findings and remedies.

A check that breaks is a fault like any other and hides none of the others, so what may be broken is imported inside the
check that needs it. Nothing is left behind in the store, Ray is not started, no secret is shown.
"""

import json
import os
import platform
import resource
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from gatefold.errors import GatefoldError, InvalidSettings, NotFound, StorageDenied, Unavailable
from gatefold.storage import objects
from gatefold.storage.leases import LEASE_TTL_S
from gatefold.storage.store_trial import StoreTrial, removed_after
from gatefold.workspace import Workspace

FindingState = Literal["ok", "warning", "fault"]
"""fault: something will fail; warning: something may, or will be slow"""
Check = Callable[[], "list[Finding]"]
_GB = 1 << 30
_SKEW_S = (30.0, 300.0)  # clocks further apart than the first are a warning, than the second a fault
_DISK_BYTES = (10 * _GB, 1 * _GB)  # free room under the first is a warning, under the second a fault
_MEMORY_BYTES = (2 * _GB, _GB // 2)  # likewise
_OPEN_FILES = 4096
_ANOTHER_STORE = "take one that keeps S3's promises, conditional writes too: a newer version, another store, a disk"
_INSTALL = "pip install -c requirements.lock -e '.[cpu]' (or '.[gpu]') where gatefold's source is"


@dataclass(frozen=True)
class Finding:
    """What a check found; `remedy` says what to do unless all is well."""

    name: str
    state: FindingState
    detail: str
    remedy: str = ""


def examine(workspace: Workspace, on_progress: Callable[[int, int], None]) -> list[Finding]:
    """The findings of all checks, in their order; seconds, or a minute where a store does not answer."""
    checks: dict[str, Check] = {
        "versions": check_versions,
        "torch": check_torch,
        "codecs": check_codecs,
        "gpu": check_gpus,
        "store": lambda: check_store(workspace.uri),
        "leases": lambda: check_leases(workspace),
        "disk": lambda: check_disks(workspace.uri),
        "memory": check_memory,
        "open files": check_open_files,
        "ray": lambda: check_ray(os.environ),
        "api keys": lambda: check_keys(os.environ),
    }
    findings: list[Finding] = []
    for number, (name, check) in enumerate(checks.items()):
        on_progress(number, len(checks))
        findings += attempt(name, check)
    return findings


def attempt(name: str, check: Check) -> list[Finding]:
    """The check's findings, or the fault that it broke."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are to be seen
        detail = f"this check broke: {type(error).__name__}: {error}"
        return [Finding(name, "fault", detail, f"fix what the message names; for a broken package, {_INSTALL}")]


# ---- what is installed ----------------------------------------------------------------------------------------------


def check_versions() -> list[Finding]:
    """Whether Python and the libraries installed are those that gatefold requires."""
    try:
        python, wanted = metadata.metadata("gatefold")["Requires-Python"], metadata.requires("gatefold")
    except metadata.PackageNotFoundError:
        detail = f"Python {platform.python_version()}; gatefold is not installed, so what it wants is not known"
        return [Finding("versions", "warning", detail, _INSTALL)]
    return judge_versions([f"python{python}", *(wanted or [])])


def judge_versions(requirements: list[str]) -> list[Finding]:
    """Whether requirements, as in pyproject.toml, are met, but those of extras; `python` is the interpreter."""
    everyones = [one for one in map(Requirement, requirements) if not one.marker or one.marker.evaluate({"extra": ""})]
    there = {one.name: _version(one.name) for one in everyones}
    wrong = [
        f"{one.name} is {there[one.name] or 'missing'}, wanted {one.specifier or 'any'}"
        for one in everyones
        if (version := there[one.name]) is None or not one.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        return [Finding("versions", "fault", "; ".join(wrong), _INSTALL)]
    return [Finding("versions", "ok", f"Python {platform.python_version()}; {len(there) - 1} packages as wanted")]


def _version(name: str) -> str | None:
    try:
        return platform.python_version() if name == "python" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_torch() -> list[Finding]:
    """Versions of torch and torchaudio. Raises: what importing them raises."""
    import torch
    import torchaudio

    return [Finding("torch", "ok", f"torch {torch.__version__}, torchaudio {torchaudio.__version__}")]


def check_codecs() -> list[Finding]:
    """Which audio formats can be decoded here."""
    from gatefold.audio.codec_check import check_codecs

    faults = check_codecs()
    missing = [f"{name}: {fault}" for name, fault in faults.items() if fault is not None]
    if missing:
        remedy = "pip install --force-reinstall av soundfile; their wheels bring their codecs, a system's may lack some"
        return [Finding("codecs", "fault", "; ".join(missing), remedy)]
    return [Finding("codecs", "ok", f"{', '.join(faults)} can be decoded")]


def check_gpus() -> list[Finding]:
    """How many GPUs there are, and whether torch and FAISS can use them."""
    import faiss
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        kinds = ", ".join(sorted({torch.cuda.get_device_name(number) for number in range(count)}))
        searching = "GPU" if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() else "CPU"
        return [Finding("gpu", "ok", f"{count} ({kinds}); faiss searches on the {searching}")]
    if any(Path("/dev").glob("nvidia[0-9]*")):
        detail = f"there is a GPU, and torch {torch.__version__} cannot use it"
        return [Finding("gpu", "warning", detail, "check nvidia-smi; install a torch for CUDA, and '.[gpu]'")]
    return [Finding("gpu", "ok", "no GPU: the CPU is used")]


# ---- the store ------------------------------------------------------------------------------------------------------


def check_store(uri: str) -> list[Finding]:
    """Whether a store does what we count on, tried on objects of our own under a new name, which are removed."""
    trial = StoreTrial(objects.join(uri, f"doctor-{uuid.uuid4().hex}"))
    with removed_after(trial):
        return _try_store(uri, trial)


def _try_store(uri: str, trial: StoreTrial) -> list[Finding]:
    findings: list[Finding] = []
    for name, step in trial.steps().items():
        try:
            wrong, remedy = step(), _ANOTHER_STORE
        except GatefoldError as error:
            wrong, remedy = error.message.replace(trial.folder, uri), _store_remedy(uri, error)
        if wrong is not None:
            findings.append(Finding("store", "fault", f"cannot {name}: {wrong}", remedy))
        if name == "write":
            if wrong is not None:  # so would the others
                return findings
            findings += check_clock(trial.whole, trial.put_at)
    if not any(finding.state == "fault" for finding in findings):
        findings.insert(0, Finding("store", "ok", f"{uri}: {', '.join(trial.steps())}"))
    return findings


def _store_remedy(uri: str, error: GatefoldError) -> str:
    if objects.local_path(uri) is not None:
        return "give this account the right to it, or choose another place with --workspace"
    if isinstance(error, StorageDenied):
        return "check the credentials, this machine's clock, and that the account may s3:*Object and s3:ListBucket"
    if isinstance(error, Unavailable):
        return "check AWS_ENDPOINT_URL, and that this machine can reach it"
    return "check the bucket's name in --workspace, and make the bucket if there is none"


def check_clock(uri: str, put_at: tuple[float, float]) -> list[Finding]:
    """The store's clock against ours, by the time it gives an object.

    Args:
        put_at: seconds since 1970 here before and after it was put.
    """
    modified = objects.stat(uri).modified
    if objects.local_path(uri) is not None or modified is None:
        return [Finding("clock", "ok", "the workspace has no other clock than this machine")]
    there, (before, after) = modified.timestamp(), put_at
    ahead_s = max(0.0, there - after) + min(0.0, there + 1 - before)  # stores give whole seconds
    state = _graded(-abs(ahead_s), (-_SKEW_S[0], -_SKEW_S[1]))
    if state == "ok":
        return [Finding("clock", "ok", "as the store's")]
    which = "behind" if ahead_s > 0 else "ahead of"
    detail = f"this machine's clock is {abs(ahead_s):,.0f} s {which} the store's, which refuses signatures far off"
    return [Finding("clock", state, detail, "let it be set: timedatectl set-ntp true, or chronyc makestep")]


def check_leases(workspace: Workspace) -> list[Finding]:
    """Who writes in the workspace at present, by the leases there, and whether its clock and ours agree."""
    findings = []
    try:
        found = list(objects.list_objects(workspace.runs))
    except GatefoldError as error:
        return [Finding("leases", "warning", f"cannot be listed: {error.message}", "do what is said of the store")]
    for info in (one for one in found if objects.name(objects.parent(one.uri)) == "lease"):
        with suppress(NotFound):  # released since it was listed
            holder = json.loads(objects.read(info.uri))
            if not holder["released"]:
                findings.append(_judge_holder(objects.relative(info.uri, workspace.uri), holder))
    return findings or [Finding("leases", "ok", "no run is under way in this workspace")]


def _judge_holder(name: str, holder: dict[str, Any]) -> Finding:
    silent_s = time.time() - holder["renewed_at"]
    who = f"'{name}' is held by process {holder['pid']} on '{holder['host']}'"
    if silent_s < -_SKEW_S[0]:
        detail = f"{who}, whose clock is {-silent_s:,.0f} s ahead of this machine's"
        return Finding("leases", "warning", detail, "let both clocks be set: timedatectl set-ntp true")
    if silent_s > LEASE_TTL_S:
        detail = f"{who}, which has not renewed it for {silent_s:,.0f} s: it was killed, or its clock is behind"
        remedy = f"a run takes over what is not renewed for {LEASE_TTL_S:g} s; check the clock of that host"
        return Finding("leases", "warning", detail, remedy)
    return Finding("leases", "ok", f"{who}, which renewed it {max(0.0, silent_s):,.0f} s ago")


# ---- the machine ----------------------------------------------------------------------------------------------------


def check_disks(uri: str) -> list[Finding]:
    """Room where Ray keeps what does not fit into memory, and in a workspace on a local disk."""
    from pipelines.cluster import ray_folder

    places = {"Ray's temporary files": (ray_folder(os.environ), "set RAY_TMPDIR to a larger disk")}
    if (workspace := objects.local_path(uri)) is not None:
        places["the workspace"] = (workspace, "choose a larger disk with --workspace")
    findings = []
    for what, (place, other) in places.items():
        there = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(there).free
        state = _graded(free, _DISK_BYTES)
        detail = f"{free / _GB:,.1f} GiB free for {what} ({place})"
        findings.append(Finding("disk", state, detail, "" if state == "ok" else f"make room, or {other}"))
    return findings


def check_memory(source: Path = Path("/proc/meminfo")) -> list[Finding]:
    """How much memory is free; nothing where the system does not say."""
    if not source.exists():
        return []
    lines = dict(line.split(":", 1) for line in source.read_text().splitlines())
    available, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    state = _graded(available, _MEMORY_BYTES)
    remedy = "" if state == "ok" else "end what else runs here; each core's worker takes about half a GiB"
    return [Finding("memory", state, f"{available / _GB:,.1f} of {total / _GB:,.1f} GiB available", remedy)]


def check_open_files() -> list[Finding]:
    """How many files a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES:
        return [Finding("open files", "ok", "any number" if soft == resource.RLIM_INFINITY else f"up to {soft:,}")]
    detail = f"at most {soft:,}, and Ray takes many"
    return [Finding("open files", "warning", detail, "ulimit -n 65536 in the shell that starts Ray")]


def _graded(value: float, limits: tuple[float, float]) -> FindingState:
    """Under the second limit a fault, under the first a warning."""
    warning, fault = limits
    return "fault" if value < fault else "warning" if value < warning else "ok"


# ---- pipelines and serve ---------------------------------------------------------------------------------------------


def check_ray(environment: Mapping[str, str]) -> list[Finding]:
    """Which Ray commands use, and whether it answers."""
    from pipelines.cluster import check_reachable, choose

    remedy = "start that cluster (ray up cluster.yaml, ray start --head), or unset RAY_ADDRESS to start Ray here"
    try:
        place = choose(environment)
        check_reachable(place.address)
    except Unavailable as error:
        return [Finding("ray", "fault", error.message, remedy)]
    except OSError as error:
        return [Finding("ray", "fault", f"nobody listens at '{place.address}' (RAY_ADDRESS): {error}", remedy)]
    return [Finding("ray", "ok", f"commands run on {place}")]


def check_keys(environment: Mapping[str, str]) -> list[Finding]:
    """Whether GATEFOLD_API_KEYS can be read; neither keys nor hashes are repeated."""
    from serve.middleware.keys import VARIABLE, Keys

    try:
        keys = Keys.from_environment(environment)
    except InvalidSettings as error:
        return [Finding("api keys", "fault", error.message, f"put SHA-256 sums into {VARIABLE}, separated by commas")]
    if not keys.required:
        return [_judge_open_endpoint(environment)]
    found = f"{VARIABLE} can be read: an endpoint deployed from here gets its {len(keys.hashes)} hashes"
    return [Finding("api keys", "ok", f"{found}, and every call needs a key; one that runs already keeps its own")]


def _judge_open_endpoint(environment: Mapping[str, str]) -> Finding:
    """An endpoint without keys: harmless on the loopback address, and less so on a cluster that is joined."""
    from pipelines.cluster import LOCAL, choose
    from serve.middleware.keys import VARIABLE

    detail = (f"{VARIABLE} is not set: where `gatefold keys list` shows a key, an endpoint needs one; where it shows "
              "none, it is open on a loopback address, and on other hosts needs --open")  # fmt: skip
    try:
        place = choose(environment)
    except Unavailable:  # which the check of Ray reports
        return Finding("api keys", "ok", detail)
    if place.address == LOCAL:
        return Finding("api keys", "ok", detail)
    remedy = f"set {VARIABLE} to SHA-256 sums of keys for `gatefold serve`, or keep its --host at 127.0.0.1"
    return Finding("api keys", "warning", f"{detail}; it would run on {place}", remedy)
