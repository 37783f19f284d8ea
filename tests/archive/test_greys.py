"""From values of any range to 8 bits."""

import numpy as np
import pytest

from sdmad.archive import greys
from sdmad.archive.greys import colours, depth, eight_bits, linear, on_black, stretch


@pytest.mark.parametrize(
    ("largest", "bits", "found"),
    [
        *((255, 8, 8), (3, 2, 2), (100, 12, 12), (4000, 12, 12), (1, 10, 10)),  # bits are believed
        *((65535, 16, 16), (16_384, 16, 16), (16_383, 16, 14), (4095, 16, 12), (1000, 16, 10)),
        *((255, 16, 8), (0, 16, 8), (65535, 32, 16), (2**24, 32, 32), (2**32 - 1, 32, 32)),
        *((65535, 8, 16), (5000, 12, 14)),  # too few bits for the values
    ],
)
def test_the_depth_is_what_the_file_says_unless_it_is_a_whole_container(
    largest, bits, found
) -> None:
    assert depth(largest, bits) == found


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 16, 24, 32])
def test_unsigned_values_are_scaled_from_nothing_to_white(bits) -> None:
    top = (1 << bits) - 1
    values = np.unique(np.linspace(0, top, 300).astype(np.uint64))
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    expected = values / top * 255
    assert np.abs(eight_bits(values.astype(kind), bits) - expected).max() <= 0.51


def test_a_range_of_no_width_is_a_threshold() -> None:
    assert linear(np.array([0, 5, 6], np.uint16), 5, 5).tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, ">u2", np.int32, float])
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0, 100), (10, 80.3)])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_range_of_a_stretch_is_that_of_numpy(monkeypatch, kind, percentiles, size) -> None:
    """Whether values are counted or sorted, few or many, positive or negative."""
    ranges: list[tuple[float, float]] = []
    monkeypatch.setattr(greys, "linear", lambda values, low, high: ranges.append((low, high)))
    kind = np.dtype(kind)
    few = np.iinfo(kind) if kind.kind in "iu" else np.iinfo(np.int16)
    values = np.random.default_rng(size).integers(few.min, few.max, size, endpoint=True)
    values = values.astype(kind)
    counted = np.arange(size) % 3 > 0 if size > 3 else None
    stretch(values, percentiles, counted)
    chosen = values if counted is None else values[counted]
    expected = np.percentile(chosen.astype(float), percentiles)
    if expected[0] < expected[1]:
        assert np.allclose(ranges[0], expected, rtol=1e-12, atol=0)
    else:
        assert ranges[0] == (values.min(), values.max())


def test_colours_of_floats_keep_the_scale_of_0_to_1_and_are_stretched_beyond() -> None:
    ramp = np.linspace(0, 0.5, 300, dtype=np.float32).reshape(10, 10, 3)
    assert np.abs(colours(ramp, 32, (0, 100)) - ramp * 255).max() <= 0.51
    assert np.abs(colours(ramp * 1000, 32, (0, 100)) - ramp * 510).max() <= 0.51
    signed = np.arange(-150, 150, dtype=np.int16).reshape(10, 10, 3)
    expected = (signed + 150) / 299 * 255
    assert np.abs(colours(signed, 16, (0, 100)) - expected).max() <= 0.51


def test_alpha_has_a_depth_of_its_own() -> None:
    shown = np.full((1, 3, 3), 200, np.uint8)
    for alpha, bits in (([0, 128, 255], 8), ([0, 2056, 4095], 16), ([0, 32_896, 65_535], 16)):
        found = on_black(shown, np.array([alpha], np.uint16 if bits == 16 else np.uint8), bits)
        assert found[0, :, 0].tolist() == [0, 100, 200]
