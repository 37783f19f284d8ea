"""Score the images of an archive: one of the tasks of `sdmad.scoring.run`.

score_archive("s3://bucket/archive", "s3://bucket/train", "s3://bucket/scores", PipelineConfig())
"""

from dataclasses import dataclass

from sdmad.backbones.loading import load_backbone
from sdmad.detector import Detector
from sdmad.fits import code_version
from sdmad.method.decision import Decision
from sdmad.scoring.actor import DetectorActor
from sdmad.scoring.decisions import read_decision
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.plan import SCORING
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.run import Task, run_task
from sdmad.scoring.status import JOB
from sdmad.scoring.tables import ScoreColumns
from sdmad.scoring.tally import Tally
from sdmad.storage import run_record


def score_archive(
    archive: str,
    detector_uri: str,
    output: str,
    config: PipelineConfig,
    per_seed: bool = True,
    backbone: str | None = None,
    accept_changes: bool = False,
    prune: bool = False,
    decision_uri: str | None = None,
) -> Tally:
    """Score the unfinished work units of an archive and write `run.json`; URIs must be resolved.

    `accept_changes` and `prune` are those of `make_plan`; a decision file gives probabilities and
    findings. Raises `UserError` before any work starts when archive, detector and output do not
    match.
    """
    run_record.read_earlier(output, JOB)
    detector = Detector.load(detector_uri, device="cpu", backbone=backbone)
    made = described(archive, detector_uri, detector, per_seed, decision_uri)
    spec = detector.spec
    del detector
    load_backbone.cache_clear()

    def operators(filled: PipelineConfig) -> Operators:
        device = None if filled.detector_gpus else "cpu"
        return Operators(
            read_and_decode,
            {"spec": spec, "decode_seconds": filled.decode_seconds},
            DetectorActor,
            (
                detector_uri,
                backbone,
                made.columns,
                filled.detector_threads,
                device,
                filled.precision,
                made.decision,
            ),
        )

    task = Task(
        JOB, archive, SCORING, made.columns.schema, made.metadata, operators, decision=made.decision
    )
    return run_task(task, output, config, accept_changes, prune)


@dataclass(frozen=True)
class Described:
    """What a run writes of the scores of a detector: columns, metadata, and by which decision."""

    columns: ScoreColumns
    metadata: dict[str, str]
    decision: Decision | None


def described(
    archive: str, uri: str, detector: Detector, per_seed: bool, decision_uri: str | None
) -> Described:
    """The scores of images by a detector, read from `uri`.

    Raises `UserError` for a decision file that is not for this detector.
    """
    columns = ScoreColumns(detector.catalog.category_names, detector.num_seeds, per_seed)
    metadata = {
        "archive": archive,
        "source": "images",
        "detector": detector.digest,
        "detector_uri": uri,
        "backbone": f"{detector.provenance.backbone} {detector.backbone.fingerprint}",
        "input": detector.spec.to_json(),
        "catalog": detector.catalog.digest,
        "categories": ";".join(columns.categories),
        "seeds": ";".join(map(str, detector.seeds)),
        "per_seed": str(per_seed).lower(),
        "code_version": code_version(),
    }
    stated = detector.provenance.learner.stated(columns.categories)
    if stated is not None:
        metadata["prevalence"] = ";".join(f"{share:g}" for share in stated.categories.tolist())
    if not decision_uri:
        return Described(columns, metadata, None)
    read = read_decision(decision_uri)
    read.check(detector.digest, uri, columns.categories)
    return Described(columns, metadata | read.metadata, read.decision)
