"""Daft on its native runner: one UDF each for members, pixels and embeddings.

A generator UDF reads each shard in one pass. Daft's own `read_webdataset` is slower, because it
makes one request for each image; on two cores it also hangs on two shards (Daft 0.7.26) unless
`DAFT_SCANTASK_MAX_PARALLEL=1` is set.
"""

import io
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import daft
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from daft import DataType
from daft.io import IOConfig, S3Config
from PIL import Image
from task import Task, images, parse

VECTOR = DataType.list(DataType.float32())


@lru_cache
def load(model: str, checkpoint: str) -> tuple[Any, Any]:
    """The model and its transform of images, once in this process."""
    clip, _, transform = open_clip.create_model_and_transforms(model, pretrained=checkpoint)
    return clip.eval(), transform


@daft.func(
    return_dtype=DataType.struct({"member": DataType.string(), "content": DataType.binary()}),
    unnest=True,
    use_process=False,
)
def members(shard: daft.File) -> Iterator[dict[str, Any]]:
    with shard.open(buffer_size=1 << 20) as stream:
        for name, content in images(stream):
            yield {"member": name, "content": content}


def transformer(task: Task) -> Any:
    """UDF: encoded bytes -> the model's input (3, H, W)."""
    clip, transform = load(task.model, task.checkpoint)

    @daft.func(
        return_dtype=DataType.tensor(DataType.float32(), (3, *clip.visual.image_size)),
        use_process=False,
    )
    def pixels(content: bytes) -> np.ndarray:
        return transform(Image.open(io.BytesIO(content))).numpy()

    return pixels


def scorer(task: Task) -> Any:
    """UDF: a batch of inputs -> embeddings and similarities."""

    @daft.cls(use_process=False, max_concurrency=1)
    class Scorer:
        def __init__(self) -> None:
            self.clip, _ = load(task.model, task.checkpoint)
            self.prompts = torch.from_numpy(np.load(task.prompts))

        @daft.method.batch(
            return_dtype=DataType.struct({"embedding": VECTOR, "similarity": VECTOR}),
            unnest=True,
            batch_size=task.batch,
        )
        def __call__(self, pixels: daft.Series) -> list[dict[str, np.ndarray]]:
            batch = torch.from_numpy(np.stack(pixels.to_pylist()))
            with torch.inference_mode():
                v = F.normalize(self.clip.encode_image(batch), dim=-1)
                rows = zip(v.numpy(), (v @ self.prompts.T).numpy(), strict=True)
            return [{"embedding": e, "similarity": s} for e, s in rows]

    return Scorer()


def storage() -> IOConfig:
    """S3 endpoint and credentials from the environment."""
    return IOConfig(
        s3=S3Config(
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL"),
            region_name=os.environ.get("AWS_DEFAULT_REGION"),
            key_id=os.environ.get("AWS_ACCESS_KEY_ID"),
            access_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        )
    )


def main(task: Task) -> None:
    torch.set_num_threads(task.threads)
    daft.set_runner_native()
    pixels, score = transformer(task), scorer(task)
    shards = daft.from_files(f"{task.shards.rstrip('/')}/**/*.tar", io_config=storage())
    frame = shards.select(members(shards["file"]))
    frame = frame.select("member", pixels(frame["content"]).alias("pixels"))
    frame = frame.select("member", score(frame["pixels"]))
    frame.write_parquet(str(task.output))


if __name__ == "__main__":
    main(parse())
