"""NIfTI volumes: orientation, scaling and slices against nibabel's own reading."""

import gzip
import io
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest

from sdmad.archive import limits, volumes
from sdmad.archive.decode import count_frames, decode, frames
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec, InputConfig, Window

SHAPE = (5, 7, 4)
NOISE = np.random.default_rng(0).integers(-900, 1500, SHAPE).astype(np.int16)
# Every order and direction of axes.
AFFINES = {
    "".join("RAS"[a] if d > 0 else "LPI"[a] for a, d in zip(order, signs, strict=True)): (
        order,
        signs,
    )
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
}


def affine(order: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
    matrix = np.zeros((4, 4))
    for stored, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[axis, stored] = sign
    matrix[:3, 3], matrix[3, 3] = (-30, 20, 10), 1
    return matrix


def nifti(values: np.ndarray, matrix: np.ndarray | None = None, kind=nib.Nifti1Image, **fields):
    image = kind(values, affine() if matrix is None else matrix, dtype=values.dtype)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def spec(size: tuple[int, int], **options) -> ImageSpec:
    return ImageSpec(size, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", **options)


def shown(content: bytes, axis: str, **options) -> list[np.ndarray]:
    """Grey values of all slices at their own size, (rows, columns)."""
    size = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[axis]
    canonical = nib.as_closest_canonical(nib.Nifti1Image.from_bytes(gunzipped(content)))
    rows, columns = (canonical.shape[k] for k in size)
    found = list(frames(content, spec((rows, columns), slice_axis=axis, **options)))
    assert all(frame.pixels is not None for frame in found), found[0].reason
    assert [frame.number for frame in found] == list(range(1, len(found) + 1))
    return [frame.pixels[..., 0] for frame in found]


def gunzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values - low) / (high - low) * 255 + 0.5, 0, 255))


@pytest.mark.parametrize("stored", AFFINES)
def test_slices_have_the_display_of_radiologists_however_the_volume_is_stored(stored) -> None:
    """Right of the patient on the left, front or head at the top; nibabel's RAS data by index."""
    content = nifti(NOISE, affine(*AFFINES[stored]))
    assert nib.aff2axcodes(nib.Nifti1Image.from_bytes(content).affine) == tuple(stored)
    data = nib.as_closest_canonical(nib.Nifti1Image.from_bytes(content)).get_fdata()
    right, front, top = data.shape
    expected = {
        "axial": lambda row, column, k: data[right - 1 - column, front - 1 - row, k],
        "coronal": lambda row, column, k: data[right - 1 - column, k, top - 1 - row],
        "sagittal": lambda row, column, k: data[k, front - 1 - column, top - 1 - row],
    }
    for axis, value in expected.items():
        found = shown(content, axis, windows=(Window(300, 2400),))
        assert len(found) == data.shape[("sagittal", "coronal", "axial").index(axis)]
        for k, picture in enumerate(found):
            for row, column in np.ndindex(picture.shape):
                grey = windowed(value(row, column, k), -900, 1500)
                assert abs(picture[row, column] - grey) <= 1, (axis, row, column, k)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_versions_both_byte_orders_plain_and_packed(kind, order, packed) -> None:
    image = kind(NOISE, affine(), kind.header_class(endianness=order), dtype=np.int16)
    content = image.to_bytes()
    plain = shown(nifti(NOISE), "axial")
    assert count_frames(content, spec((7, 5))) == 4
    content = gzip.compress(content) if packed else content
    found = [frame.pixels[..., 0] for frame in frames(content, spec((7, 5)))]
    assert np.array_equal(found, plain)


TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


@pytest.mark.parametrize("dtype", TYPES)
def test_values_of_every_type_with_slope_and_intercept_are_those_of_nibabel(dtype) -> None:
    values = np.random.default_rng(1).integers(0, 120, SHAPE).astype(dtype)
    content = nifti(values, scl_slope=12.5, scl_inter=-1024)
    data = nib.Nifti1Image.from_bytes(content).get_fdata()
    assert data.min() < -900
    found = shown(content, "axial", windows=(Window(-500, 1000),), hounsfield=True)
    for k, picture in enumerate(found):
        assert np.abs(picture - windowed(data[::-1, ::-1, k].T, -1000, 0)).max() <= 1


