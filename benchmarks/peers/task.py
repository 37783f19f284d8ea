"""What every peer is asked to do: its arguments, the shards, the line that it ends with.

Runs in the environments of the peers: import it first, it holds the time at which a peer started.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = time.time()
IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Task:
    """Unit embeddings, and cosine similarities with `prompts` (P, E), of the images of all tar
    shards under the prefix `shards`, by an open_clip `model` with the weights in `checkpoint`."""

    shards: str
    model: str
    checkpoint: str
    prompts: Path
    output: Path
    batch: int
    threads: int
    workers: int | None


def parse() -> Task:
    """The task on the command line."""
    parser = argparse.ArgumentParser()
    for name, kind in (("shards", str), ("checkpoint", str), ("prompts", Path), ("output", Path)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, help="reading processes; the peer's best if left")
    task = Task(**vars(parser.parse_args()))
    task.output.mkdir(parents=True, exist_ok=True)
    return task


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def list_shards(prefix: str) -> list[str]:
    """The URIs of all tar files under a prefix; ends the peer when there are none."""
    import boto3

    bucket, folder = split(prefix)
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=bucket, Prefix=folder).search("Contents[].Key")
    shards = [f"s3://{bucket}/{key}" for key in found if key and key.endswith(".tar")]
    if not shards:
        raise SystemExit(f"there are no tar files under {prefix}")
    return shards


def images(shard: Any) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the images in an opened tar, read in one pass."""
    with tarfile.open(fileobj=shard, mode="r|", bufsize=1 << 20) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.lower().endswith(IMAGES):
                yield member.name, file.read()


def report(images: int, begin: float, end: float) -> None:
    """Print the result: `begin` and `end` are the times of the steady part, as `time.time()`."""
    result = {"images": images, "seconds": end - begin, "startup_seconds": begin - STARTED}
    print(f"\n{json.dumps(result)}", flush=True)
