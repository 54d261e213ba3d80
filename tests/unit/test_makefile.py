"""What the Makefile and `.ci/run` do for their commands."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


def test_commands_of_make_keep_what_python_compiles() -> None:
    command = ["make", "--silent", "--eval", "shown: ; @printenv", "shown"]
    done = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "PATH=" in done.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout


def test_ci_keeps_what_python_compiles() -> None:
    begin, _, _ = (ROOT / ".ci" / "run").read_text().partition("\nmissing=")
    program = begin.replace('cd "$(dirname "$0")/.."', "") + "printenv"
    done = subprocess.run(["bash", "-c", program], env=_ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "PATH=" in done.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout
