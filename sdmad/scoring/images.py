"""Score the images of an archive: one of the tasks of `sdmad.scoring.run`.

score_archive("s3://bucket/archive", "s3://bucket/train", "s3://bucket/scores", PipelineConfig())
"""

from dataclasses import dataclass

from sdmad.fits import Fit, code_version, fits_digest, load_fits
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

    `backbone` is the new place of the backbone's weights, `accept_changes` and `prune` are those of
    `make_plan`; a decision file gives probabilities and findings. Only the detectors load the
    backbone. Raises `UserError` before any image is read when archive, detector and output do not
    match.
    """
    run_record.read_earlier(output, JOB)
    fits = load_fits(detector_uri)
    made = described(archive, detector_uri, fits, per_seed, decision_uri)
    spec = fits[0].provenance.spec
    del fits

    def operators(filled: PipelineConfig) -> Operators:
        return Operators(
            read_and_decode,
            {"spec": spec, "decode_seconds": filled.decode_seconds},
            DetectorActor,
            (
                detector_uri,
                backbone,
                made.columns,
                filled.detector_threads,
                bool(filled.detector_gpus),
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
    archive: str, uri: str, fits: list[Fit], per_seed: bool, decision_uri: str | None
) -> Described:
    """The scores of images by the detector of these fits, read from `uri`.

    Raises `UserError` for a decision file that is not for this detector.
    """
    known, digest = fits[0].provenance, fits_digest(fits)
    columns = ScoreColumns(known.catalog.category_names, len(fits), per_seed)
    metadata = {
        "archive": archive,
        "source": "images",
        "detector": digest,
        "detector_uri": uri,
        "backbone": f"{known.backbone} {known.identity.weights}",
        "input": known.spec.to_json(),
        "catalog": known.catalog.digest,
        "categories": ";".join(columns.categories),
        "seeds": ";".join(str(fit.provenance.seed) for fit in fits),
        "per_seed": str(per_seed).lower(),
        "code_version": code_version(),
    }
    stated = known.learner.stated(columns.categories)
    if stated is not None:
        metadata["prevalence"] = ";".join(f"{share:g}" for share in stated.categories.tolist())
    if not decision_uri:
        return Described(columns, metadata, None)
    read = read_decision(decision_uri)
    read.check(digest, uri, columns.categories)
    return Described(columns, metadata | read.metadata, read.decision)
