"""The demo's few-shot task: six anomaly categories of a held-out organ, and its archive.

`SHOWN_SIGNS` are the signs that each category can show. The shipped catalog `phantoms.yaml` has the
errors of one drafted by a language model: about a quarter of the signs that it lists for a category
are never drawn. It lists half of the signs under several categories.
"""

import csv
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdmad import storage
from sdmad.phantoms.anatomy import HELD_OUT_ORGAN
from sdmad.phantoms.render import HELD_OUT_LOOK, render

SHOWN_SIGNS: dict[str, tuple[str, ...]] = {
    "calcinosis": ("bright_specks", "speck_cluster", "bright_rim"),
    "cystic_disease": ("dark_cyst", "dark_specks", "ring_lesion"),
    "tumour": ("spiculated_mass", "bright_nodule", "bulge"),
    "fibrosis": ("streaks", "mottling", "notch"),
    "abscess": ("ring_lesion", "fluid_level", "haze"),
    "infarct": ("dark_sector", "fissure", "notch", "haze"),
}
CATEGORIES = tuple(SHOWN_SIGNS)
SIGN_PROBABILITY = 0.7
SHARD_IMAGES = 200


@dataclass(frozen=True)
class Example:
    """One image of the task, with its labels and the mask of each drawn sign."""

    member: str
    patient_id: str
    split: str
    labels: tuple[str, ...]
    image: np.ndarray
    masks: dict[str, np.ndarray]


def draw_example(index: int, split: str, seed: int = 0) -> Example:
    """Image `index` of a split, the same on every machine. Each patient has two images.

    Of all images, 40 % are normal, 40 % have one category, and 20 % have two or three.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, index + (1 << 32) * (split == "test")]))
    count = int(rng.choice(4, p=[0.4, 0.4, 0.15, 0.05]))
    labels = sorted(rng.choice(CATEGORIES, count, replace=False).tolist(), key=CATEGORIES.index)
    signs: set[str] = set()
    for label in labels:
        candidates = SHOWN_SIGNS[label]
        chosen = [s for s in candidates if rng.random() < SIGN_PROBABILITY]
        signs.update(chosen or [str(rng.choice(candidates))])
    phantom = render(rng, HELD_OUT_ORGAN, signs, HELD_OUT_LOOK)
    return Example(
        member=f"{split}-{index:05d}.png",
        patient_id=f"{split}-{index // 2:05d}",
        split=split,
        labels=tuple(labels),
        image=phantom.image,
        masks=phantom.masks,
    )


def encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_archive(uri: str, pool: int, test: int, seed: int = 0, damaged: int = 0) -> str:
    """Write the task as tar shards and `labels.csv` below `uri`; returns the URI of `labels.csv`.

    The first shard also gets `damaged` truncated images, as real archives have some.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["archive", "member", "patient_id", "split", "labels"])
    for number, shard in enumerate(_shards(pool, test, seed)):
        archive = f"phantoms-{number:04d}.tar"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for k in range(damaged if number == 0 else 0):
                content = encode_png(shard[k].image)
                _add(tar, f"damaged-{k}.png", content[: len(content) // 2])
            for example in shard:
                _add(tar, example.member, encode_png(example.image))
                writer.writerow(
                    (
                        archive,
                        example.member,
                        example.patient_id,
                        example.split,
                        ";".join(example.labels),
                    )
                )
        storage.write_bytes(storage.join(uri, archive), buffer.getvalue())
    labels = storage.join(uri, "labels.csv")
    storage.write_bytes(labels, table.getvalue().encode())
    return labels


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _shards(pool: int, test: int, seed: int) -> Iterator[list[Example]]:
    plan = [("pool", k) for k in range(pool)] + [("test", k) for k in range(test)]
    for start in range(0, len(plan), SHARD_IMAGES):
        yield [draw_example(k, split, seed) for split, k in plan[start : start + SHARD_IMAGES]]


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Write a phantom archive with labels.csv.")
    parser.add_argument("folder", help="path or s3:// URI")
    print(write_archive(parser.parse_args().folder, pool=600, test=600, damaged=3))
