"""Encode an archive: the frozen part of a backbone's image tower for every image, as a table.

    encode_archive(archive, BackboneConfig(), InputConfig(), output, PipelineConfig())

Detectors on the same backbone score from it (`sdmad.scoring.stored`).
"""

import hashlib

import numpy as np
import pyarrow as pa

from sdmad import logs, storage
from sdmad.activations import Layout, Stored, to_arrow
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.encoder import ImageEncoder
from sdmad.backbones.identity import BackboneIdentity
from sdmad.backbones.loading import check_backbone, load_backbone
from sdmad.backbones.precision import Precision
from sdmad.errors import UserError
from sdmad.fits import code_version, load_fits
from sdmad.fitting.config import TrainConfig, load_config
from sdmad.inputs.catalog import load_catalog
from sdmad.scoring import tables
from sdmad.scoring.actor import ModelActor, some
from sdmad.scoring.pipeline import Operators
from sdmad.scoring.plan import Kind, plan_uri, read_plan
from sdmad.scoring.pools import PipelineConfig
from sdmad.scoring.reading import read_and_decode
from sdmad.scoring.run import Task, run_task
from sdmad.scoring.tally import Tally
from sdmad.storage import run_record

JOB = "encode_archive"
ENCODING = Kind(tables.ACTIVATIONS, ("archive", "input", "backbone_digest"))


class EncoderActor(ModelActor[ImageEncoder]):
    """A frozen image tower on a GPU, or on the CPUs."""

    def __init__(
        self,
        backbone: BackboneConfig,
        identity: BackboneIdentity,
        layout: Layout,
        threads: int,
        gpu: bool,
        precision: Precision,
    ) -> None:
        def load() -> ImageEncoder:
            loaded = load_backbone(backbone, None if gpu else "cpu")
            if difference := identity.difference(loaded.identity):
                raise UserError(
                    f"a worker loads another backbone {backbone} than the driver: {difference}; "
                    "every node must see the same files"
                )
            encoder = ImageEncoder(loaded, precision)
            _ = encoder.fast  # Created here, before several threads ask for it.
            return encoder

        super().__init__(load, threads, gpu)
        self.layout = layout

    def rows(self, batch: dict[str, np.ndarray], good: np.ndarray) -> pa.Table:
        count = len(batch["unit"])
        columns = {
            name: np.repeat(nothing[None], count, axis=0)
            for name, nothing in self.layout.blank().items()
        }
        if len(good):
            found = self.layout.columns_of(*self.model(some(batch["pixels"], good)))
            for name, values in found.items():
                columns[name][good] = values
        wanted = self.layout.schema
        return pa.table(
            to_arrow(columns),
            schema=pa.schema([wanted.field(name) for name in columns]),
        )


def encode_archive(
    archive: str,
    config: BackboneConfig,
    settings: InputConfig,
    output: str,
    pipeline: PipelineConfig,
    accept_changes: bool = False,
    prune: bool = False,
) -> Tally:
    """Encode the unfinished work units of an archive and write `run.json`; URIs must be resolved.

    `settings` change the backbone's input; the other arguments are those of `score_archive`. Raises
    `UserError` before any work starts when archive, backbone and output do not match.
    """
    run_record.read_earlier(output, JOB)
    backbone = load_backbone(config, "cpu")
    stored = Stored(
        archive=archive,
        backbone=config,
        identity=backbone.identity,
        spec=settings.apply(backbone.spec),
        layout=Layout.of(backbone),
    )
    del backbone
    load_backbone.cache_clear()
    _check_earlier(output, stored)
    if not stored.layout.tokens:
        logs.notice(
            f"the head of {config} reads all tokens of an image, too many to keep; only embeddings "
            "and patch features are kept, for `sdmad similar`, and detectors cannot score from them"
        )
    identity = stored.identity.model_dump_json().encode()
    metadata = stored.metadata() | {
        "backbone_digest": hashlib.blake2b(identity, digest_size=8).hexdigest(),
        "code_version": code_version(),
    }

    def operators(filled: PipelineConfig) -> Operators:
        return Operators(
            read_and_decode,
            {"spec": stored.spec, "decode_seconds": filled.decode_seconds},
            EncoderActor,
            (
                config,
                stored.identity,
                stored.layout,
                filled.detector_threads,
                bool(filled.detector_gpus),
                filled.precision,
            ),
        )

    task = Task(JOB, archive, ENCODING, stored.layout.schema, metadata, operators)
    return run_task(task, output, pipeline, accept_changes, prune)


def chosen_backbone(
    model: str | None, pretrained: str | None, config: str | None, detector: str | None
) -> tuple[BackboneConfig, InputConfig]:
    """The backbone and the input of a training configuration, of a detector, or by name.

    Raises `UserError` unless exactly one of `model`, `config` and `detector` is given.
    """
    if [model, config, detector].count(None) != 2 or (pretrained and not model):
        raise UserError(
            "say which backbone encodes, by one of --backbone (with --pretrained), --config and "
            "--detector"
        )
    if config is not None:
        settings = load_config(config, {}, TrainConfig)
        catalog = load_catalog(settings.catalog)
        found = settings.backbone, catalog.chosen_input(settings.input)
    elif detector is not None:
        known = load_fits(storage.resolve(detector))[0].provenance
        found = known.backbone, known.input
    else:
        named = BackboneConfig(model=str(model), pretrained=pretrained)
        found = named, InputConfig()
    check_backbone(found[0])
    return found


def _check_earlier(output: str, stored: Stored) -> None:
    """Raise `UserError` if the output holds activations of another backbone, in words."""
    if not storage.exists(plan_uri(output)):
        return
    earlier = Stored.of(read_plan(output, tables.ACTIVATIONS)[1], output)
    if difference := earlier.identity.difference(stored.identity):
        raise UserError(
            f"{output} holds activations of another backbone than {stored.backbone}: {difference}; "
            "choose another output, or the same backbone"
        )
