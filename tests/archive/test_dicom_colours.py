"""RGB and YCbCr in every transfer syntax, whatever the label says."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from tests.archive.test_dicom import SAMPLES, dataset, saved

SPEC = ImageSpec((64, 64), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
Y, X = np.mgrid[0:64, 0:64]
RGB = np.stack([X * 4, Y * 4, (X + Y) * 2], axis=-1).astype(np.uint8)
YBR = convert_color_space(RGB, "RGB", "YBR_FULL")
LABELS = ("RGB", "YBR_FULL", "YBR_FULL_422")


def labelled(kind: str, data: bytes, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    made = dataset(RGB, kind)
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = data if syntax == ExplicitVRLittleEndian else encapsulate([data])
    made["PixelData"].VR = "OB"
    return made


def apart(made: Dataset, expected: np.ndarray = RGB) -> float:
    return float(np.abs(decode(saved(made), SPEC).astype(int) - expected.astype(float)).max())


def jpeg(image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=98, **options)
    return sink.getvalue()


def unmarked(content: bytes) -> bytes:
    """A JPEG without the segments of JFIF and Adobe."""
    kept, place = content[:2], 2
    while content[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place + 1] not in (0xE0, 0xEE):
            kept += content[place:end]
        place = end
    return kept + content[place:]


def adobe(content: bytes, transform: int) -> bytes:
    return content[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + content[2:]


PICTURE = Image.fromarray(RGB)
PLAIN = jpeg(PICTURE, subsampling=0)
# The planes of RGB under the names of Y, Cb and Cr.
AS_IS = unmarked(jpeg(Image.merge("YCbCr", PICTURE.split()), subsampling=0))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        jpeg(PICTURE),
        jpeg(PICTURE, progressive=True),
        unmarked(jpeg(PICTURE)),  # subsampled colours can only be Cb and Cr
        adobe(unmarked(PLAIN), 1),
        adobe(AS_IS, 0),
        jpeg(PICTURE, keep_rgb=True),
    ],
)
def test_a_jpeg_is_believed_and_its_label_is_not(label, data) -> None:
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        assert apart(labelled(label, data, syntax)) <= 4


def test_the_label_decides_about_a_jpeg_that_says_nothing() -> None:
    assert apart(labelled("RGB", AS_IS, JPEGBaseline8Bit)) <= 4
    assert apart(labelled("YBR_FULL", unmarked(PLAIN), JPEGBaseline8Bit)) <= 4


def test_a_jpeg_of_another_size_than_the_header_says_is_a_reason() -> None:
    made = labelled("RGB", PLAIN, JPEGBaseline8Bit)
    made.Rows = 32
    with pytest.raises(DecodeError, match="another size than its header"):
        decode(saved(made), SPEC)


@pytest.mark.parametrize("label", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
@pytest.mark.parametrize("boxes", ["J2K", "JP2"])
def test_the_transformation_within_jpeg_2000_is_undone_once(label, boxes) -> None:
    options = {"level": 0, "reversible": True, "codecformat": boxes}
    data = imagecodecs.jpeg2k_encode(RGB, mct=True, **options)
    assert apart(labelled(label, data, JPEG2000Lossless)) == 0
    bare = imagecodecs.jpeg2k_encode(YBR if label == "YBR_FULL" else RGB, mct=False, **options)
    assert apart(labelled(label, bare, JPEG2000Lossless)) <= 2


@pytest.mark.parametrize("planar", [0, 1])
def test_other_codecs_hold_what_the_label_says(planar) -> None:
    cases = [
        ("RGB", imagecodecs.jpegls_encode(RGB), JPEGLSLossless),
        ("YBR_FULL", imagecodecs.jpegls_encode(YBR), JPEGLSLossless),
        ("RGB", imagecodecs.htj2k_encode(RGB), HTJ2KLossless),
    ]
    for label, data, syntax in cases:
        made = labelled(label, data, syntax)
        made.PlanarConfiguration = planar  # has no meaning here
        assert apart(made) <= 2
    for label, pixels in (("RGB", RGB), ("YBR_FULL", YBR)):
        made = labelled(label, pixels.tobytes())
        made.compress(RLELossless, generate_instance_uid=False)
        assert apart(made) <= 2


def halved(pixels: np.ndarray) -> np.ndarray:
    """Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    return np.stack(
        [pixels[:, ::2, 0], pixels[:, 1::2, 0], *pixels[:, ::2, 1:].T.swapaxes(1, 2)], -1
    )


