"""TIFF: the pages that are images, and their pixels at 8 bits.

tifffile gives the samples of grey, RGB, palette and CMYK pages as they are stored; what they mean
is decided here. Pillow would wrap unsigned values of 32 bits, take signed ones for unsigned, ignore
that white is zero, and cut colours of 16 bits to 8. It decodes what it does well: JPEG, fax, YCbCr
and Lab, at 8 bits.
"""

import io
import math

import numpy as np
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin

from sdmad.archive.deep import file_content
from sdmad.archive.greys import colours, depth, eight_bits, grey, on_black
from sdmad.archive.jpegs import headers
from sdmad.archive.limits import LARGEST_IMAGE_PIXELS, MOST_FRAMES, DecodeError
from sdmad.archive.preprocess import ImageSpec

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0, NewSubfileType: a reduced copy (bit 0) or a mask (bit 2); SubfileType: 2 for a copy.
_NEW_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101
_SUBFILE_TYPE, _REDUCED = 255, 2
_PHOTOMETRIC, _ORIENTATION, _COLOR_MAP, _INK_SET = 262, 274, 320, 332
_SUBSAMPLING, _METAMORPH_PLANES = 530, 33629
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_SAMPLES = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_UNCOMPRESSED = 1
_FAX, _JPEG = (2, 3, 4), (6, 7)
_PREMULTIPLIED, _ALPHA = 1, 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_tiff(content: bytes) -> bool:
    """Whether a file starts as TIFF or BigTIFF does."""
    return content[:4] in _SIGNATURES


