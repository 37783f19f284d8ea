"""clip-retrieval: the function behind its command `clip inference`.

webdataset cannot read from an S3 endpoint, so it gets presigned URLs, which it reads through curl.
It takes images of one extension only, here that of the first member. The tool writes embeddings in
half precision and no similarities.
"""

from pathlib import Path

from task import Task, images, list_shards, parse, split


def presigned(shard: str) -> str:
    """A URL of a shard that is valid for a day."""
    import boto3

    bucket, key = split(shard)
    request = {"Bucket": bucket, "Key": key}
    return boto3.client("s3").generate_presigned_url("get_object", request, ExpiresIn=86_400)


def first_extension(shard: str) -> str:
    """The extension of the first image in a shard, without its dot."""
    import boto3

    bucket, key = split(shard)
    name, _ = next(images(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]))
    return Path(name).suffix[1:].lower()


def main(task: Task) -> None:
    # Imported here, because the tool's logger processes import this file again.
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
