"""Slices of a volume, counted by hand, against nibabel's orientation and what is decoded."""

import gzip
import io
import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sdmad.archive.decode import count_frames
from sdmad.archive.preprocess import SLICE_AXES, ImageSpec
from sdmad.scoring.census.frames import count

SHAPE = (3, 4, 5)


def counted(content: bytes, axis: str) -> frozenset[int] | None:
    return count(io.BytesIO(content), axis)


def sides(image: nib.Nifti1Image) -> dict[str, int]:
    return dict(zip(SLICE_AXES, nib.as_closest_canonical(image).shape, strict=True))


def turned(matrix: np.ndarray, form: str, kind=nib.Nifti1Image, order: str = "<"):
    affine = np.eye(4)
    affine[:3, :3] = matrix * (1.5, 0.7, 4.0)
    header = kind.header_class(endianness=order)
    image = kind(np.zeros(SHAPE, np.int16), affine, header, dtype=np.int16)
    image.set_sform(affine if form == "sform" else None, int(form == "sform"))
    image.set_qform(affine if form == "qform" else None, int(form == "qform"))
    return kind.from_bytes(image.to_bytes())


TURNS = [
    np.eye(3)[:, list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1))
]


@pytest.mark.parametrize("form", ["sform", "qform", "neither"])
def test_every_turn_of_axes_gives_the_number_that_nibabel_has(form) -> None:
    spec = {axis: ImageSpec((8, 8), (0.5,) * 3, (0.5,) * 3, slice_axis=axis) for axis in SLICE_AXES}
    slightly = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
    for turn, tilt in itertools.product(TURNS, (np.eye(3), slightly)):
        image = turned(tilt @ turn, form)
        content = image.to_bytes()
        for axis, number in sides(image).items():
            assert counted(content, axis) == {number} == {count_frames(content, spec[axis])}


def test_an_oblique_volume_may_have_the_number_of_any_side() -> None:
    oblique = Rotation.from_euler("xyz", (40, 30, 35), degrees=True).as_matrix()
    image = turned(oblique, "sform")
    for axis, number in sides(image).items():
        assert counted(image.to_bytes(), axis) == {3, 4, 5}
        assert number in SHAPE


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_both_byte_orders_packed_too(kind, order) -> None:
    for turn in TURNS:
        image = turned(turn, "qform", kind, order)
        for axis, number in sides(image).items():
            assert counted(image.to_bytes(), axis) == {number}
            assert counted(gzip.compress(image.to_bytes()), axis) == {number}


def made(*shape: int) -> bytes:
    return nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (made(3, 4), {1}),
        (made(3, 4, 5, 1), {5}),
        (made(3, 4, 5, 2), None),
        (made(3), None),
        (made(3, 4, 5)[:300], None),
        (gzip.compress(b"text", mtime=0), None),
        (b"\x1f\x8b\x08", None),
        (b"\0" * 344 + b"n+1\0", None),
        (made(3, 4, 5)[:344] + b"ni1\0" + bytes(500), None),
    ],
)
def test_other_shapes_and_damage(content, expected) -> None:
    assert counted(content, "axial") == expected
