"""Encode all images of an archive once, so that detectors score it without reading images.

    sdmad encode --archive s3://bucket/odir --backbone hf-hub:organisation/name \\
        --output s3://bucket/odir-activations
"""

from typing import Annotated

import typer

from sdmad.commands.options import (
    AcceptChanges,
    Archive,
    BatchSize,
    DecodeSeconds,
    DetectorCalls,
    DetectorCpus,
    DetectorGpus,
    Detectors,
    Precision,
    Prune,
    outcome,
    pipeline,
)
from sdmad.runtime.cli import say


def encode(
    archive: Archive,
    output: Annotated[str, typer.Option(help="Where to write activations: path or s3:// URI.")],
    backbone: Annotated[
        str | None,
        typer.Option(help="Name of an open_clip model, hf-hub:organisation/name, or a folder."),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Weights of an open_clip model: a tag or a checkpoint file."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Training configuration whose backbone and input to use."),
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Detector whose backbone and input to use.")
    ] = None,
    batch_size: BatchSize = 64,
    detectors: Detectors = None,
    detector_gpus: DetectorGpus = None,
    detector_cpus: DetectorCpus = None,
    detector_calls: DetectorCalls = None,
    decode_seconds: DecodeSeconds = 120,
    precision: Precision = "auto",
    accept_changes: AcceptChanges = False,
    prune: Prune = False,
) -> None:
    """Encode all images of an archive once, for `score --activations`.

    Finished work units are skipped: the same command resumes an interrupted
    run, and encodes images that were added to the archive since.
    """
    from sdmad import storage
    from sdmad.scoring.encode import chosen_backbone, encode_archive

    source, target = storage.resolve(archive), storage.resolve(output)
    storage.check_readable(source, "archive")
    storage.check_writable(target)
    tally = encode_archive(
        source,
        *chosen_backbone(backbone, pretrained, config, detector),
        target,
        pipeline(
            batch_size,
            detectors,
            detector_gpus,
            detector_cpus,
            detector_calls,
            decode_seconds,
            precision,
        ),
        accept_changes,
        prune,
    )
    say(outcome(tally, "encoded", f"the activations are at {target}"))
