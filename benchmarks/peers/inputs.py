"""Inputs of all compared systems: weights, prompts, shards.

    inputs = make_inputs(folder, "ViT-B-32", images=2000, side=512, kind="jpg")

They are the same on every machine and are made once.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from sdmad.archive.preprocess import ImageSpec
from sdmad.backbones.config import PHANTOM, BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.demo.run import zero_shot
from sdmad.fits import Provenance, fit_uri, serialize
from sdmad.inputs.catalog import Catalog, Category, load_catalog
from sdmad.method.augment import SupportImages
from sdmad.method.learner import fit_batch
from sdmad.phantoms.task import draw_example

NUM_SHARDS = 20
SHORT_SHARDS = 4
FORMATS = {"jpg": ("JPEG", {"quality": 90}), "png": ("PNG", {})}
ATTENTION_GAIN = 3.0
FOUND_ALWAYS = -1e4


@dataclass(frozen=True)
class Inputs:
    """Files and folders of the inputs.

    The first `SHORT_SHARDS` of the `shards` are the short archive. `prompts` is an array file
    (M, E) of unit embeddings in the order of `signs`; sdmad's `detector` has the same prompts. The
    embedded backbone has no `checkpoint`.
    """

    model: str
    checkpoint: Path | None
    prompts: Path
    signs: list[str]
    detector: Path
    shards: list[Path]
    images: int

    @property
    def short_images(self) -> int:
        return self.images * SHORT_SHARDS // NUM_SHARDS


def make_inputs(folder: Path, model: str, images: int, side: int, kind: str) -> Inputs:
    """Make the inputs that are missing.

    Raises `ValueError` when `images` is not a multiple of `NUM_SHARDS`.
    """
    if images < NUM_SHARDS or images % NUM_SHARDS:
        raise ValueError(f"images must be a multiple of {NUM_SHARDS}, not {images}")
    checkpoint = None if model == PHANTOM else random_checkpoint(folder, model)
    place = folder / f"{images}-{side}-{kind}"
    shards = [place / f"shard-{k:04d}.tar" for k in range(NUM_SHARDS)]
    missing = [k for k, path in enumerate(shards) if not path.exists()]
    jobs = [(shards[k], k * images // NUM_SHARDS, images // NUM_SHARDS, side) for k in missing]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_shard, jobs))
    detector, prompts = folder / f"{model}-detector", folder / f"{model}-prompts.npy"
    signs = _detector(model, checkpoint, detector, prompts)
    return Inputs(model, checkpoint, prompts, signs, detector, shards, images)


def random_checkpoint(folder: Path, model: str) -> Path:
    """A checkpoint with random weights and stronger attention than a new model has.

    A new model hardly depends on the image: its embeddings of any two images agree, so that errors
    of a peer would not show.
    """
    path = folder / f"{model}.pt"
    if path.exists():
        return path
    torch.manual_seed(0)
    clip = open_clip.create_model(model)
    with torch.no_grad():
        for block in getattr(getattr(clip.visual, "transformer", None), "resblocks", ()):
            block.attn.in_proj_weight *= ATTENTION_GAIN
            block.attn.out_proj.weight *= ATTENTION_GAIN
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    torch.save(clip.state_dict(), scratch)
    scratch.replace(path)
    return path


def _detector(model: str, checkpoint: Path | None, output: Path, prompts: Path) -> list[str]:
    """Write a zero-shot detector and the sign embeddings; returns the signs.

    Every sign is a category, and the centre of its evidence is so low that every image has every
    finding. Each row of the score tables therefore has the similarities with all signs.
    """
    shipped = load_catalog("phantoms")
    signs = [name for name in shipped.signs if name not in shipped.normal.signs]
    catalog = Catalog(
        name="peers",
        modality=shipped.modality,
        signs=shipped.signs,
        categories={name: Category(signs=[name]) for name in signs},
        normal=shipped.normal,
    )
    config = BackboneConfig(model=model, pretrained=None if checkpoint is None else str(checkpoint))
    backbone, learner = load_backbone(config, "cpu"), zero_shot()
    fitted, rule = fit_batch(backbone, catalog, [_support(backbone.spec, len(signs))], learner)
    rule = replace(rule, centre=torch.full_like(rule.centre, FOUND_ALWAYS))
    with torch.inference_mode():
        embeddings = fitted.sign_embeddings()[0]
    provenance = Provenance.of(
        backbone,
        catalog=catalog,
        learner=learner,
        shots=1,
        seed=0,
        support_images=0,
        support_digest="",
    )
    fit = Path(fit_uri(str(output), 1, 0))
    fit.parent.mkdir(parents=True, exist_ok=True)
    fit.write_bytes(serialize(fitted, rule, 0, provenance))
    rows = [catalog.sign_names.index(name) for name in signs]
    np.save(prompts, embeddings[rows].numpy())
    load_backbone.cache_clear()
    return signs


def _support(spec: ImageSpec, categories: int) -> SupportImages:
    """One image of each category and a normal one; what is learned from them is discarded."""
    count = categories + 1
    pixels = np.stack(
        [spec.fit(Image.fromarray(draw_example(k, "pool").image)) for k in range(count)]
    )
    keys = [str(k) for k in range(count)]
    return SupportImages(1, 0, keys, pixels, np.eye(count, categories, dtype=bool))


def _write_shard(job: tuple[Path, int, int, int]) -> None:
    path, first, count, side = job
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.parent.name.rpartition("-")[2]
    scratch = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(scratch, "w") as tar:
        for name, content in _images(first, count, side, kind):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    scratch.replace(path)


def _images(first: int, count: int, side: int, kind: str) -> Iterator[tuple[str, bytes]]:
    """Phantoms enlarged to `side` pixels, encoded.

    They are square, so that the order of resizing and cropping does not matter, and have fine
    noise, without which they would compress to very small files.
    """
    name, options = FORMATS[kind]
    for k in range(first, first + count):
        coarse = Image.fromarray(draw_example(k, "test").image)
        fine = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(k).normal(0, 4, fine.shape)
        sink = io.BytesIO()
        image = Image.fromarray(np.clip(fine + noise, 0, 255).astype(np.uint8))
        image.save(sink, name, **options)
        yield f"{k:06d}.{kind}", sink.getvalue()
