"""An S3 server: moto in a process of its own, which keeps objects in memory and checks no signature."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from typing import Self

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""The environment in which clients reach the server and nothing beyond it."""

START_SECONDS = 30


class S3Server:
    """Runs inside a `with` block; the environment must hold `CREDENTIALS`."""

    def __enter__(self) -> Self:
        self._port = _free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def options(self) -> dict[str, str]:
        """Storage options for fsspec."""
        return {"endpoint_url": self.endpoint}

    def bucket(self, name: str) -> str:
        """Make a bucket and return its URL."""
        status = self._ask("PUT", f"/{name}")
        if status != 200:
            raise RuntimeError(f"the S3 server answered {status} when asked for a bucket named {name!r}")
        return f"s3://{name}"

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the S3 server ended with {self._process.returncode}; is moto[server] installed?")
            try:
                self._ask("GET", "/moto-api/")
            except ConnectionError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError(f"the S3 server did not answer within {START_SECONDS} s")

    def _ask(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
