"""Which of the pictures in a file are images: frames of animations, views of multi-picture JPEG.

Left out are copies and aids beside an image: layers of a Photoshop file, the picture that an APNG
shows instead of its animation, and in multi-picture JPEG (MPO, CIPA DC-007) previews, gain maps and
depth maps. `sdmad.archive.tiffs` does the same for the pages of a TIFF.
"""

import struct

from PIL import (
    GifImagePlugin,
    Image,
    MpoImagePlugin,
    PngImagePlugin,
    PsdImagePlugin,
    WebPImagePlugin,
)

from sdmad.archive.limits import (
    LARGEST_ANIMATION_PIXELS,
    LARGEST_IMAGE_PIXELS,
    MOST_FRAMES,
    DecodeError,
)

MP_ENTRIES = 0xB002
# What the headers of gain maps and depth maps contain: Ultra HDR, ISO 21496-1, Apple, Google.
AIDS = (b"hdrgm:", b"iso:ts:21496", b"AuxiliaryImageType", b"hdrgainmap", b"GDepth:")
HEADER_BYTES = 64 << 10
END_AND_START = b"\xff\xd9\xff\xd8\xff"


def pages(image: Image.Image, content: bytes) -> list[int]:
    """The positions of a file's images among its pictures, for `Image.seek`; at least one.

    Raises `DecodeError` for more than `MOST_FRAMES`, and for animations of more than
    `LARGEST_ANIMATION_PIXELS`.
    """
    if isinstance(image, PsdImagePlugin.PsdImageFile):
        return [image.tell()]  # The layers put together.
    count = _pictures(image, content)
    if count > MOST_FRAMES:
        raise DecodeError(f"too many frames: {count}")
    if count == 1:
        return [0]
    if isinstance(image, MpoImagePlugin.MpoImageFile):
        return [0, *(k for k in range(1, count) if _is_view(image, k, content))]
    width, height = image.size
    if width * height > LARGEST_IMAGE_PIXELS:
        raise DecodeError(f"too many pixels: {width} x {height}")
    if count * width * height > LARGEST_ANIMATION_PIXELS:
        raise DecodeError(f"too many pixels: {count} frames of {width} x {height}")
    # The first picture of such an APNG is for programs that do not know animations.
    return list(range(int(getattr(image, "default_image", False)), count))


def _pictures(image: Image.Image, content: bytes) -> int:
    """How many pictures a file has, as far as its headers can be read.

    One more, which cannot be decoded, stands for the rest of a damaged file.
    """
    if isinstance(image, GifImagePlugin.GifImageFile):
        return _gif_pictures(image)
    count = int(getattr(image, "n_frames", 1))
    if isinstance(image, PngImagePlugin.PngImageFile) and count > 1:
        there = _frame_headers(content)
        # An animation without frames is a still picture.
        return min(count, there + int(image.default_image) + 1) if there else 1
    if isinstance(image, WebPImagePlugin.WebPImageFile):
        # libwebp does not count a damaged last frame.
        return max(count, _webp_frames(content))
    return count


def _gif_pictures(image: GifImagePlugin.GifImageFile) -> int:
    try:
        return image.n_frames
    except Exception:
        # Pillow raises almost anything at a damaged block.
        return image.tell() + 2


def _frame_headers(content: bytes) -> int:
    """The number of frame control chunks of an APNG (PNG, third edition, 11.3.6.2)."""
    found, position = 0, 8
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        found += kind == b"fcTL"
        position += size + 12
    return found


def _webp_frames(content: bytes) -> int:
    """The number of frames of an animated WebP (RFC 9649, 2.7.1); 0 for a still picture."""
    if content[12:16] != b"VP8X" or not content[20] & 0b10:
        return 0
    found, position = 0, 12
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        found += kind == b"ANMF"
        position += 8 + size + size % 2
    return found


def _is_view(image: MpoImagePlugin.MpoImageFile, k: int, content: bytes) -> bool:
    """Whether a further picture of a multi-picture JPEG is an image of its own.

    That is the case for the types of stereo, panorama and multi-angle pictures. A picture of no
    type is one if it has the size of the first and is neither a gain map nor a depth map, or if it
    is there and the index does not lead to it: then it cannot be decoded, which is its reason.
    """
    entries = (image.mpinfo or {})[MP_ENTRIES]
    kind = entries[k]["Attribute"]["MPType"]
    if kind.startswith("Large Thumbnail"):
        return False
    if kind.startswith("Multi-Frame"):
        return True
    image.seek(0)
    first = image.size
    try:
        image.seek(k)
    except Exception:
        # Programs that edit a picture drop what follows it and keep the index. Pillow writes wrong
        # positions from the fourth picture on.
        return k <= content.count(END_AND_START)
    header = content[image.offset : image.offset + HEADER_BYTES]
    return image.size == first and not any(mark in header for mark in AIDS)