def test_native_luminance_and_chrominance_become_rgb() -> None:
    assert apart(labelled("YBR_FULL", YBR.tobytes())) <= 2
    planar = labelled("YBR_FULL", YBR.transpose(2, 0, 1).tobytes())
    planar.PlanarConfiguration = 1
    assert apart(planar) <= 2
    assert apart(labelled("YBR_FULL_422", halved(YBR).tobytes())) <= 6
    assert apart(labelled("YBR_FULL_422", YBR.tobytes())) <= 2, (
        "not subsampled, as its length shows"
    )
    del planar.PlanarConfiguration
    planar.PhotometricInterpretation, planar.PixelData = "YBR_FULL_422", halved(YBR).tobytes()
    assert apart(planar) <= 6


def test_partial_range_is_widened() -> None:
    """Y of 16 to 235, Cb and Cr of 16 to 240; coefficients of PS3.3 C.7.6.3.1.2."""
    turn = np.array(
        [[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]]
    )
    partial = np.rint(RGB @ turn.T + (16, 128, 128)).astype(np.uint8)
    assert apart(labelled("YBR_PARTIAL_422", halved(partial).tobytes())) <= 6
    with pytest.raises(DecodeError, match="YBR_PARTIAL_420, which is not read"):
        decode(saved(labelled("YBR_PARTIAL_420", halved(partial).tobytes())), SPEC)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize(
    ("factor", "stored", "white"),
    [
        *((257, 16, 65_535), (16, 12, 4095), (2, 10, 1023), (1, 8, 255)),
        *((16, 16, 4095), (4, 16, 1023), (64, 16, 16_383), (1, 16, 255)),  # not what it says
    ],
)
def test_colours_of_more_than_8_bits_are_scaled_by_their_depth(
    factor, stored, white, planar
) -> None:
    deep = RGB.astype(np.uint16) * factor
    made = dataset(deep, "RGB")
    made.BitsStored, made.HighBit, made.PlanarConfiguration = stored, stored - 1, planar
    made.PixelData = (deep.transpose(2, 0, 1) if planar else deep).tobytes()
    assert apart(made, deep / white * 255) <= 0.51
    if stored == 12:
        made.PixelData, made.HighBit = (deep << 4).tobytes(), 15
        made.PlanarConfiguration = 0
        assert apart(made, deep / white * 255) <= 0.51


@pytest.mark.parametrize(
    "name",
    [
        *("rgb_dcmtk_+eb+cr", "rgb_dcmtk_+eb+cy+n1", "rgb_dcmtk_+eb+cy+np", "rgb_dcmtk_+eb+cy+s4"),
        *("rgb_gdcm_KY", "rgb_jls_lossy_line", "rgb_jpeg_dcmtk", "rgb_jpeg_gdcm"),
        *("rgb_jpeg_lossy_gdcm", "rgb_rle_16bit", "rgb_rle_32bit", "ybr_full_422_uncompressed"),
    ],
)
def test_every_encoding_of_pydicoms_sample_gives_the_same_colours(name) -> None:
    plain = decode((SAMPLES / "SC_rgb_rle.dcm").read_bytes(), SPEC).astype(int)
    shown = decode((SAMPLES / f"SC_{name}.dcm").read_bytes(), SPEC)
    assert np.abs(shown - plain).mean() <= 3, "wrong colours are more than 50 apart"