def test_percentiles_are_those_of_the_volume_and_unfinished_values_are_black() -> None:
    values = np.random.default_rng(2).normal(0, 100, (6, 6, 10)).astype(np.float32)
    values[..., 7] *= 20
    values[0, 0, :] = np.nan
    values[1, 1, 1] = np.inf
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (2, 98))
    found = shown(nifti(values), "axial", stretch=(2, 98))
    for k, picture in enumerate(found):
        stored = values[::-1, ::-1, k].T
        expected = np.where(np.isfinite(stored), windowed(stored, low, high), 0)
        assert np.abs(picture - expected).max() <= 1
    assert np.ptp(found[7]) == 255 > 200 > np.ptp(found[0]), "slices keep their differences"


def test_a_large_volume_is_stretched_by_a_sample_of_its_voxels(monkeypatch) -> None:
    values = np.random.default_rng(3).normal(0, 100, (32, 32, 32)).astype(np.float32)
    values += np.linspace(0, 500, 32)[:, None, None]
    exact = shown(nifti(values), "axial")
    monkeypatch.setattr(volumes, "_MOST_VOXELS", 4096)
    sampled = shown(nifti(values), "axial")
    assert np.abs(np.array(exact, float) - np.array(sampled, float)).mean() < 3
    rare = np.zeros((32, 32, 32), np.int16)
    rare[3, 3, 3] = 900
    assert shown(nifti(rare), "axial")[3].max() == 255, "no voxel of the sample has it"


def test_bytes_without_scale_keep_their_values() -> None:
    values = np.random.default_rng(4).integers(20, 90, SHAPE).astype(np.uint8)
    found = shown(nifti(values), "axial", windows=(Window(40, 80),))
    assert np.array_equal(found, values[::-1, ::-1].transpose(2, 1, 0))


def test_three_windows_are_three_channels() -> None:
    one, two, three = Window(0, 200), Window(500, 400), Window(-500, 900)
    content = nifti(NOISE)
    together = decode(content, spec((7, 5), windows=(one, two, three)), 2)
    for channel, window in enumerate((one, two, three)):
        alone = decode(content, spec((7, 5), windows=(window,)), 2)
        assert np.array_equal(together[..., channel], alone[..., 0])


def test_a_preset_applies_to_volumes() -> None:
    made = InputConfig(window="lung", slice_axis="coronal").apply(spec((4, 5)))
    assert made.slice_axis == "coronal"
    data = NOISE.astype(float)
    expected = windowed(data[::-1, 3, ::-1].T, -1350, 150)
    assert np.abs(decode(nifti(NOISE), made, 4)[..., 0] - expected).max() <= 1


def test_pixels_of_thick_slices_are_made_square() -> None:
    thick = affine()
    thick[2, 2] = 5
    content = nifti(NOISE, thick)
    padded = ImageSpec(
        (70, 70), (0.5,) * 3, (0.5,) * 3, "bilinear", "longest", slice_axis="coronal"
    )
    pixels = decode(content, padded, 1)[..., 0]
    columns = np.flatnonzero(pixels.any(0))
    # 5 columns of 1 mm, 4 rows of 5 mm: 5 x 20, which leaves a quarter of the width.
    assert np.ptp(columns) + 1 == pytest.approx(70 / 4, abs=2)


def test_sform_qform_and_neither() -> None:
    image = nib.Nifti1Image(NOISE, affine((1, 0, 2), (-1, 1, 1)), dtype=np.int16)
    image.set_sform(None, 0)
    image.set_qform(affine((1, 0, 2), (-1, 1, 1)), 1)
    by_qform = shown(image.to_bytes(), "axial")
    assert np.array_equal(by_qform, shown(nifti(NOISE, affine((1, 0, 2), (-1, 1, 1))), "axial"))
    image.set_qform(None, 0)
    neither = nib.Nifti1Image.from_bytes(image.to_bytes())
    data = nib.as_closest_canonical(neither).get_fdata()
    found = shown(image.to_bytes(), "axial", windows=(Window(300, 2400),))
    expected = windowed(data[::-1, ::-1, 0].T, -900, 1500)
    assert np.abs(found[0] - expected).max() <= 1


