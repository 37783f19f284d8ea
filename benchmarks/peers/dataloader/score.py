"""A plain script: a PyTorch DataLoader over tar streams, and open_clip.

Each worker reads, decodes and resizes every n-th shard; the main process runs the model.
"""

import io
from collections.abc import Callable, Iterator

import boto3
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from task import Task, images, list_shards, parse, split
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Images(IterableDataset):
    """(member name, transformed image) of all shards, read in one pass each."""

    def __init__(self, shards: list[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.shards = shards
        self.transform = transform

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        worker = get_worker_info()
        mine = self.shards[worker.id :: worker.num_workers] if worker else self.shards
        s3 = boto3.client("s3")
        for shard in mine:
            bucket, key = split(shard)
            body = s3.get_object(Bucket=bucket, Key=key)["Body"]
            for name, content in images(body):
                yield name, self.transform(Image.open(io.BytesIO(content)))


def main(task: Task) -> None:
    torch.set_num_threads(task.threads)
    model, _, transform = open_clip.create_model_and_transforms(
        task.model, pretrained=task.checkpoint
    )
    model.eval()
    prompts = torch.from_numpy(np.load(task.prompts))
    loader = DataLoader(
        Images(list_shards(task.shards), transform),
        batch_size=task.batch,
        num_workers=task.workers,
        prefetch_factor=4 if task.workers else None,
    )
    members, embeddings, similarities = [], [], []
    with torch.inference_mode():
        for names, pixels in loader:
            v = F.normalize(model.encode_image(pixels), dim=-1)
            members += names
            embeddings.append(v.numpy())
            similarities.append((v @ prompts.T).numpy())
    table = pa.table(
        {
            "member": members,
            "embedding": list(np.concatenate(embeddings)),
            "similarity": list(np.concatenate(similarities)),
        }
    )
    pq.write_table(table, task.output / "scores.parquet")


if __name__ == "__main__":
    main(parse())
