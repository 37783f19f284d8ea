"""From a decoded image to the uint8 pixels that a backbone expects.

    spec = InputConfig(resize="pad", window="lung").apply(backbone.spec)
    pixels = spec.fit(image)

`ImageSpec` is the input of one backbone; `InputConfig` is what a user may change in it. Readers
import this module: it needs neither torch nor open_clip.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from sdmad.archive.limits import LARGEST_IMAGE_PIXELS

# open_clip draws at random between the two in training only; otherwise `random` is bicubic.
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "random": Image.Resampling.BICUBIC,
}
_RESIZE_MODES = ("shortest", "longest", "squash")
# In the order of the axes of a volume in RAS+: right, anterior, superior.
SLICE_AXES = ("sagittal", "coronal", "axial")
PERCENTILES = (0.5, 99.5)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Window:
    """A range of values that is shown from black to white: `center` +- `width` / 2.

    The function is LINEAR_EXACT of DICOM (PS3.3, C.11.2.1.3.2). Raises `ValueError` for a width
    that is not greater than 0.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    center: float
    width: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.center):
            raise ValueError(f"the center of a window is a number, not {self.center}")
        if not 0 < self.width < math.inf:
            raise ValueError(f"the width of a window is greater than 0, not {self.width:g}")

    @property
    def low(self) -> float:
        return self.center - self.width / 2

    @property
    def high(self) -> float:
        return self.center + self.width / 2


# Hounsfield units: the typical values of https://radiopaedia.org/articles/windowing-ct. It gives
# ranges for `subdural` (level 50 to 100, width 130 to 300; here the middle) and a second window for
# `stroke` (32, 8) and `temporal_bone` (700, 4000). `bone` is the one for the spine.
WINDOWS: Mapping[str, Window] = {
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "abdomen": Window(50, 400),
    "liver": Window(30, 150),
    "spine": Window(50, 250),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "stroke": Window(40, 40),
    "subdural": Window(75, 215),
    "temporal_bone": Window(600, 2800),
}


