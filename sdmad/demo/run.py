"""The steps of the demo: write phantoms, fit, score, verify, evaluate."""

import shutil
import time
from pathlib import Path

import typer

from sdmad import storage
from sdmad.demo.local_s3 import local_s3
from sdmad.errors import UserError
from sdmad.fitting.config import TrainConfig
from sdmad.fitting.run import train_seeds
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig
from sdmad.method.probe import ProbeConfig
from sdmad.method.selection import SelectionConfig
from sdmad.phantoms.task import write_archive
from sdmad.report.run import Evaluated, evaluate_run
from sdmad.scoring.images import score_archive
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.verify import verify_scores
from sdmad.words import as_typed, counted

BUCKET = "sdmad-demo"
MARKER = ".sdmad-demo"
DETECTORS = ("sd-mad", "zero-shot")


def zero_shot() -> LearnerConfig:
    """The frozen backbone with the same signs: without adapters, sign selection and patch probe.

    Only the scale of the evidence comes from the support.
    """
    frozen = TowerAdapterConfig(blocks=0)
    return LearnerConfig(
        steps=0,
        zero_shot_weight=1.0,
        adapted_weight=0.0,
        adapter=AdapterConfig(image=frozen, text=frozen),
        augment=AugmentConfig(views=1),
        selection=SelectionConfig(mode="none"),
        probe=ProbeConfig(weight=0),
    )


def run_demo(output: Path, shots: int, seeds: int, images: int) -> Evaluated:
    """Run the demo in a bucket on this machine and write all results under `output`.

    `shots` is the number of support images per category, `images` the number of phantoms in the
    pool and in the test split. Raises `UserError` when `output` has files of another origin.
    """
    begin = time.monotonic()
    _clear(output)
    with local_s3(BUCKET) as endpoint:
        archive = f"s3://{BUCKET}/archive"
        phantoms = counted(2 * images, "phantom")
        _say(f"writing {phantoms} as tar shards to {archive} (S3 on {endpoint})")
        labels = write_archive(archive, pool=images, test=images, damaged=3)
        for name in DETECTORS:
            learner = LearnerConfig() if name == "sd-mad" else zero_shot()
            run = str(output / name)
            config = TrainConfig(
                archive=archive,
                labels=labels,
                catalog="phantoms",
                learner=learner,
                shots=[shots],
                seeds=f"0:{seeds}",
            )
            grid = f"{counted(seeds, 'seed')} at {counted(shots, 'shot')}"
            _say(f"{name}: fitting {grid} with Ray Train")
            train_seeds(config, storage.join(run, "train"))
            _say(f"{name}: scoring the bucket with Ray Data")
            score_archive(
                archive,
                storage.join(run, "train"),
                storage.join(run, "scores"),
                PipelineConfig(),
            )
            verdict = verify_scores(archive, storage.join(run, "scores"))
            seen, damaged = counted(verdict.images, "image"), counted(verdict.failed, "failure")
            _say(
                f"{name}: verified {seen} in the bucket: {verdict.scored:,} scored, "
                f"{damaged} (damaged on purpose), {len(verdict.lost):,} lost, "
                f"{len(verdict.doubled):,} doubled"
            )
        _say("computing the metrics and writing the report")
        result = evaluate_run(
            storage.join(str(output), "sd-mad", "scores"),
            labels,
            storage.join(str(output), "report"),
            {"zero-shot": storage.join(str(output), "zero-shot", "scores")},
        )
    _say(f"finished in {time.monotonic() - begin:.0f} s")
    return result


def _clear(output: Path) -> None:
    """Remove the results of an earlier demo; `UserError` if the folder is not the demo's."""
    marker = output / MARKER
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise UserError(
            f"{output} is not empty and was not made by the demo; choose another --output"
        )
    for name in (*DETECTORS, "report"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _say(text: str) -> None:
    typer.secho(f"== {as_typed(text)}", err=True, bold=True)