class TiffFile:
    """A TIFF. Raises `DecodeError` for a file without pages that could be images."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.pillow: Image.Image | None = None
        try:
            self.tiff = tifffile.TiffFile(io.BytesIO(content))
            count = len(self.tiff.pages)
        except Exception:
            raise DecodeError("damaged TIFF") from None
        if count == 0:
            raise DecodeError("TIFF without images")
        if count > MOST_FRAMES:
            raise DecodeError(f"too many frames: {count}")
        self.found = [self._page(number) for number in range(count)]
        self._check_planes(self.found[0])
        self.pages = self._images()

    @property
    def count(self) -> int:
        return len(self.pages)

    def pixels(self, index: int, spec: ImageSpec) -> np.ndarray:
        """One image, resized: (height, width, 3) uint8."""
        return spec.fit(self.image(self.pages[index], spec))

    def image(self, number: int, spec: ImageSpec) -> Image.Image:
        """Page `number` (from 0) at 8 bits, upright, on black."""
        page = self.found[number]
        width, height = page.imagewidth, page.imagelength
        if width * height > LARGEST_IMAGE_PIXELS:
            raise DecodeError(f"too many pixels: {width} x {height}")
        if _is_pillows(page):
            return ImageOps.exif_transpose(self._by_pillow(number))
        _check(page)
        shown = Image.fromarray(_shown(self._samples(page), page, spec))
        turn = _TURNS.get(_tag(page, _ORIENTATION, 1))
        return shown if turn is None else shown.transpose(turn)

    def _page(self, number: int) -> tifffile.TiffPage:
        page = self.tiff.pages[number]
        if not isinstance(page, tifffile.TiffPage):
            raise DecodeError("damaged TIFF")
        return page

    def _check_planes(self, page: tifffile.TiffPage) -> None:
        """Raise `DecodeError` where one page stands for several images."""
        imagej = (self.tiff.imagej_metadata or {}) if self.tiff.is_imagej else {}
        planes = imagej.get("images", 1)
        metamorph = page.tags.get(_METAMORPH_PLANES)
        if metamorph is not None:
            planes = metamorph.count
        if isinstance(planes, int) and planes > len(self.found):
            raise DecodeError(f"TIFF of {planes} images with {len(self.found)} pages")

    def _images(self) -> list[int]:
        """The pages that are neither masks nor reduced copies of another page."""
        pages = [k for k, page in enumerate(self.found) if not _is_reduced_or_mask(page)]
        kept: list[int] = []
        for number in pages:
            if not any(self._is_copy(number, other) for other in kept[-1:]):
                kept.append(number)
        return kept or [0]

    def _is_copy(self, number: int, other: int) -> bool:
        """Whether a page is a reduced copy of `other` that does not say so, as in some pyramids.

        Its sides are a whole fraction, and its grey levels follow those of the other one.
        """
        small, large = self.found[number], self.found[other]
        if not small.imagewidth or not small.imagelength:
            return False
        ratio = round(large.imagewidth / small.imagewidth)
        apart = (
            abs(large.imagewidth - ratio * small.imagewidth),
            abs(large.imagelength - ratio * small.imagelength),
        )
        alike = small.photometric == large.photometric and small.dtype == large.dtype
        if ratio < 2 or max(apart) > ratio or not alike:
            return False
        spec = ImageSpec((1, 1), (0.5,) * 3, (0.5,) * 3)
        try:
            copy = self.image(number, spec).convert("L")
            reduced = self.image(other, spec).convert("L").resize(copy.size, Image.Resampling.BOX)
        except Exception:
            return False
        one, two = (np.asarray(levels, np.float64).ravel() for levels in (copy, reduced))
        one_apart, two_apart = one - one.mean(), two - two.mean()
        spread = float(np.sqrt((one_apart**2).sum() * (two_apart**2).sum()))
        if spread == 0:
            return bool(np.abs(one - two).max() <= 1)
        return float((one_apart * two_apart).sum()) / spread > 0.9

    def _by_pillow(self, number: int) -> Image.Image:
        page, content = self.found[number], self.content
        kind = int(page.photometric)
        if kind in (_RGB, _YCBCR) and int(page.compression) in _JPEG and page.dataoffsets:
            first, size = page.dataoffsets[0], page.databytecounts[0]
            inside = headers(content[first : first + size])
            held = kind if inside is None or inside.ycbcr is None else (_RGB, _YCBCR)[inside.ycbcr]
            if held != kind:
                # libtiff believes the label: write the right one.
                place = page.tags[_PHOTOMETRIC].valueoffset
                label = held.to_bytes(2, "little" if self.tiff.byteorder == "<" else "big")
                relabelled = content[:place] + label + content[place + 2 :]
                image = Image.open(io.BytesIO(relabelled), formats=("TIFF",))
                image.seek(number)
                return image
        if self.pillow is None:
            self.pillow = Image.open(io.BytesIO(content), formats=("TIFF",))
        self.pillow.seek(number)
        return self.pillow

    def _samples(self, page: tifffile.TiffPage) -> np.ndarray:
        """Stored values (H, W, samples)."""
        offsets, sizes = page.dataoffsets, page.databytecounts
        expected = 1 if page.is_contiguous else math.prod(page.chunked)
        whole = min(len(offsets), len(sizes)) >= expected and all(
            offset > 0 and size > 0 and offset + size <= len(self.content)
            for offset, size in zip(offsets, sizes, strict=False)
        )
        if not whole:
            # tifffile would fill the gaps with zeros.
            raise DecodeError("damaged image: TIFF with missing data")
        values = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, H, W, samples)
        if values.shape[1] != 1:
            raise DecodeError(f"TIFF with {values.shape[1]} layers in a page")
        values = values[:, 0]
        return values[0] if len(values) == 1 else np.moveaxis(values[..., 0], 0, -1)


def reopened(image: TiffImagePlugin.TiffImageFile) -> TiffFile | None:
    """The file of an image opened with Pillow; None if its pixels were decoded before.

    Raises `DecodeError` if they were decoded and Pillow's values are not the stored ones.
    """
    if image.tile and image.fp:
        return TiffFile(file_content(image.fp))
    bits, formats = (image.tag_v2.get(code, (1,)) for code in (258, 339))
    plain = set(formats) == {_UNSIGNED} and max(bits) <= 8
    kept = image.mode in ("I;16", "I", "F") and (bits[0], formats[0]) != (32, _UNSIGNED)
    if not plain and (image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO or not kept):
        raise DecodeError("a TIFF that Pillow decodes wrongly: give its bytes, or do not load it")
    return None


def _tag(page: tifffile.TiffPage, code: int, default: int) -> int:
    value = page.tags.valueof(code, default)
    return int(value) if isinstance(value, int) else default


def _is_reduced_or_mask(page: tifffile.TiffPage) -> bool:
    flags = _tag(page, _NEW_SUBFILE_TYPE, 0)
    return bool(flags & _REDUCED_OR_MASK) or _tag(page, _SUBFILE_TYPE, 0) == _REDUCED


def _is_pillows(page: tifffile.TiffPage) -> bool:
    """Whether Pillow decodes a page, and rightly."""
    if page.sampleformat != _UNSIGNED or page.bitspersample not in (1, 8):
        return False
    if int(page.compression) in (*_FAX, *_JPEG):
        return True
    if int(page.photometric) == _YCBCR and int(page.compression) == _UNCOMPRESSED:
        if _is_subsampled(page):
            raise DecodeError("TIFF of subsampled YCbCr without compression, which is not read")
        return True
    return int(page.photometric) in (_YCBCR, _LAB)


def _is_subsampled(page: tifffile.TiffPage) -> bool:
    factors = page.tags.valueof(_SUBSAMPLING, (2, 2))
    stored = sum(page.databytecounts)
    return tuple(factors) != (1, 1) and stored < 3 * page.imagewidth * page.imagelength


def _check(page: tifffile.TiffPage) -> None:
    """Raise `DecodeError` for samples whose meaning is not known here."""
    kind, bits = int(page.photometric), page.bitspersample
    extra = len(page.extrasamples)
    if page.tags.get(_PHOTOMETRIC) is None:
        raise DecodeError("TIFF without PhotometricInterpretation")
    if kind not in _SAMPLES or (kind == _CMYK and _tag(page, _INK_SET, 1) != 1):
        raise DecodeError(f"TIFF of a kind that is not read (PhotometricInterpretation {kind})")
    if not isinstance(bits, int) or page.sampleformat not in (_UNSIGNED, _SIGNED, _FLOAT):
        what = f"SampleFormat {page.sampleformat}, BitsPerSample {bits}"
        raise DecodeError(f"TIFF with samples that are not read ({what})")
    if kind in (_PALETTE, _CMYK) and page.sampleformat != _UNSIGNED:
        raise DecodeError("TIFF with a palette or CMYK of values that are not unsigned")
    given = page.samplesperpixel
    if given != _SAMPLES[kind] + extra and (kind, given, extra) != (_RGB, 4, 0):
        what = f"{given} samples a pixel, PhotometricInterpretation {kind}, {extra} extra"
        raise DecodeError(f"TIFF with samples of unknown meaning ({what})")
    if int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
        raise DecodeError(f"TIFF in a compression that is not read ({int(page.compression)})")


def _shown(values: np.ndarray, page: tifffile.TiffPage, spec: ImageSpec) -> np.ndarray:
    """Samples (H, W, n) as greys (H, W) or colours (H, W, 3), uint8, on black."""
    kind, bits = int(page.photometric), int(page.bitspersample)
    extras = [int(extra) for extra in page.extrasamples]
    if kind == _RGB and values.shape[-1] == 4 and not extras:
        extras = [_ALPHA]  # many writers leave the tag out
    if values.dtype == bool:
        values = values.astype(np.uint8)
    main = values[..., : _SAMPLES[kind]]
    place = next((k for k, extra in enumerate(extras) if extra in (_PREMULTIPLIED, _ALPHA)), None)
    alpha = None if place is None else values[..., _SAMPLES[kind] + place]
    if kind == _PALETTE:
        shown = _palette(main[..., 0], page)
    elif kind == _CMYK:
        inks = 255 - eight_bits(main, bits).astype(np.uint16)
        shown = ((inks[..., :3] * inks[..., 3:] + 127) // 255).astype(np.uint8)
    elif kind == _RGB:
        shown = colours(main, bits, spec.stretch)
    else:
        shown = grey(main[..., 0], bits, spec, None if alpha is None else alpha != 0)
        if kind == _WHITE_IS_ZERO:
            shown = 255 - shown
    if alpha is None or place is None or extras[place] == _PREMULTIPLIED:
        return shown
    return on_black(shown, alpha, bits)


def _palette(places: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    table = np.array(page.tags.valueof(_COLOR_MAP, ()), np.int64).reshape(3, -1).T
    if not len(table) or places.max(initial=0) >= len(table):
        raise DecodeError("TIFF without a usable palette")
    # Entries have 16 bits; some writers use 8.
    return eight_bits(table, depth(int(table.max()), 16))[places]
