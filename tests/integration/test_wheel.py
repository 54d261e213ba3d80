"""gatefold as it is installed: from a wheel, in an environment without the checkout, started in another folder."""

import json
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shell import ROOT, SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since setuptools leaves folders of its own where it builds
    for package in ("gatefold", "pipelines", "serve"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, source],
        cwd=folder, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (built,) = folder.glob("gatefold-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel, and with what it depends on, by a path to where these are installed: paths in
    the `.pth` files there, such as this checkout's, do not count in another environment's `.pth` file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (libraries,) = (folder / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(libraries)
    (libraries / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "python"


class Installed:
    """The command of the wheel, in an empty folder."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        self._front = [str(python), "-m", "gatefold", "--config", "small.yaml", "--json"]
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._environment = {**kept, "RAY_ADDRESS": "local"}

    def start(self, *args: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self._front, *args],
            cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def __call__(self, *args: str) -> Any:
        process = self.start(*args)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        return json.loads(out)


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"serve/serve.yaml", "pipelines/prices.yaml", "pipelines/workers.yaml"}
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "serve/jobs/migrations").rglob("*.py")}
    for folder in ("gatefold/examples", "serve/static"):
        wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert wanted <= names


def test_an_installed_gatefold_is_not_the_checkout(python: Path, tmp_path: Path) -> None:
    program = "import gatefold, pipelines, serve; print(gatefold.__file__, pipelines.__file__, serve.__file__)"
    shown = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(ROOT) not in shown


def test_an_installed_gatefold_plans_with_its_own_machines_and_prices(python: Path, tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "a.ogg").write_bytes((ROOT / "gatefold" / "examples" / "17_game_jingle_cc0.ogg").read_bytes())
    planned = Installed(python, tmp_path)("plan", "songs", "--sample", "1")
    assert [worker["instance_type"] for worker in planned["estimate"]["workers"]] == ["c7i.4xlarge"]


@pytest.mark.chaos  # the demo of an installed wheel takes minutes
@pytest.mark.timeout(1500)
def test_an_installed_gatefold_does_the_demo_and_serves_it_with_its_songs(python: Path, tmp_path: Path) -> None:
    gatefold = Installed(python, tmp_path)
    done = gatefold("demo", "--songs", "60", "--no-serve")
    examples = next(stage for stage in done["stages"] if stage["stage"] == "examples")
    assert examples["done"] == 17
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = gatefold.start("serve", "--port", str(port))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        url = json.loads(line)["url"]
        for path, found in (("/", b"<html"), ("/examples", b"jingle"), ("/v1/releases/current", b"version")):
            with urllib.request.urlopen(url + path, timeout=60) as answer:
                assert found in answer.read(), path
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 143
