"""The visual signs of the phantoms: functions that draw a sign and return its mask.

A sign is a function `(canvas, rng) -> mask`. It changes `canvas.image` (grey values, about 0 to 1)
or, for signs of the outline, `canvas.field`, and returns a boolean mask of what it changed.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdmad.phantoms.anatomy import GRID_X, GRID_Y, SIZE


@dataclass
class Canvas:
    """An image under construction.

    `field` is the organ's signed field, `image` its grey values, both (SIZE, SIZE) float32. `step`
    is the contrast of signs against the tissue. `taken` marks the pixels of signs drawn so far, so
    that signs do not hide each other.
    """

    field: np.ndarray
    image: np.ndarray
    step: float
    taken: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((SIZE, SIZE), bool))

    def place(self, rng: np.random.Generator, margin: float) -> tuple[float, float]:
        """A random free point at least `margin` inside the organ; a taken one if none is free."""
        inside = self.field > margin
        free = inside & ~self.taken
        candidates = np.flatnonzero(free if free.sum() > 8 else inside)
        if candidates.size == 0:
            candidates = np.array([int(self.field.argmax())])
        chosen = int(rng.choice(candidates))
        return float(GRID_X.flat[chosen]), float(GRID_Y.flat[chosen])


Sign = Callable[[Canvas, np.random.Generator], np.ndarray]


def _distance(x: float, y: float) -> np.ndarray:
    return np.hypot(GRID_X - x, GRID_Y - y)


def _soft(distance: np.ndarray, radius: float, edge: float = 0.03) -> np.ndarray:
    """1 inside `radius`, falling to 0 over `edge`."""
    return 1 / (1 + np.exp(np.clip((distance - radius) / (edge / 2), -30, 30)))


def _outline_point(canvas: Canvas, rng: np.random.Generator) -> tuple[float, float]:
    near = np.flatnonzero(np.abs(canvas.field) < 0.03)
    chosen = int(rng.choice(near)) if near.size else int(canvas.field.argmax())
    return float(GRID_X.flat[chosen]), float(GRID_Y.flat[chosen])


def _spots(canvas: Canvas, points: list[tuple[float, float]], sign: float) -> np.ndarray:
    weight = np.zeros((SIZE, SIZE), np.float32)
    for x, y in points:
        weight = np.maximum(weight, np.exp(-((_distance(x, y) / 0.035) ** 2)))
    canvas.image += sign * canvas.step * 1.5 * weight
    return weight > 0.3


def bright_nodule(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.17)
    weight = _soft(_distance(x, y), rng.uniform(0.12, 0.17))
    canvas.image += canvas.step * weight
    return weight > 0.5


def dark_cyst(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.17)
    weight = _soft(_distance(x, y), rng.uniform(0.12, 0.17))
    canvas.image -= canvas.step * weight
    return weight > 0.5


def bright_specks(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    points = [canvas.place(rng, 0.06) for _ in range(int(rng.integers(7, 12)))]
    return _spots(canvas, points, +1)


def dark_specks(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    points = [canvas.place(rng, 0.06) for _ in range(int(rng.integers(7, 12)))]
    return _spots(canvas, points, -1)


def speck_cluster(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.15)
    count = int(rng.integers(6, 9))
    points = [(x + rng.normal(0, 0.065), y + rng.normal(0, 0.065)) for _ in range(count)]
    return _spots(canvas, points, +1)


def ring_lesion(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.2)
    radius = rng.uniform(0.15, 0.19)
    distance = _distance(x, y)
    ring = np.exp(-(((distance - radius) / 0.035) ** 2))
    core = _soft(distance, radius - 0.05)
    canvas.image += canvas.step * (1.2 * ring - 0.8 * core)
    return distance < radius + 0.05


def spiculated_mass(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.2)
    distance = _distance(x, y)
    theta = np.arctan2(GRID_Y - y, GRID_X - x)
    spikes = np.abs(np.cos(rng.integers(3, 5) * theta + rng.uniform(0, np.pi))) ** 6
    weight = _soft(distance, 0.08 + 0.18 * spikes)
    canvas.image += 1.1 * canvas.step * weight
    return weight > 0.5


def streaks(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(-0.5, 0.5) + rng.integers(0, 2) * np.pi / 2
    along = GRID_X * np.cos(angle) + GRID_Y * np.sin(angle)
    lines = np.clip(np.cos(2 * np.pi * along / rng.uniform(0.17, 0.23)), 0, 1) ** 4
    weight = lines * _soft(-canvas.field, -0.05)
    canvas.image += 0.8 * canvas.step * weight
    return weight > 0.3


def fissure(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.15)
    angle = rng.uniform(0, np.pi)
    across = (GRID_X - x) * np.sin(angle) - (GRID_Y - y) * np.cos(angle)
    along = (GRID_X - x) * np.cos(angle) + (GRID_Y - y) * np.sin(angle)
    bend = 0.05 * np.sin(9 * along + rng.uniform(0, 6))
    weight = np.exp(-(((across + bend) / 0.03) ** 2)) * _soft(np.abs(along), 0.42)
    weight = weight * _soft(-canvas.field, 0.0)
    canvas.image -= 1.3 * canvas.step * weight
    return weight > 0.3


def haze(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.1)
    weight = np.exp(-((_distance(x, y) / rng.uniform(0.3, 0.38)) ** 2))
    weight = weight * _soft(-canvas.field, 0.0)
    canvas.image += 0.9 * canvas.step * weight
    return weight > 0.4


def dark_sector(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.place(rng, 0.2)
    theta = np.arctan2(GRID_Y - y, GRID_X - x) - rng.uniform(-np.pi, np.pi)
    theta = np.abs((theta + np.pi) % (2 * np.pi) - np.pi)
    weight = _soft(theta, 0.38, edge=0.1) * _soft(-canvas.field, 0.0)
    canvas.image -= canvas.step * weight
    return weight > 0.5


def bright_rim(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    weight = np.exp(-(((canvas.field - 0.05) / rng.uniform(0.045, 0.06)) ** 2))
    canvas.image += 1.1 * canvas.step * weight
    return weight > 0.4


def fluid_level(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    height = canvas.place(rng, 0.25)[1]
    weight = _soft(height - GRID_Y, 0.0) * _soft(-canvas.field, 0.0)
    canvas.image += 0.8 * canvas.step * weight
    return weight > 0.5


def mottling(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.normal(0, 1, (11, 11)).astype(np.float32)
    texture = np.kron(coarse, np.ones((6, 6), np.float32))[:SIZE, :SIZE]
    weight = _soft(-canvas.field, -0.03)
    canvas.image += 0.55 * canvas.step * np.clip(texture, -1.5, 1.5) * weight
    return weight > 0.5


def notch(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = _outline_point(canvas, rng)
    bite = _distance(x, y) - rng.uniform(0.17, 0.22)
    changed = (canvas.field > 0) & (bite < 0)
    canvas.field = np.minimum(canvas.field, bite)
    return changed


def bulge(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = _outline_point(canvas, rng)
    bump = rng.uniform(0.16, 0.2) - _distance(x, y)
    changed = (canvas.field < 0) & (bump > 0)
    canvas.field = np.maximum(canvas.field, bump)
    return changed


OUTLINE_SIGNS: dict[str, Sign] = {"notch": notch, "bulge": bulge}
TISSUE_SIGNS: dict[str, Sign] = {
    "fluid_level": fluid_level,
    "haze": haze,
    "dark_sector": dark_sector,
    "mottling": mottling,
    "streaks": streaks,
    "bright_rim": bright_rim,
    "dark_cyst": dark_cyst,
    "bright_nodule": bright_nodule,
    "ring_lesion": ring_lesion,
    "spiculated_mass": spiculated_mass,
    "fissure": fissure,
    "speck_cluster": speck_cluster,
    "bright_specks": bright_specks,
    "dark_specks": dark_specks,
}
SIGNS: dict[str, Sign] = OUTLINE_SIGNS | TISSUE_SIGNS
"""Every sign by name, in the order in which they are drawn: outlines, broad changes, details."""
