"""TIFF: sample formats, photometric interpretations, layouts and pages, against numpy.

tifffile writes most files; those it cannot write are written here, as TIFF 6.0 specifies.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from sdmad.archive.decode import count_frames, decode, frames, prepare
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec, InputConfig
from tests.archive.test_dicom import between

SPEC = ImageSpec((64, 64), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
RAMP = np.arange(4096).reshape(64, 64)
BYTES = (RAMP % 256).astype(np.uint8)
Y, X = np.mgrid[0:64, 0:64]
RGB = np.stack([X * 4, Y * 4, (X + Y) * 2], axis=-1).astype(np.uint8)
ALPHA = (X * 4).astype(np.uint8)


def written(values: np.ndarray, **options: object) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, **options)
    return sink.getvalue()


def by_hand(
    data: bytes, tags: dict[int, tuple[str, list[int]]], bits: int = 8, samples: int = 1
) -> bytes:
    """One strip of 64 x 64 pixels with given tags (a struct code and values), little endian."""
    found = {
        256: ("H", [64]),
        257: ("H", [64]),
        258: ("H", [bits] * samples),
        259: ("H", [1]),
        262: ("H", [1]),
        273: ("I", [8]),
        277: ("H", [samples]),
        278: ("H", [64]),
        279: ("I", [len(data)]),
        284: ("H", [1]),
    } | tags
    data += bytes(len(data) % 2)
    values, entries = b"", b""
    for tag, (code, numbers) in sorted(found.items()):
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            packed, place = struct.pack("<I", 8 + len(data) + len(values)), packed
            values += place + bytes(len(place) % 2)
        kind = {"B": 1, "H": 3, "I": 4}[code]
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(values))
    return head + data + values + struct.pack("<H", len(found)) + entries + bytes(4)


def stretched(values: np.ndarray) -> np.ndarray:
    return between(values, *np.percentile(values.astype(float), (0.5, 99.5)))


def close(content: bytes, expected: np.ndarray, within: float = 0.6) -> None:
    (frame,) = frames(content, SPEC)
    assert frame.pixels is not None, frame.reason
    if expected.ndim == 2:
        expected = expected[..., None]
    assert np.abs(frame.pixels - expected.astype(float)).max() <= within


KINDS: tuple[np.ndarray, ...] = (
    *((RAMP * 10).astype(np.uint16), (RAMP * 10 - 20_000).astype(np.int16)),
    *((BYTES.astype(int) - 128).astype(np.int8), (RAMP / 77).astype(np.float16)),
    *(RAMP.astype(np.uint32) * 1_000_000, (RAMP * 1000 - 2_000_000).astype(np.int32)),
    *((RAMP / 77 - 3).astype(np.float32), RAMP / 77 - 3),
    *(RAMP.astype(np.uint64) * 10**12, RAMP.astype(np.int64) - 2000),
)


@pytest.mark.parametrize("values", KINDS, ids=lambda values: values.dtype.name)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [False, True])
def test_grey_values_that_are_not_unsigned_bytes_are_stretched(values, order, white) -> None:
    """White is 0 in half of them."""
    kind = "miniswhite" if white else "minisblack"
    expected = 255 - stretched(values) if white else stretched(values)
    for options in (
        {},
        {"compression": "zlib"},
        {"compression": "lzw", "tile": (32, 32)},
        {"compression": "packbits", "bigtiff": True},
        {"compression": "zlib", "predictor": values.dtype.itemsize < 8 or values.dtype.kind == "f"},
    ):
        close(written(values, photometric=kind, byteorder=order, **options), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 24])
@pytest.mark.parametrize("white", [False, True])
def test_packed_values_of_any_number_of_bits_are_read(bits, white) -> None:
    values = RAMP % (1 << bits)
    digits = (values.reshape(-1, 1) >> np.arange(bits)[::-1]) & 1
    data = np.packbits(digits.astype(np.uint8)).tobytes()
    expected = values * 255 / ((1 << bits) - 1) if bits <= 8 else stretched(values)
    kind = {262: ("H", [0 if white else 1])}
    for content in (
        by_hand(data, kind, bits),
        by_hand(zlib.compress(data), kind | {259: ("H", [8])}, bits),
    ):
        close(content, 255 - expected if white else expected)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("white", [False, True])
def test_unsigned_bytes_keep_their_scale(compression, white) -> None:
    kind = "miniswhite" if white else "minisblack"
    values = BYTES // 4  # dark, and not stretched
    content = written(values, photometric=kind, compression=compression)
    close(content, 255.0 - values if white else values)


def test_pillow_and_tifffile_agree_where_both_are_right() -> None:
    for values, options in ((BYTES, {}), (RGB, {"photometric": "rgb", "compression": "lzw"})):
        content = written(values, **options)
        close(content, np.asarray(Image.open(io.BytesIO(content))))


def test_a_window_of_ones_own_applies_to_stored_values_and_white_may_be_0() -> None:
    own = InputConfig(window={"center": 20_000, "width": 4000}).apply(SPEC)
    content = written((RAMP * 10).astype(np.uint16), photometric="miniswhite")
    expected = 255 - between(RAMP * 10, 18_000, 22_000)
    assert np.abs(decode(content, own)[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("values", "white"),
    [
        *((RGB, 255), (RGB.astype(np.uint16) * 257, 65_535), (RGB.astype(np.uint16), 255)),
        *((RGB.astype(np.uint16) * 16, 4095), (RGB.astype(np.uint16) * 4, 1023)),
        *((RGB.astype(np.uint16) * 64, 16_383), (RGB.astype(np.uint16) * 128, 65_535)),
        *((RGB.astype(np.uint32) * 16_843_009, 2**32 - 1), (RGB.astype(np.float32) / 255, 1)),
    ],
)
def test_colours_are_scaled_by_their_depth_in_one_plane_or_three(values, white, separate) -> None:
    expected = values.astype(float) / white * 255
    options = {"planarconfig": "separate" if separate else "contig", "photometric": "rgb"}
    pixels = np.ascontiguousarray(values.transpose(2, 0, 1)) if separate else values
    for how in ({}, {"compression": "lzw"}, {"byteorder": ">"}):
        close(written(pixels, **options, **how), expected)


@pytest.mark.parametrize(("kind", "factor"), [(np.uint8, 1), (np.uint16, 257)])
def test_alpha_is_laid_on_black_once(kind, factor) -> None:
    def four(colours: np.ndarray) -> np.ndarray:
        return np.dstack([colours.astype(kind) * factor, ALPHA.astype(kind) * factor])

    over_black = RGB * (ALPHA[..., None] / 255)
    for extra, colours, expected in (
        ("unassalpha", RGB, over_black),
        ("assocalpha", over_black.astype(np.uint8), over_black),  # premultiplied
        ("unspecified", RGB, RGB),
    ):
        content = written(four(colours), photometric="rgb", extrasamples=[extra])
        close(content, expected, 1.01)
    untold = by_hand(four(RGB).tobytes(), {262: ("H", [2])}, 8 * kind().itemsize, 4)
    close(untold, over_black, 1.01)


def test_a_second_sample_of_grey_is_alpha_or_left_out_or_a_reason() -> None:
    both = np.dstack([BYTES, ALPHA])
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    close(written(both, extrasamples=["unassalpha"], **options), BYTES * (ALPHA / 255), 1.01)
    close(written(both, extrasamples=["unspecified"], **options), BYTES)
    with pytest.raises(DecodeError, match="samples of unknown meaning"):
        decode(by_hand(both.tobytes(), {}, samples=2), SPEC)


TABLE = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])


@pytest.mark.parametrize("factor", [257, 256, 1])
def test_palettes_have_entries_of_16_bits_or_of_8(factor) -> None:
    content = written(BYTES, photometric="palette", colormap=(TABLE * factor).astype(np.uint16))
    close(content, TABLE.T[BYTES], 1.01)


def test_palettes_of_4_and_16_bits_are_read_and_broken_ones_are_a_reason() -> None:
    wide = np.stack([np.arange(65536), 65535 - np.arange(65536), np.arange(65536) // 2])
    places = (RAMP * 16).astype(np.uint16)
    content = written(places, photometric="palette", colormap=wide.astype(np.uint16))
    close(content, wide.T[places] / 257)
    few = (np.stack([np.arange(16), 15 - np.arange(16), np.arange(16) // 2]) * 4369).ravel()
    nibbles = (RAMP % 16).reshape(-1, 2)
    data = (nibbles[:, 0] << 4 | nibbles[:, 1]).astype(np.uint8).tobytes()
    palette = {262: ("H", [3])}
    close(
        by_hand(data, palette | {320: ("H", few.tolist())}, 4),
        few.reshape(3, 16).T[RAMP % 16] / 257,
    )
    for tags in (palette, palette | {320: ("H", [0] * 30)}):
        with pytest.raises(DecodeError, match="without a usable palette"):
            decode(by_hand(BYTES.tobytes(), tags), SPEC)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("kind", "factor"), [(np.uint8, 1), (np.uint16, 257)])
def test_cmyk_becomes_rgb(kind, factor, separate) -> None:
    inks = np.asarray(Image.fromarray(RGB).convert("CMYK")).astype(kind) * factor
    if separate:
        inks = np.ascontiguousarray(inks.transpose(2, 0, 1))
    plan = "separate" if separate else "contig"
    close(written(inks, photometric="separated", planarconfig=plan), RGB, 1.01)


def test_ycbcr_and_lab_become_rgb() -> None:
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    kind = {262: ("H", [6])}
    close(by_hand(ycbcr.tobytes(), kind | {530: ("H", [1, 1])}, samples=3), RGB, 3)
    units = [ycbcr[a::2, b::2, 0] for a in (0, 1) for b in (0, 1)]
    data = np.stack([*units, ycbcr[::2, ::2, 1], ycbcr[::2, ::2, 2]], -1).tobytes()
    halved = kind | {530: ("H", [2, 2])}
    close(by_hand(zlib.compress(data), halved | {259: ("H", [8])}, samples=3), RGB, 6)
    with pytest.raises(DecodeError, match="subsampled YCbCr without compression"):
        decode(by_hand(data, halved, samples=3), SPEC)
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    turn = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(RGB), turn)
    sink = io.BytesIO()
    lab.save(sink, "TIFF")
    assert np.abs(decode(sink.getvalue(), SPEC).astype(int) - RGB).mean() <= 1


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_page_is_believed_and_its_label_is_not(factor, order) -> None:
    options = {"compression": "jpeg", "photometric": "rgb", "subsampling": (factor, factor)}
    ycbcr = written(RGB, byteorder=order, **options)
    sink = io.BytesIO()
    Image.fromarray(RGB).save(sink, "TIFF", compression="jpeg", quality=98)
    for content, right, wrong in ((ycbcr, 6, 2), (sink.getvalue(), 2, 6)):
        close(content, RGB, 8)
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            kind, labelled = file.pages[0].tags[262], bytearray(content)
            assert kind.value == right
            struct.pack_into(f"{file.byteorder}H", labelled, kind.valueoffset, wrong)
        close(bytes(labelled), RGB, 8)


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "jpegxl", "lerc"])
def test_compressions_that_only_imagecodecs_knows_are_read(compression) -> None:
    values = (RAMP * 10).astype(np.uint16)
    close(written(values, compression=compression), stretched(values))


@pytest.mark.parametrize(
    ("tags", "bits", "samples", "reason"),
    [
        ({339: ("H", [4])}, 16, 1, "SampleFormat 4"),
        ({339: ("H", [6])}, 64, 1, "SampleFormat 6"),
        ({258: ("H", [5, 6, 5]), 262: ("H", [2])}, 16, 3, r"BitsPerSample \(5, 6, 5\)"),
        ({262: ("H", [32_803])}, 16, 1, "PhotometricInterpretation 32803"),
        ({262: ("H", [8])}, 16, 3, "PhotometricInterpretation 8"),
        ({262: ("H", [5]), 332: ("H", [2])}, 8, 4, "PhotometricInterpretation 5"),
        ({259: ("H", [60_000])}, 16, 1, r"compression that is not read \(60000\)"),
        ({339: ("H", [3]), 262: ("H", [3])}, 32, 1, "palette or CMYK of values that are not uns"),
    ],
)
def test_samples_whose_meaning_is_unknown_are_a_reason(tags, bits, samples, reason) -> None:
    data = bytes(64 * 64 * bits * samples // 8)
    with pytest.raises(DecodeError, match=reason):
        decode(by_hand(data, tags, bits, samples), SPEC)


def test_a_page_without_photometric_interpretation_is_a_reason() -> None:
    content = by_hand(BYTES.tobytes(), {})
    content = content.replace(struct.pack("<HHI", 262, 3, 1), struct.pack("<HHI", 261, 3, 1))
    with pytest.raises(DecodeError, match="TIFF without PhotometricInterpretation"):
        decode(content, SPEC)


def test_missing_strips_are_a_reason_and_not_black() -> None:
    whole = written((RAMP * 10).astype(np.uint16), rowsperstrip=8, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        sizes = file.pages[0].tags[279]
        last = file.pages[0].dataoffsets[-1]
    emptied = bytearray(whole)
    emptied[sizes.valueoffset : sizes.valueoffset + 2] = bytes(2)
    for content in (bytes(emptied), whole[: last + 4]):
        with pytest.raises(DecodeError, match="TIFF with missing data"):
            decode(content, SPEC)
    with pytest.raises(DecodeError, match="damaged TIFF"):
        decode(whole[:50], SPEC)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pages_are_turned_upright(orientation, kind) -> None:
    values = (RAMP // 16).astype(kind)
    exif = Image.Exif()
    exif[274] = orientation
    sink = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(sink, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(sink)))
    content = by_hand(values.tobytes(), {274: ("H", [orientation])}, 8 * kind().itemsize)
    close(content, upright if kind == np.uint8 else stretched(upright))


def pages(*images: np.ndarray, **tags: int) -> bytes:
    """One page an image; `subfile` and `old` are tags of all pages but the first."""
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as file:
        for number, image in enumerate(images):
            extra = [(255, "H", 1, tags["old"], True)] if number and "old" in tags else []
            kind = tags.get("subfile", 0) if number else 0
            file.write(image, subfiletype=kind, extratags=extra, metadata=None)
    return sink.getvalue()


def test_masks_and_reduced_copies_are_no_images() -> None:
    small, smaller = BYTES[::2, ::2], BYTES[::4, ::4]
    for content in (
        pages(BYTES, small, smaller, subfile=1),
        pages(BYTES, BYTES, BYTES, old=2),
        pages(BYTES, small, smaller),  # do not say so, but are alike
        pages(BYTES, BYTES > 9, subfile=4),
    ):
        assert count_frames(content, SPEC) == 1
        close(content, BYTES)


def test_another_image_of_half_the_size_counts() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    first, second = frames(pages(BYTES, noise), SPEC)
    assert np.array_equal(first.pixels[..., 0], BYTES)
    assert (first.number, second.number) == (1, 2)
    assert count_frames(pages(BYTES, BYTES, BYTES), SPEC) == 3


def test_a_page_that_cannot_be_read_does_not_hide_the_others() -> None:
    halves = (RAMP / 77).astype(np.float16)
    mixed = pages(halves, RGB, (RAMP + 1j).astype(np.complex64), BYTES)
    half, colours, refused, last = frames(mixed, SPEC)
    assert np.abs(half.pixels[..., 0] - stretched(halves)).max() <= 0.51
    assert np.array_equal(colours.pixels, RGB)
    assert "SampleFormat 6" in refused.reason
    assert np.array_equal(last.pixels[..., 0], BYTES)


def test_a_page_that_stands_for_several_images_is_a_reason() -> None:
    content = written(np.zeros((5, 8, 8), np.uint16), imagej=True)
    assert count_frames(content, SPEC) == 5
    alone = written(np.zeros((8, 8), np.uint16), description="ImageJ=1.11a\nimages=5\n")
    with pytest.raises(DecodeError, match="TIFF of 5 images with 1 pages"):
        decode(alone, SPEC)


def test_an_image_opened_with_pillow_is_read_from_its_file() -> None:
    for content in (
        written((RAMP * 10).astype(np.uint16), photometric="miniswhite"),
        written(RGB.astype(np.uint16) * 16, photometric="rgb"),
        written(RAMP.astype(np.uint32) * 1_000_000),
    ):
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(prepare(image, SPEC), decode(content, SPEC))
            image.load()
            with pytest.raises(DecodeError, match="Pillow decodes wrongly"):
                prepare(image, SPEC)
    content = written((RAMP * 10).astype(np.uint16))
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert np.array_equal(prepare(image, SPEC), decode(content, SPEC))


def test_too_many_pixels_are_refused_before_decoding() -> None:
    content = bytearray(by_hand(BYTES.tobytes(), {256: ("I", [60_000]), 257: ("I", [60_000])}))
    with pytest.raises(DecodeError, match="too many pixels: 60000 x 60000"):
        decode(bytes(content), SPEC)
