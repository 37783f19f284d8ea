"""clip-retrieval's `clip inference`, called as a library so that its start-up can be told apart.

webdataset has no scheme for S3 with an endpoint of one's own: it reads presigned URLs, through curl
as for any web address. It takes images of one extension only, here that of the first member. The
tool writes embeddings, in half precision, and no similarities.
"""

from task import Task, images, list_shards, parse, report, split

# isort: split
import time
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import torch
from all_clip import load_clip
from clip_retrieval.clip_inference.main import main as clip_inference


def presigned(shard: str) -> str:
    """A web address of a shard, good for a day."""
    bucket, key = split(shard)
    request = {"Bucket": bucket, "Key": key}
    return boto3.client("s3").generate_presigned_url("get_object", request, ExpiresIn=86_400)


def first_extension(shard: str) -> str:
    """Of the first image in a shard, without its dot."""
    bucket, key = split(shard)
    name, _ = next(images(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]))
    return Path(name).suffix[1:].lower()


def main(task: Task) -> None:
    torch.set_num_threads(task.threads)
    shards = list_shards(task.shards)
    extension = first_extension(shards[0])
    urls = [presigned(shard) for shard in shards]
    model = f"open_clip:{task.model}/{task.checkpoint}"
    # The tool loads the model by this cached call: made now, it is part of the start-up. The
    # cache knows the call by the order of its arguments, too.
    load_clip(clip_model=model, use_jit=False, warmup_batch_size=task.batch, clip_cache_path=None)
    begin = time.time()
    clip_inference(
        input_dataset=urls[0] if len(urls) == 1 else f"{{{','.join(urls)}}}",
        output_folder=str(task.output),
        input_format="webdataset",
        batch_size=task.batch,
        num_prepro_workers=1 if task.workers is None else task.workers,
        enable_text=False,
        wds_image_key=extension,
        clip_model=model,
        use_jit=False,
    )
    tables = list((task.output / "metadata").glob("*.parquet"))
    written = sum(pq.read_metadata(path).num_rows for path in tables)
    # After its last output the tool waits for a logger.
    report(written, begin, max(path.stat().st_mtime for path in tables))


if __name__ == "__main__":
    main(parse())
