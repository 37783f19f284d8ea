"""Organs as signed fields: positive inside, zero on the outline, in units of half the image.

The grid spans [-1, 1] in both directions. `wedge` is the organ of the few-shot task; the backbone
is trained only on the other organs.
"""

from dataclasses import dataclass

import numpy as np

SIZE = 64
GRID_Y, GRID_X = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)

SEEN_ORGANS = ("disc", "oval", "bean", "lobes")
HELD_OUT_ORGAN = "wedge"


@dataclass(frozen=True)
class Pose:
    """Placement of an organ: centre and radius in half-image units, rotation in radians."""

    x: float
    y: float
    radius: float
    angle: float
    wobble: tuple[float, float, float]

    @staticmethod
    def draw(rng: np.random.Generator) -> "Pose":
        return Pose(
            x=float(rng.uniform(-0.1, 0.1)),
            y=float(rng.uniform(-0.1, 0.1)),
            radius=float(rng.uniform(0.58, 0.68)),
            angle=float(rng.uniform(-0.35, 0.35)),
            wobble=(
                float(rng.uniform(0, 2 * np.pi)),
                float(rng.uniform(0, 2 * np.pi)),
                float(rng.uniform(0.01, 0.03)),
            ),
        )


def organ_field(organ: str, pose: Pose) -> np.ndarray:
    """Signed field of an organ, about the distance to its outline: float32 (SIZE, SIZE).

    Raises `ValueError` for an unknown organ.
    """
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    x = (GRID_X - pose.x) * cos + (GRID_Y - pose.y) * sin
    y = -(GRID_X - pose.x) * sin + (GRID_Y - pose.y) * cos
    r = pose.radius
    if organ == "disc":
        field = r - np.hypot(x, y)
    elif organ == "oval":
        field = (1 - np.hypot(x / (1.15 * r), y / (0.78 * r))) * 0.9 * r
    elif organ == "bean":
        body = (1 - np.hypot(x / (1.1 * r), y / (0.85 * r))) * 0.9 * r
        hilum = np.hypot(x, y - 1.05 * r) - 0.5 * r
        field = np.minimum(body, hilum)
    elif organ == "lobes":
        left = 0.68 * r - np.hypot(x + 0.5 * r, y)
        right = 0.68 * r - np.hypot(x - 0.5 * r, y)
        field = np.maximum(left, right)
    elif organ == "wedge":
        r = 1.2 * r
        edges = [(0.0, 1.0, 0.62), (0.90, -0.44, 0.62), (-0.96, -0.28, 0.80)]
        distances = [r * d - (nx * x + ny * y) for nx, ny, d in edges]
        # Soft minimum: a triangle with rounded corners.
        field = -0.06 * np.logaddexp.reduce([-d / 0.06 for d in distances], axis=0)
        field = np.minimum(field, 1.2 * r - np.hypot(x, y))
    else:
        raise ValueError(f"unknown organ {organ!r}; organs are {(*SEEN_ORGANS, HELD_OUT_ORGAN)}")
    theta = np.arctan2(y, x)
    first, second, amplitude = pose.wobble
    field = field + amplitude * (np.sin(3 * theta + first) + np.sin(5 * theta + second))
    return field.astype(np.float32)