@dataclass(frozen=True)
class ImageSpec:
    """What is done to the pixels of every image before an image tower sees them.

    The first six fields are open_clip's preprocessing. `size` is (height, width); `mean` and `std`
    are for pixels on a scale of 0 to 1. `resize_mode` is `shortest` (resize the shorter side, then
    centre crop), `longest` (resize the longer side, then pad with `fill_color`) or `squash`;
    `interpolation` is `bicubic`, `bilinear` or `random`, which means bicubic.

    The other fields concern grey values of more than 8 bits and DICOM: `windows` are none, one, or
    one for each colour channel, in Hounsfield units where `hounsfield` is set; `stretch` holds the
    percentiles that become black and white where there is no window. `jpeg_scaling` allows JPEG to
    be decoded at reduced size. `slice_axis` says which slices of a volume are its images:
    `axial`, `coronal` or `sagittal`. Raises `ValueError` for a name it does not know.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    windows: tuple[Window, ...] = ()
    hounsfield: bool = False
    stretch: tuple[float, float] = PERCENTILES
    jpeg_scaling: bool = True
    slice_axis: str = "axial"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("slice_axis", self.slice_axis, SLICE_AXES),
            ("interpolation", self.interpolation, tuple(_FILTERS)),
            ("resize_mode", self.resize_mode, _RESIZE_MODES),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")

    def to_json(self) -> str:
        """All fields as JSON, for provenance and for the metadata of tables."""
        return TypeAdapter(ImageSpec).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> "ImageSpec":
        """The reverse of `to_json`; `ValueError` for other text."""
        return TypeAdapter(ImageSpec).validate_json(text)

    def fit(self, image: Image.Image, box: Box | None = None) -> np.ndarray:
        """Resize to the tower's input: (height, width, 3) uint8.

        Grey and RGB images come out as from open_clip's own transform, at most one grey level
        apart (tests/archive/test_preprocess.py). Other modes are turned into RGB first: Pillow
        would resize palettes and bilevel images without interpolation. `box` (left, top, right,
        bottom) is the part of the image to take, in pixels and fractions of pixels.
        """
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        box = box or (0, 0, *image.size)
        if self.resize_mode == "squash":
            image = image.resize(self.size[::-1], _FILTERS[self.interpolation], box)
        elif self.resize_mode == "longest":
            image = self._padded(image, box)
        else:
            image = self._cropped(image, box)
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return pixels

    def _padded(self, image: Image.Image, box: Box) -> Image.Image:
        height, width = self.size
        across, down = box[2] - box[0], box[3] - box[1]
        ratio = max(down / height, across / width)
        # open_clip fails for images so thin that a side rounds to 0.
        inner = max(1, round(across / ratio)), max(1, round(down / ratio))
        image = image.resize(inner, _FILTERS[self.interpolation], box)
        fill = (self.fill_color,) * len(image.getbands())
        canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
        canvas.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas

    def _cropped(self, image: Image.Image, box: Box) -> Image.Image:
        height, width = self.size
        across, down = box[2] - box[0], box[3] - box[1]
        method = _FILTERS[self.interpolation]
        if height == width:  # torchvision.transforms.Resize
            short = min(across, down)
            full = int(height * across / short), int(height * down / short)
        else:  # open_clip's ResizeKeepRatio, which is bicubic here whatever is configured
            ratio = min(down / height, across / width)
            full = round(across / ratio), round(down / ratio)
            method = Image.Resampling.BICUBIC
        left, top = round((full[0] - width) / 2), round((full[1] - height) / 2)
        right, bottom = left + width, top + height
        if full[0] * full[1] <= LARGEST_IMAGE_PIXELS:
            return image.resize(full, method, box).crop((left, top, right, bottom))
        # A line of 1 x 60,000 pixels: only what the crop shows is computed.
        step_x, step_y = across / full[0], down / full[1]
        shown = (
            *(box[0] + left * step_x, box[1] + top * step_y),
            *(min(box[0] + right * step_x, box[2]), min(box[1] + bottom * step_y, box[3])),
        )
        return image.resize((width, height), method, shown)


_Choice = str | Window


class InputConfig(BaseModel):
    """How images become the input of the backbone: the key `input` of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resize: Literal["shortest", "squash", "pad"] | None = Field(
        default=None,
        description="shortest: centre crop; squash: change the aspect ratio; pad: the whole image "
        "on black; null: what the backbone was trained with",
    )
    window: _Choice | tuple[_Choice, _Choice, _Choice] | None = Field(
        default=None,
        description=f"of grey DICOM images and NIfTI volumes: {', '.join(WINDOWS)} (Hounsfield "
        "units), or {center, width}, or three of these, one for each colour channel; null: the "
        "window of the file",
    )
    stretch: tuple[float, float] = Field(
        default=PERCENTILES,
        description="percentiles shown as black and white, in DICOM without a window, in other "
        "images of more than 8 bits and in volumes",
    )
    jpeg_scaling: bool = Field(
        default=True,
        description="decode JPEG at reduced size where it is much larger than the input",
    )
    slice_axis: Literal["axial", "coronal", "sagittal"] = Field(
        default="axial", description="which slices of a NIfTI volume are its images"
    )

    @field_validator("window", mode="before")
    @classmethod
    def _known_windows(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return _choice(value)
        if len(value) != 3:
            raise ValueError(
                f"give one window, or three for the three colour channels, not {len(value)}"
            )
        return tuple(_choice(one) for one in value)

    @field_validator("stretch", mode="before")
    @classmethod
    def _two_percentiles(cls, value: Any) -> Any:
        good = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
        if not good or not 0 <= value[0] < value[1] <= 100:
            raise ValueError(
                f"give two percentiles from 0 to 100, the lower first, as [0.5, 99.5], not {value}"
            )
        return tuple(value)

    def apply(self, spec: ImageSpec) -> ImageSpec:
        """The input of a backbone, changed as configured; presets are resolved to numbers."""
        if self.resize == "pad":
            spec = replace(spec, resize_mode="longest", fill_color=0)
        elif self.resize is not None:
            spec = replace(spec, resize_mode=self.resize)
        chosen: Sequence[_Choice] = ()
        if self.window is not None:
            chosen = self.window if isinstance(self.window, tuple) else (self.window,)
        return replace(
            spec,
            windows=tuple(WINDOWS[one] if isinstance(one, str) else one for one in chosen),
            hounsfield=any(isinstance(one, str) for one in chosen),
            stretch=self.stretch,
            jpeg_scaling=self.jpeg_scaling,
            slice_axis=self.slice_axis,
        )


def _choice(value: Any) -> _Choice:
    """One window of a configuration; raises `ValueError` with what is allowed."""
    if isinstance(value, Window) or (isinstance(value, str) and value in WINDOWS):
        return value
    if isinstance(value, Mapping) and set(value) == {"center", "width"}:
        center, width = value["center"], value["width"]
        if _is_number(center) and _is_number(width):
            return Window(float(center), float(width))
    raise ValueError(
        f"a window is one of {', '.join(WINDOWS)}, or {{center: number, width: number}}, "
        f"not {value!r}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
