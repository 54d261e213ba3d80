"""What integration tests share: a real S3 protocol on a loopback port, and a real local Ray."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import boto3
import pytest
import ray

from tests.shell import Demo, Shell


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """`s3://<bucket>` of a server of our own, which the SDK's environment points to while the session lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "gatefold",
        "AWS_SECRET_ACCESS_KEY": "gatefold",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in ours}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(ours)
    try:
        _wait_for(port, server)
        boto3.client("s3").create_bucket(Bucket="gatefold-tests")
        yield "s3://gatefold-tests"
    finally:
        server.terminate()
        server.wait(timeout=20)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[str]:
    """`s3`, with local Ray beside it: started after the S3 server, so that its workers inherit the way there."""
    # "local", or Ray joins whatever other cluster this machine happens to run
    # and metrics go out each second, not each ten
    often = {"metrics_report_interval_ms": 1000}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=often)
    yield s3
    ray.shutdown()


@pytest.fixture(scope="session")
def demo(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The whole way, once: every stage on a Ray of its own, in a bucket."""
    shell = Shell(tmp_path_factory.mktemp("demo"), f"{s3}/demo")
    return Demo(shell, shell("demo", "--no-serve"))


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with code {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not answer within 60 s")
