"""clip-retrieval's `clip inference`: the function behind its command line.

webdataset has no scheme for S3 with an endpoint of one's own: it reads presigned URLs, through curl
as for any web address. It takes images of one extension only, here that of the first member. The
tool writes embeddings, in half precision, and no similarities.
"""

from pathlib import Path

from task import Task, images, list_shards, parse, split


def presigned(shard: str) -> str:
    """A web address of a shard, good for a day."""
    import boto3

    bucket, key = split(shard)
    request = {"Bucket": bucket, "Key": key}
    return boto3.client("s3").generate_presigned_url("get_object", request, ExpiresIn=86_400)


def first_extension(shard: str) -> str:
    """Of the first image in a shard, without its dot."""
    import boto3

    bucket, key = split(shard)
    name, _ = next(images(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]))
    return Path(name).suffix[1:].lower()


def main(task: Task) -> None:
    # Not at the top: the tool's loggers are processes that import this file again.
    import torch
    from clip_retrieval.clip_inference.main import main as clip_inference

    torch.set_num_threads(task.threads)
    shards = list_shards(task.shards)
    urls = [presigned(shard) for shard in shards]
    clip_inference(
        input_dataset=urls[0] if len(urls) == 1 else f"{{{','.join(urls)}}}",
        output_folder=str(task.output),
        input_format="webdataset",
        batch_size=task.batch,
        num_prepro_workers=task.workers,
        enable_text=False,
        wds_image_key=first_extension(shards[0]),
        clip_model=f"open_clip:{task.model}/{task.checkpoint}",
        use_jit=False,
    )


if __name__ == "__main__":
    main(parse())
