"""Render a phantom: organ, signs, distractors, and the look of a scanner.

    phantom = render(np.random.default_rng(0), "disc", {"dark_cyst"}, SEEN_LOOK)
    phantom.image               # (64, 64) uint8
    phantom.masks["dark_cyst"]  # (64, 64) bool

The same random generator gives the same image.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdmad.phantoms.anatomy import GRID_X, GRID_Y, SIZE, Pose, organ_field
from sdmad.phantoms.signs import OUTLINE_SIGNS, SIGNS, Canvas


@dataclass(frozen=True)
class Look:
    """The look of a scanner: ranges of grey values and noise, on a scale of 0 to 1."""

    tissue: tuple[float, float]
    background: tuple[float, float]
    step: tuple[float, float]
    noise: tuple[float, float]
    speckle: tuple[float, float]
    gamma: tuple[float, float]


SEEN_LOOK = Look((0.38, 0.55), (0.04, 0.16), (0.26, 0.36), (0.01, 0.05), (0.0, 0.04), (0.85, 1.15))
HELD_OUT_LOOK = Look(
    (0.42, 0.60), (0.12, 0.26), (0.20, 0.28), (0.03, 0.06), (0.04, 0.09), (0.7, 0.9)
)


@dataclass(frozen=True)
class Phantom:
    """`image` is (64, 64) uint8; `masks` has one bool (64, 64) array per drawn sign."""

    image: np.ndarray
    masks: dict[str, np.ndarray]


def render(rng: np.random.Generator, organ: str, signs: Collection[str], look: Look) -> Phantom:
    """Draw `organ` with `signs` as a scanner with `look` would show it.

    Raises `ValueError` for an organ or a sign that does not exist.
    """
    unknown = set(signs) - set(SIGNS)
    if unknown:
        raise ValueError(f"unknown signs {sorted(unknown)}; signs are {sorted(SIGNS)}")
    tissue, background = rng.uniform(*look.tissue), rng.uniform(*look.background)
    canvas = Canvas(organ_field(organ, Pose.draw(rng)), np.zeros((SIZE, SIZE), np.float32), 0.0)
    masks = {}
    for name in (s for s in OUTLINE_SIGNS if s in signs):
        masks[name] = OUTLINE_SIGNS[name](canvas, rng)
        canvas.taken |= masks[name]
    inside = 1 / (1 + np.exp(np.clip(-canvas.field / 0.012, -30, 30)))
    canvas.image = (background + (tissue - background) * inside).astype(np.float32)
    canvas.step = rng.uniform(*look.step)
    for name in (s for s in SIGNS if s in signs and s not in OUTLINE_SIGNS):
        masks[name] = SIGNS[name](canvas, rng)
        canvas.taken |= masks[name]
    _distractors(canvas, rng)
    return Phantom(_scan(canvas.image, rng, look), masks)


def _distractors(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw meaningless things that real images have: cables, markers, neighbours, uneven light."""
    outside = 1 / (1 + np.exp(np.clip(canvas.field / 0.02, -30, 30)))
    if rng.random() < 0.35:
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9)
        across = GRID_X * np.sin(angle) - GRID_Y * np.cos(angle) - shift
        across = across + 0.1 * np.sin(4 * GRID_X + rng.uniform(0, 6))
        canvas.image += 0.3 * np.exp(-((across / 0.03) ** 2)) * outside
    if rng.random() < 0.3:
        row, column = rng.choice([3, SIZE - 10], 2)
        canvas.image[row : row + 7, column : column + 2] = 0.9
        canvas.image[row + 5 : row + 7, column : column + 6] = 0.9
    if rng.random() < 0.35:
        angle = rng.uniform(0, 2 * np.pi)
        distance = np.hypot(GRID_X - 1.05 * np.cos(angle), GRID_Y - 1.05 * np.sin(angle))
        canvas.image += 0.25 * (distance < rng.uniform(0.15, 0.3)) * outside
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * GRID_X + np.sin(direction) * GRID_Y
    canvas.image *= 1 + rng.uniform(0, 0.12) * slope


def _scan(image: np.ndarray, rng: np.random.Generator, look: Look) -> np.ndarray:
    image = image * (1 + rng.uniform(*look.speckle) * rng.normal(0, 1, image.shape))
    image = image + rng.uniform(*look.noise) * rng.normal(0, 1, image.shape)
    image = np.clip(image, 0, 1) ** rng.uniform(*look.gamma)
    return (255 * image + 0.5).astype(np.uint8)


def contact_sheet(images: list[np.ndarray], columns: int = 10, scale: int = 2) -> Image.Image:
    """Images of one size side by side, for visual inspection."""
    rows = -(-len(images) // columns)
    size = SIZE * scale
    sheet = Image.new("L", (columns * size, rows * size))
    for k, image in enumerate(images):
        tile = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
        sheet.paste(tile, ((k % columns) * size, (k // columns) * size))
    return sheet
