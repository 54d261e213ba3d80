"""The command line as it is used: one process a command, everything small."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gatefold.config import Settings

ROOT = Path(__file__).parents[1]
SMALL: dict[str, dict[str, Any]] = {
    "synthesis": {"songs": 48, "artists": 24, "duration_s": 3, "cover_size": 64},
    "audio": {"sample_rate": 8000, "f_max": 4000, "n_mels": 32, "window_s": 1.28},
    "cover": {"size": 16},
    "encoder": {"embed_dim": 16, "width": 16, "epochs": 4, "evaluations": 4},
    "generator": {
        "size": 32,
        "transformer": {
            "patch_size": 4, "hidden": 32, "layers": 1, "heads": 2, "neighbours": 2, "steps": 4,
            "num_inference_steps": 3,
        },
    },
    # so few and so small covers cannot be mixed finely
    "originality": {"max_share": 0.95, "max_region": 0.95, "max_likeness": 1.0, "attempts": 2},
    "evaluation": {"num_generated": 8, "contact_sheet_rows": 2},
    "train": {"num_workers": 2, "checkpoint_steps": 2},
    "batch": {"rows_per_block": 16},
}  # fmt: skip
SETTINGS = Settings.model_validate(SMALL)


class Shell:
    """Calls `gatefold` with the small settings, in a folder of its own, on a Ray of its own unless it is given one.

    Args:
        workspace: URI; in the folder when None.
    """

    def __init__(self, folder: Path, workspace: str | None = None, ray_address: str | None = None) -> None:
        self.folder = folder
        self.workspace = workspace or (folder / "workspace").as_uri()
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        self._front = [sys.executable, "-m", "gatefold", "--config", "small.yaml", "--workspace", self.workspace]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray_address or "local"}

    def start(self, *args: str) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [*self._front, *args],
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            preexec_fn=ignore_ctrl_c,
            **pipes,
        )

    def command(self, *args: str) -> str:
        """The same as a line of bash."""
        return shlex.join([*self._front, *args])

    def __call__(self, *args: str, code: int = 0) -> Any:
        """The object on stdout."""
        process = self.start(*args, "--json")
        out, err = process.communicate(timeout=400)
        assert process.returncode == code, err
        return json.loads(out)


def ignore_ctrl_c() -> None:
    """As what runs in the background of a script begins, and its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def interrupt(
    process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGINT
) -> tuple[str, str]:
    """Ctrl-C, as a terminal sends it: to the whole group; what was said until the end."""
    os.killpg(process.pid, number)
    return process.communicate(timeout=120)


@dataclass(frozen=True)
class Demo:
    """`gatefold demo`, done: who called it, and what was printed."""

    shell: Shell
    printed: Any
