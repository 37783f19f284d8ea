"""Files of several images: animations, pages, multi-picture JPEG."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sdmad.archive import pages
from sdmad.archive.decode import count_frames, decode, frames
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from tests.helpers import encoded

SIZE = 32
SPEC = ImageSpec((SIZE, SIZE), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
GREYS = (10, 120, 240)


def flat(grey: int, size: int = SIZE) -> Image.Image:
    return Image.new("RGB", (size, size), (grey,) * 3)


def save(format: str, images: list[Image.Image], **options: object) -> bytes:
    sink = io.BytesIO()
    images[0].save(sink, format, save_all=True, append_images=images[1:], **options)
    return sink.getvalue()


def read(content: bytes) -> list[tuple[int | None, int | None, str]]:
    """Number, mean grey value and reason of every frame."""
    found = list(frames(content, SPEC))
    assert count_frames(content, SPEC) == len(found)
    return [
        (f.number, None if f.pixels is None else round(float(f.pixels.mean())), f.reason)
        for f in found
    ]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "MPO", "TIFF"])
def test_every_frame_is_an_image(form) -> None:
    content = save(form, [flat(grey) for grey in GREYS])
    rows = read(content)
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [row[1] for row in rows] == pytest.approx(GREYS, abs=1)
    assert decode(content, SPEC, 2).mean() == pytest.approx(120, abs=1)
    with pytest.raises(DecodeError, match="the file has 3 frames; choose one"):
        decode(content, SPEC)
    assert [row[0] for row in read(save(form, [flat(7)]))] == [None]


def test_frames_that_change_a_part_are_drawn_on_the_picture_before() -> None:
    """The difference of the two GIF frames is all that the file has of the second."""
    first = Image.new("L", (SIZE, SIZE), 50)
    second = first.copy()
    second.paste(200, (0, 0, 8, 8))
    for form in ("GIF", "PNG"):
        content = save(form, [first, second])
        pixels = [frame.pixels for frame in frames(content, SPEC)]
        assert np.array_equal(pixels[0][..., 0], np.asarray(first))
        assert np.array_equal(pixels[1][..., 0], np.asarray(second))
        assert np.array_equal(decode(content, SPEC, 2), pixels[1])


def test_the_picture_beside_an_apng_animation_is_not_a_frame() -> None:
    content = save("PNG", [flat(grey) for grey in GREYS], default_image=True)
    assert [row[:2] for row in read(content)] == [(1, 120), (2, 240)]


def test_frames_after_a_damaged_one_are_not_trusted() -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)) for _ in range(4)]
    for form in ("GIF", "PNG"):
        content = bytearray(save(form, noise))
        middle = len(content) * 5 // 8
        content[middle : middle + 30] = rng.bytes(30)
        rows = read(bytes(content))
        assert [bool(row[1]) for row in rows] == [True, True, False, False]
        assert rows[3][2] == "damaged image: it follows frame 3, which is damaged"


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_a_truncated_animation_keeps_its_whole_frames(form) -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)) for _ in range(4)]
    content = save(form, noise)
    rows = read(content[: len(content) * 5 // 8])
    assert [bool(row[1]) for row in rows[:3]] == [True, True, False]
    assert not any(row[1] for row in rows[3:])


def test_frames_that_a_header_promises_and_the_file_lacks_are_one_reason() -> None:
    content = bytearray(save("PNG", [flat(grey) for grey in GREYS]))
    start = content.index(b"acTL")
    content[start + 4 : start + 8] = struct.pack(">I", 40_000)
    content[start + 12 : start + 16] = struct.pack(">I", zlib.crc32(content[start : start + 12]))
    rows = read(bytes(content))
    assert [bool(row[1]) for row in rows] == [True, True, True, False]


def test_an_announced_animation_without_frames_is_a_still_picture() -> None:
    content, kept, position = save("PNG", [flat(grey) for grey in GREYS]), [], 8
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        if kind not in (b"fcTL", b"fdAT"):
            kept.append(content[position : position + size + 12])
        position += size + 12
    assert read(content[:8] + b"".join(kept)) == [(None, 10, "")]


def test_a_damaged_last_frame_of_a_webp_has_a_reason() -> None:
    """libwebp leaves it out."""
    content = bytearray(save("WEBP", [flat(grey) for grey in GREYS], lossless=True))
    start = content.rindex(b"VP8L")
    content[start : start + 4] = b"JUNK"
    rows = read(bytes(content))
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [bool(row[1]) for row in rows] == [True, True, False]


def test_an_animation_bomb_is_refused(monkeypatch) -> None:
    content = save("GIF", [flat(grey) for grey in GREYS])
    monkeypatch.setattr(pages, "LARGEST_ANIMATION_PIXELS", 3 * SIZE * SIZE - 1)
    assert read_one(content) == "too many pixels: 3 frames of 32 x 32"
    monkeypatch.setattr(pages, "LARGEST_IMAGE_PIXELS", SIZE * SIZE - 1)
    assert read_one(content) == "too many pixels: 32 x 32"
    monkeypatch.setattr(pages, "MOST_FRAMES", 2)
    assert read_one(content) == "too many frames: 3"


def read_one(content: bytes) -> str:
    ((_, _, reason),) = read(content)
    return reason


def mpo(second: Image.Image, kind: int = 0, mark: bytes = b"") -> bytes:
    """A JPEG with a second picture of a type of CIPA DC-007, and text in the header of the second.

    Pillow writes 0 (undefined) as the type.
    """
    content = save("MPO", [flat(10), second], quality=95)
    size = len(content)
    start = content.index(b"\xff\xd8\xff", 2)
    if mark:
        segment = b"\xff\xe1" + struct.pack(">H", len(mark) + 2) + mark
        content = content[: start + 2] + segment + content[start + 2 :]
    entry = content.index(struct.pack("<I", size - start), content.index(b"MPF\0")) - 4
    return content[:entry] + struct.pack("<I", kind) + content[entry + 4 :]


PANORAMA, STEREO, ANGLES, THUMBNAIL_VGA, THUMBNAIL_HD = 0x20001, 0x20002, 0x20003, 0x10001, 0x10002


@pytest.mark.parametrize("kind", [PANORAMA, STEREO, ANGLES, 0])
def test_views_of_a_multi_picture_jpeg_are_images(kind) -> None:
    assert [row[0] for row in read(mpo(flat(120), kind))] == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        mpo(flat(120), THUMBNAIL_VGA),
        mpo(flat(120), THUMBNAIL_HD),
        mpo(flat(120, SIZE // 2)),
        mpo(flat(120), mark=b"http://ns.adobe.com/xap/1.0/\0 hdrgm:Version"),
        mpo(flat(120), mark=b"http://ns.adobe.com/xap/1.0/\0 apdi:AuxiliaryImageType"),
    ],
    ids=["thumbnail", "large thumbnail", "smaller", "gain map", "Apple's gain map"],
)
def test_previews_gain_maps_and_depth_maps_are_not_images(content) -> None:
    assert read(content) == [(None, 10, "")]


def test_an_index_whose_second_picture_is_gone_leaves_one_image() -> None:
    content = mpo(flat(120))
    second = content.index(b"\xff\xd8\xff", 2)
    assert read(content[:second]) == [(None, 10, "")]
    assert [(n, bool(mean)) for n, mean, _ in read(content[: second + 100])] == [
        (1, True),
        (2, False),
    ]


def test_pictures_that_the_index_does_not_lead_to_have_a_reason() -> None:
    """Pillow writes wrong positions from the fourth picture on."""
    rows = read(save("MPO", [flat(grey) for grey in (10, 60, 120, 180, 240)]))
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    assert [row[1] for row in rows[:3]] == pytest.approx([10, 60, 120], abs=1)
    assert all(mean or reason.startswith("damaged image") for _, mean, reason in rows)


def test_the_layers_of_a_photoshop_file_are_not_images() -> None:
    rows = b"".join(bytes([grey]) * SIZE * SIZE for grey in (50, 60, 70))
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, SIZE, SIZE, 8, 3)
    content = header + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0) + rows
    assert read(content) == [(None, 60, "")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(60), "a gzip file"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "a tar archive"),
    ],
)
def test_the_reason_names_other_formats(content, what) -> None:
    assert read_one(content) == f"unknown image format: it is {what}"


def test_a_still_image_has_no_number() -> None:
    for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        assert [row[0] for row in read(encoded(100, format=form, mode="RGB"))] == [None]
