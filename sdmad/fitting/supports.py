"""The support images of a detector, drawn again from the label table of its training run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdmad import storage
from sdmad.errors import UserError
from sdmad.fits import Provenance
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.labels import LabelTable, load_labels
from sdmad.storage.run_record import read_record

FITS = re.compile(r"/fits(/shots=[^/]+(/seed=\d+\.safetensors)?)?/?$")
"""What the URI of a detector has after that of its training run."""


@dataclass(frozen=True)
class DrawnAgain:
    """The archive and label table of a training run, and the supports of the seeds whose fits
    remember the same images and labels."""

    archive: str
    labels: LabelTable
    supports: list[SupportRef]


def draw_again(
    uri: str, known: Provenance, seeds: Sequence[int], digests: Sequence[str]
) -> DrawnAgain:
    """The supports of the detector at `uri`; `digests` are what the fits of `seeds` remember.

    Raises `UserError` if the training run or its label table cannot be read.
    """
    run = FITS.sub("", uri)
    config = read_record(run).get("config", {})
    if not {"archive", "labels"} <= config.keys():
        raise UserError(f"{run} is not the output of `sdmad train`")
    archive = storage.resolve(config["archive"])
    names = known.catalog.category_names
    labels = load_labels(storage.resolve(config["labels"]), names, archive)
    supports = []
    for seed, digest in zip(seeds, digests, strict=True):
        try:
            support = SupportRef.draw(labels, known.shots, seed)
        except UserError:
            continue
        if support.digest == digest:
            supports.append(support)
    return DrawnAgain(archive, labels, supports)
