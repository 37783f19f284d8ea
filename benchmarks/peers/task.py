"""The task of every peer: its arguments, and reading of shards.

Runs in the environments of the peers, which do not have sdmad.
"""

import argparse
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Task:
    """Compute unit embeddings of images and their cosines with `prompts` (P, E).

    The images are in the tar shards under the prefix `shards`; the model is an open_clip `model`
    with the weights in `checkpoint`. `threads` are PyTorch's in the process of the model; `workers`
    is the number of processes that read and decode.
    """

    shards: str
    model: str
    checkpoint: str
    prompts: Path
    output: Path
    batch: int
    threads: int
    workers: int


def parse() -> Task:
    """The task from the command line; makes its output folder."""
    parser = argparse.ArgumentParser()
    for name, kind in (
        *(("shards", str), ("model", str), ("checkpoint", str)),
        *(("prompts", Path), ("output", Path)),
        *(("batch", int), ("threads", int), ("workers", int)),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
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

    bucket, folder = split(prefix.rstrip("/") + "/")
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=bucket, Prefix=folder).search("Contents[].Key")
    shards = [f"s3://{bucket}/{key}" for key in found if key and key.endswith(".tar")]
    if not shards:
        raise SystemExit(f"no tar files under {prefix}")
    return shards


def images(shard: Any) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the images in an opened tar, read in one pass."""
    with tarfile.open(fileobj=shard, mode="r|", bufsize=1 << 20) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.lower().endswith(IMAGES):
                yield member.name, file.read()
