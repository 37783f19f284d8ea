"""An S3 server on this machine's loopback interface, for the demo and the tests.

    with local_s3("my-bucket"):
        storage.write_bytes("s3://my-bucket/x", b"...")

The server is moto in a separate process and holds its objects in memory. Environment variables
point boto3, s3fs and pyarrow to it, with dummy credentials.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_SECONDS = 60
_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def local_s3(*buckets: str) -> Iterator[str]:
    """Serve empty buckets until the block ends; yields the URL of the endpoint.

    Raises `TimeoutError` when the server exits or does not answer within a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    before = {name: os.environ.get(name) for name in (*_VARIABLES, "AWS_ENDPOINT_URL")}
    os.environ.update(_VARIABLES, AWS_ENDPOINT_URL=endpoint)
    server = subprocess.Popen(  # noqa: S603 - our own interpreter, no input of others
        [sys.executable, "-m", "sdmad.demo.local_s3", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(server, buckets)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=10)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait(server: subprocess.Popen, buckets: tuple[str, ...]) -> None:
    quick = Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 0})
    client = boto3.client("s3", config=quick)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.list_buckets()
            break
        except (BotoCoreError, ClientError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError("the local S3 server did not start") from None
            time.sleep(0.2)
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)


def hold_objects_once() -> None:
    """Make moto in this process hold objects in memory and read ranges without copying objects.

    By default moto copies the whole object for each range read. Every block read from a shard would
    copy the shard, on cores that the readers need.
    """
    from moto.s3.models import FakeKey

    os.environ["MOTO_S3_DEFAULT_KEY_BUFFER_SIZE"] = str(sys.maxsize)
    whole = vars(FakeKey)["value"].getter(lambda key: key._value_buffer._file.getvalue())
    FakeKey.value = whole  # type: ignore[method-assign]


if __name__ == "__main__":
    from moto import server

    hold_objects_once()
    server.main()
