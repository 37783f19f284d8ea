"""SIGKILL of the scoring driver at random moments, then the same command: nothing lost or doubled.

    python benchmarks/kill_driver.py --trials 6

Each trial serves an archive of phantoms from S3, kills the driver after a random time (start-up,
planning, streaming and committing included), runs the same command to its end, and verifies. Also
checks that finished units were not written again and were counted as skipped. Prints one line;
exit code 0 only at zero lost and doubled.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from sdmad import storage
from sdmad.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.learner import AugmentConfig, LearnerConfig
from sdmad.local_s3 import local_s3
from sdmad.phantoms.task import draw_example, encode_png, write_archive
from sdmad.scoring.verify import verify_scores

ROOT = Path(__file__).parents[1]
SHARDS, IMAGES = 60, 40


def fill(archive: str) -> None:
    """Shards of phantoms, and some loose ones."""
    import io
    import tarfile

    content = [encode_png(draw_example(k, "test").image) for k in range(IMAGES)]
    for shard in range(SHARDS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for k, image in enumerate(content):
                info = tarfile.TarInfo(f"{shard}-{k}.png")
                info.size = len(image)
                tar.addfile(info, io.BytesIO(image))
        storage.write_bytes(f"{archive}/{shard:03d}.tar", buffer.getvalue())
    for k in range(50):
        storage.write_bytes(f"{archive}/loose/{k}.png", content[k % IMAGES])


def parts(output: str) -> dict[str, str]:
    return {e.uri: e.etag for e in storage.list_objects(f"{output}/scores")}


def trial(
    archive: str, detector: str, output: str, delay: float, while_committing: bool
) -> tuple[int, int, int]:
    """Kill after `delay` seconds, finish, verify: (finished before, lost, doubled).

    `while_committing` counts the delay from the first finished unit.
    """
    command = [sys.executable, "jobs/score_archive.py", "--archive", archive]
    command += ["--detector", detector, "--output", output, "--batch-size", "16"]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while while_committing and driver.poll() is None and not parts(output):
        time.sleep(0.02)
    time.sleep(delay)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = parts(output)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    record = json.loads(storage.read_bytes(f"{output}/run.json"))
    assert record["units_skipped"] == len(before), "finished units are skipped"
    assert before.items() <= parts(output).items(), "finished units are not written again"
    verdict = verify_scores(archive, output)
    return len(before), len(verdict.lost), len(verdict.doubled) + len(verdict.foreign)


def main(
    trials: Annotated[int, typer.Option(help="Kills.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
) -> None:
    """Run the trials."""
    generator = random.Random(seed)  # noqa: S311 - moments, no secrets
    lost = doubled = 0
    finished = []
    with local_s3("soak"), tempfile.TemporaryDirectory() as folder:
        labels = write_archive(f"{folder}/few", pool=200, test=10)
        train = TrainConfig(
            archive=f"{folder}/few",
            labels=labels,
            catalog="phantoms",
            learner=LearnerConfig(steps=5, augment=AugmentConfig(views=1)),
            shots=[1],
            seeds="0:2",
        )
        train_seeds(train, f"{folder}/train")
        fill("s3://soak/archive")
        for number in range(trials):
            # Every third kill falls into start-up and planning, the others between commits.
            committing = number % 3 > 0
            delay = generator.uniform(0, 1.5) if committing else generator.uniform(3, 12)
            output = f"s3://soak/scores-{number}"
            before, gone, twice = trial(
                "s3://soak/archive", f"{folder}/train", output, delay, committing
            )
            since = " after the first unit" if committing else ""
            print(f"killed {delay:.1f} s{since} with {before} of {SHARDS + 1} units finished")
            finished.append(before)
            lost, doubled = lost + gone, doubled + twice
    images = trials * (SHARDS * IMAGES + 50)
    print(f"{trials} trials, {images} images, {lost} lost, {doubled} doubled")
    sys.exit(bool(lost or doubled))


if __name__ == "__main__":
    typer.run(main)