def test_one_slice_and_a_volume_in_four_dimensions_with_one_time() -> None:
    flat = nifti(NOISE[..., 0])
    (found,) = frames(flat, spec((7, 5)))
    assert found.number is None
    assert np.array_equal(found.pixels, decode(nifti(NOISE[..., :1]), spec((7, 5))))
    once = nifti(NOISE[..., None])
    assert [f.number for f in frames(once, spec((7, 5)))] == [1, 2, 3, 4]


def changed(at: int, form: str, *values: object, content: bytes = nifti(NOISE)) -> bytes:
    made = bytearray(content)
    struct.pack_into(form, made, at, *values)
    return bytes(made)


RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            nifti(np.zeros((*SHAPE, 3), np.int16)),
            "4-D NIfTI of 3 volumes, which is not read; write",
        ),
        (nifti(np.zeros((*SHAPE, 1, 3), np.int16)), "5-D NIfTI of 3 volumes"),
        (nifti(np.zeros(SHAPE, np.complex64)), "NIfTI of complex64 values, which is not read"),
        (nifti(RGB), r"NIfTI of colours \(R\+G\+B\), which is not read"),
        (nifti(np.zeros((9,), np.int16)), "NIfTI of one dimension"),
        (changed(344, "4s", b"ni1\0"), "a NIfTI header whose pixels are in another file"),
        (changed(40, "<4h", 3, 5, 0, 4), r"damaged NIfTI: its dimensions are \[5, 0, 4\]"),
        (changed(40, "<4h", 3, 5, -7, 4), "damaged NIfTI: its dimensions"),
        (changed(40, "<h", 9), "damaged"),
        (changed(40, "<4h", 3, 32000, 32000, 32000), "too large: 65536000000352 bytes"),
        (changed(70, "<h", 77), "damaged image: .*data code"),
        (changed(70, "<h", 0), "damaged image|NIfTI of"),
        (changed(108, "<f", -5), "damaged"),
        (changed(108, "<f", float("nan")), "damaged image"),
        (changed(108, "<f", 1e9), "damaged NIfTI: it has 632 of 1000000280 bytes"),
        (changed(112, "<2f", 2, float("inf")), "damaged image: .*intercept"),
        (changed(280, "<12f", *[0] * 12), "orientation"),
        (changed(280, "<12f", *[float("nan")] * 12), "orientation"),
        (nifti(NOISE)[:-1], "damaged NIfTI: it has 631 of 632 bytes"),
        (nifti(NOISE)[:348], "damaged NIfTI: it has 348 of 632 bytes"),
        (gzip.compress(nifti(NOISE), mtime=0)[:-1], "damaged NIfTI: EOFError"),
        (gzip.compress(nifti(NOISE), mtime=0)[:-5] + b"12345", "damaged NIfTI"),
        (gzip.compress(nifti(NOISE)[:400], mtime=0), "damaged NIfTI: it has 400 of 632 bytes"),
        (gzip.compress(b"a text", mtime=0), "unknown image format: it is a gzip file"),
        (b"\x1f\x8b", "unknown image format"),
        (nifti(np.full(SHAPE, np.nan, np.float32)), "no finite pixel values"),
    ],
)
def test_what_is_not_a_volume_of_greys_is_a_reason(content, reason) -> None:
    for frame in frames(content, spec((7, 5))):
        assert frame.pixels is None
        assert "\n" not in frame.reason
    with pytest.raises(DecodeError, match=reason):
        decode(content, spec((7, 5)), 1)


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(monkeypatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_MEMBER_BYTES", 1000)
    content = gzip.compress(nifti(np.zeros((20, 20, 20), np.int16)))
    assert len(content) < 1000
    with pytest.raises(DecodeError, match="too large: 16352 bytes"):
        decode(content, spec((7, 5)), 1)


def test_what_follows_the_voxels_is_read_up_to_a_limit(monkeypatch) -> None:
    """Zeros behind the voxels unpack to a gigabyte: their checksum is not waited for."""
    monkeypatch.setattr(volumes, "LARGEST_MEMBER_BYTES", 1 << 20)
    content = gzip.compress(nifti(NOISE) + bytes(64 << 20))
    reads = []
    original = io.BufferedReader.read

    class Counted(io.BufferedReader):
        def read(self, size=-1):
            reads.append(size)
            return original(self, size)

    monkeypatch.setattr(io, "BufferedReader", Counted)
    decode(content, spec((7, 5)), 1)
    assert sum(reads) <= 4 << 20
