"""Captions of phantoms, from several English phrases for each sign and organ."""

from collections.abc import Collection

import numpy as np

SIGN_PHRASES: dict[str, tuple[str, ...]] = {
    "notch": ("a notch in the outline", "a bite missing from the border", "an indented contour"),
    "bulge": ("a bulge of the outline", "a bump on the border", "a protruding contour"),
    "fluid_level": ("a horizontal fluid level", "a flat fluid layer", "layering with a level line"),
    "haze": ("a soft cloudy haze", "a hazy bright patch", "a blurred cloud"),
    "dark_sector": ("a dark wedge shaped sector", "a dark sector", "a dark pie shaped area"),
    "mottling": ("a coarse mottled texture", "a patchy texture", "mottled tissue"),
    "streaks": ("thin parallel streaks", "bright parallel lines", "a striped pattern"),
    "bright_rim": ("a thick bright rim", "a bright border all around", "a bright capsule"),
    "dark_cyst": ("a dark round cyst", "a dark round hole", "a smooth dark cavity"),
    "bright_nodule": ("a bright round nodule", "a bright round spot", "a smooth bright mass"),
    "ring_lesion": ("a bright ring with a dark centre", "a ring shaped lesion", "a bright ring"),
    "spiculated_mass": ("a star shaped mass with spikes", "a spiculated mass", "a bright star"),
    "fissure": ("a dark crack", "a dark thin fissure", "a dark winding line"),
    "speck_cluster": ("a tight cluster of bright specks", "clustered bright dots", "a speck group"),
    "bright_specks": ("scattered bright specks", "many small bright dots", "bright dots all over"),
    "dark_specks": ("scattered dark specks", "many small dark dots", "dark pores all over"),
}
NORMAL_PHRASES = ("smooth even tissue", "no abnormality", "a normal appearance")
ORGAN_PHRASES: dict[str, tuple[str, ...]] = {
    "disc": ("round organ", "disc"),
    "oval": ("oval organ", "long organ"),
    "bean": ("bean shaped organ", "bean"),
    "lobes": ("organ with two lobes", "double organ"),
    "wedge": ("wedge shaped organ", "wedge"),
}
OPENINGS = ("a scan of a {}", "an image of a {}", "a {}", "this {}")


def caption(rng: np.random.Generator, organ: str, signs: Collection[str]) -> str:
    """A sentence with the organ and, in random order, every sign (or that there is none)."""
    opening = str(rng.choice(OPENINGS)).format(rng.choice(ORGAN_PHRASES[organ]))
    if not signs:
        return f"{opening} with {rng.choice(NORMAL_PHRASES)}"
    phrases = [str(rng.choice(SIGN_PHRASES[s])) for s in sorted(signs)]
    rng.shuffle(phrases)
    return f"{opening} with {' and '.join(phrases)}"
