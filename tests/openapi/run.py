"""`schemathesis run` on an endpoint, and a client generated from its description."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
SEED = 1
WITHIN_S = 300
"""seconds; an export of 3,000 pixels takes one or two of them, and there are dozens"""


def faults(url: str, folder: Path, *, examples: int, key: str | None = None, known: Mapping[str, Any]) -> str:
    """What schemathesis finds with all of its checks; an empty text where it is nothing.

    Args:
        url: of the endpoint.
        folder: where its configuration may be written.
        examples: requests made up for each operation, beside those that cover the description.
        key: an API key.
        known: values of path parameters; the others are made up.
    """
    config = (HERE / "schemathesis.toml").read_text()
    values = [f'"path.{name}" = {json.dumps(value)}' for name, value in known.items()]
    extra = "\n".join(["[parameters]", *values])
    if key is not None:
        extra += f'\n\n[auth.openapi.HTTPBearer]\nbearer = "{key}"'
    path = folder / "schemathesis.toml"
    path.write_text(config.replace("[[operations]]", f"{extra}\n\n[[operations]]", 1))
    options = ["--checks", "all", "--seed", str(SEED), "--max-examples", str(examples), "--generation-codec", "utf-8"]
    options += ["--generation-database", "none", "--continue-on-failure", "--no-color", "--request-timeout", "30"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", str(path), "run", f"{url}/openapi.json", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    said = done.stdout + done.stderr
    tested = re.search(r"Tested: (\d+)", said)
    if done.returncode == 0 and tested and int(tested[1]) > 0:
        return ""
    return said


def generated_client(description: Mapping[str, Any], folder: Path) -> ModuleType:
    """The package that openapi-python-client makes of a description, imported."""
    source = folder / "openapi.json"
    source.write_text(json.dumps(description))
    options = ["--path", str(source), "--output-path", str(folder / "gatefold_client"), "--meta", "none"]
    options += ["--config", str(HERE / "client.yaml"), "--fail-on-warning"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *options],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("gatefold_client")
    finally:
        sys.path.remove(str(folder))
