"""Heatmaps of the report as coloured table cells, which stay legible at any page width."""

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from sdmad.report.decisions import Confusion

FULL_AUROC = 0.4
"""Distance of an AUROC from chance that gets the full colour."""
OCTAVES = 3
"""Doublings of the expected share that get the full colour."""


@dataclass(frozen=True)
class Cell:
    """One cell: text, background colour, text colour (`ink`), and whether it is framed."""

    text: str
    colour: str
    ink: str
    framed: bool = False


@dataclass(frozen=True)
class Heatmap:
    """Cells by row, with a name for each row and each column."""

    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]


def sign_heatmap(
    auroc: np.ndarray, membership: np.ndarray, signs: list[str], groups: list[str]
) -> Heatmap:
    """How each sign separates the images of a group from the others: AUROC (signs, groups) in per
    cent, red above chance and blue below; empty where it is NaN.

    `membership` (signs, groups) marks the signs that the catalog lists for a group; these cells
    are framed.
    """
    strength = np.clip(0.5 + (auroc - 0.5) / (2 * FULL_AUROC), 0, 1)
    cells = [
        [
            _cell(
                "-" if np.isnan(auroc[s, g]) else f"{100 * auroc[s, g]:.0f}",
                "RdBu_r",
                strength[s, g],
                bool(membership[s, g]),
            )
            for g in range(len(groups))
        ]
        for s in range(len(signs))
    ]
    return Heatmap(signs, groups, cells)


def confusion_heatmap(found: Confusion, categories: list[str]) -> Heatmap:
    """Shares in per cent; the correct result of each row is framed."""
    rows = [
        f"{name} ({count:,})"
        for name, count in zip(["normal", *categories], found.images, strict=True)
    ]
    right = np.roll(np.eye(len(rows), dtype=bool), -1, axis=1)
    cells = [
        [
            _cell("-" if np.isnan(v) else f"{100 * v:.0f}", "Blues", 0.9 * v, bool(right[r, k]))
            for k, v in enumerate(row)
        ]
        for r, row in enumerate(found.shares)
    ]
    return Heatmap(rows, [*categories, "no finding"], cells)


def together_heatmap(together: np.ndarray, images: int, categories: list[str]) -> Heatmap:
    """Of the images with one finding (rows), the per cent that also have another (columns).

    `together` (C, C) counts images with both. Red: more often than if findings were independent;
    blue: less often. The diagonal is left out.
    """
    found = together.diagonal().astype(float)
    share = np.divide(
        together, found[:, None], out=np.full(together.shape, np.nan), where=found[:, None] > 0
    )
    expected = np.maximum(found / max(images, 1), 1e-9)
    strength = 0.5 + np.log2(np.clip(share / expected, 2**-OCTAVES, 2**OCTAVES)) / (2 * OCTAVES)
    rows = [f"{name} ({int(count):,})" for name, count in zip(categories, found, strict=True)]
    cells = [
        [
            Cell("", "#ffffff", "#1c2733")
            if c == d
            else _cell("-" if np.isnan(v) else f"{100 * v:.0f}", "RdBu_r", strength[c, d], False)
            for d, v in enumerate(row)
        ]
        for c, row in enumerate(share)
    ]
    return Heatmap(rows, categories, cells)


def _cell(text: str, colours: str, strength: float, framed: bool) -> Cell:
    """`strength` in [0, 1] is the position on the colour map; NaN gives white."""
    red, green, blue, _ = mpl.colormaps[colours](strength) if np.isfinite(strength) else (1.0,) * 4
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    return Cell(text, to_hex((red, green, blue)), "#ffffff" if dark else "#1c2733", framed)
