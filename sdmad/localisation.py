"""Maps of where the detector sees each sign in an image, by occlusion.

    maps = locate(detector, image, ["haze"])       # (1, 1, 8, 8), in cosine
    draw_map(detector, image, maps[0, 0])          # a PIL image: the heat over the image
    heat = upsample(maps, detector.spec.size)      # (1, 1, H, W)

The value of a place is what the cosine similarity of the sign loses when the place is hidden. To
hide a place of the coarse grid, a Gaussian window blends it into a blurred copy of the image, which
then passes the adapted image tower again. This works with every tower, whatever its tokens, its
pooling and its number of adapted blocks, and takes `places`^2 + 1 passes per image for all signs
together. docs/localisation.md compares it with other ways.

Sources: occlusion, Zeiler & Fergus (arXiv 1311.2901); a blur instead of a grey patch, which could
look like a finding itself, Fong & Vedaldi (arXiv 1704.03296). Shapes: S seeds, B images, M signs,
E embedding width, H x W pixels, h = w = `places`.
"""

from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import binary_erosion

from sdmad.archive.pictures import Picture
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.method.model import SignModel

PLACES = 8
WINDOW = 0.375
"""Standard deviation of the window that hides a place, relative to the distance between places."""
BLUR = 1.0
"""Standard deviation of the blur, relative to the distance between places."""
WINDOWS_AT_ONCE = 16
LEAST_LOSS = 0.3
"""Loss, in deviations, that gets the full colour where no place of the map loses more."""
OPACITY = 0.5


def locate(
    detector: Detector,
    images: Picture | Iterable[Picture],
    signs: str | Sequence[str],
    places: int = PLACES,
) -> np.ndarray:
    """Loss of similarity of each sign at each place, mean over seeds: (B, len(signs), h, w).

    `images` are one or many, of any size, as for `Detector.score`. The map covers what the backbone
    sees of an image (`Detector.pixels`). Values are float32 cosines, positive where the image shows
    the sign. Raises `UserError` for a sign that is not in the detector's catalog, and for images
    what `Detector.score` raises.
    """
    signs = [signs] if isinstance(signs, str) else signs
    known = detector.catalog.sign_names
    unknown = [sign for sign in signs if sign not in known]
    if unknown:
        raise UserError(
            f"the sign catalog {detector.catalog.name} has no sign {unknown[0]!r}; "
            f"its signs are {', '.join(known)}"
        )
    pixels = detector.pixels(images)
    wanted = detector.sign_embeddings[:, [known.index(sign) for sign in signs]]
    maps = occlusion_maps(detector.model, wanted, detector.backbone.pixels(pixels), places)
    return maps.cpu().numpy()


@torch.inference_mode()
def occlusion_maps(
    model: SignModel, signs: torch.Tensor, images: torch.Tensor, places: int = PLACES
) -> torch.Tensor:
    """Loss of similarity (B, M, h, w), mean over seeds, from normalised images (B, 3, H, W).

    `signs` (S, M, E) are sign embeddings of the model's seeds. Everything is in single precision,
    because losses are small differences.
    """
    images = images.float()
    size = (int(images.shape[-2]), int(images.shape[-1]))
    windows = place_windows(places, size).to(images.device)  # (h x w, H, W)
    blurred = _blur(images, places)
    maps = []
    for image, hidden in zip(images, blurred, strict=True):
        whole = _similarities(model, signs, image[None])  # (1, M)
        parts = [
            _similarities(model, signs, image + window[:, None] * (hidden - image))
            for window in windows.split(WINDOWS_AT_ONCE)
        ]
        maps.append((whole - torch.cat(parts)).T.unflatten(1, (places, places)))
    return torch.stack(maps) if maps else images.new_zeros(0, signs.shape[1], places, places)


def upsample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (B, M, h, w) at `size`, (B, M, height, width): bilinear between centres of places."""
    tensor = torch.from_numpy(np.ascontiguousarray(maps))
    return F.interpolate(tensor, size, mode="bilinear", align_corners=False).numpy()


def draw_map(detector: Detector, image: Picture, own: np.ndarray, side: int = 320) -> Image.Image:
    """The map (h, w) of one sign over what the backbone sees of an image, `side` pixels long.

    Full colour is the largest loss, but at least `LEAST_LOSS` deviations, so that the map of a sign
    without a decisive place stays faint. The white line encloses at least half of the full colour.
    """
    small = longer_side(detector.pixels(image)[0], side)
    heat = upsample(own[None, None], (small.shape[0], small.shape[1]))[0, 0]
    return Image.fromarray(overlay(small, map_strength(heat, deviation_of(detector))))


def deviation_of(detector: Detector) -> float:
    """The deviation of similarities on the support (`sdmad.method.standard`), mean over seeds."""
    return float(detector.rule.deviation.mean())


def map_strength(heat: np.ndarray, deviation: float) -> np.ndarray:
    """Losses in cosine as shares of the full colour, in [0, 1]."""
    losses = heat / deviation
    return np.clip(losses / max(float(losses.max()), LEAST_LOSS), 0, 1)


def overlay(pixels: np.ndarray, strength: np.ndarray, outline: bool = True) -> np.ndarray:
    """Heat (H, W) in [0, 1] over the grey values of an image (H, W, 3); returns (H, W, 3) uint8.

    `outline` encloses places with at least half of the full colour.
    """
    grey = pixels.astype(float).mean(-1, keepdims=True).repeat(3, axis=-1)
    colour = 255 * mpl.colormaps["inferno"](0.4 + 0.5 * strength)[..., :3]
    opacity = OPACITY * strength[..., None]
    mixed = 0.8 * grey * (1 - opacity) + colour * opacity
    if outline:
        inside = strength >= 0.5
        mixed[inside & ~binary_erosion(inside, border_value=1)] = 255
    return (mixed + 0.5).astype(np.uint8)


def longer_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, 3) resized so that its longer side has `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def place_windows(places: int, size: tuple[int, int]) -> torch.Tensor:
    """How far each place hides each pixel: (h x w, H, W) in [0, 1], 1 at the place's centre."""
    rows, columns = (_bumps(places, side) for side in size)
    return torch.einsum("iy,jx->ijyx", rows, columns).flatten(0, 1)


def _bumps(places: int, side: int) -> torch.Tensor:
    step = side / places
    centres = (torch.arange(places) + 0.5) * step
    distance = torch.arange(side) + 0.5 - centres[:, None]
    return torch.exp(-0.5 * (distance / (WINDOW * step)) ** 2)


def _blur(images: torch.Tensor, places: int) -> torch.Tensor:
    """Gaussian blur, one axis after the other; outside the image its edge pixels are repeated."""
    for axis in (-2, -1):
        side = images.shape[axis]
        distance = torch.arange(side)[:, None] - torch.arange(-2 * side, 3 * side)
        weights = torch.exp(-0.5 * (distance / (BLUR * side / places)) ** 2)
        # Weights outside the image go to its edge pixels.
        inside = weights[:, 2 * side : 3 * side].clone()
        inside[:, 0] += weights[:, : 2 * side].sum(1)
        inside[:, -1] += weights[:, 3 * side :].sum(1)
        inside = (inside / inside.sum(1, keepdim=True)).to(images)
        images = (inside @ images.transpose(axis, -2)).transpose(axis, -2)
    return images


def _similarities(model: SignModel, signs: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Cosine similarities (B, M) of adapted images and signs, mean over seeds."""
    activations, _ = model.image_activations(images)
    return (model.image_embeddings(activations) @ signs.transpose(1, 2)).mean(0)
