"""Which library decodes the frames of a transfer syntax.

pydicom would try GDCM first for every kind of JPEG. The libraries here are faster (`python
benchmarks/decoding.py dicom`) and safer with damaged data: GDCM ends the process for some damaged
headers, and CharLS does not return from JPEG-LS data that break off. pydicom still handles signs,
unused bits and the layout of samples. Its own decoders are not changed.
"""

from functools import lru_cache

import imagecodecs
import numpy as np
from pydicom.pixels.decoders import gdcm
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
)

from sdmad.archive.jpegs import headers, is_whole

_LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1)
_OWN = "imagecodecs"
_LOSSLESS = 0xC3  # start of frame
_ORDER: dict[UID, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("pillow", "gdcm"),
    **dict.fromkeys((*_LOSSLESS_JPEG, *JPEGLSTransferSyntaxes), (_OWN,)),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), ("pylibjpeg", "pillow")),
}
# What pydicom asks a plugin for.
DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = {}


@lru_cache
def decoder(syntax: UID) -> Decoder:
    """The decoder of a transfer syntax; raises `NotImplementedError` if there is none."""
    if syntax not in _ORDER:
        return get_decoder(syntax)
    made = Decoder(syntax)
    for name in _ORDER[syntax]:
        module = __name__ if name == _OWN else f"pydicom.pixels.decoders.{name}"
        made.add_plugin(name, (module, "_decode_frame"))
    return made


def is_available(uid: UID) -> bool:
    """Whether this module decodes a transfer syntax, as pydicom asks."""
    return uid in _LOSSLESS_JPEG or uid in JPEGLSTransferSyntaxes


def _decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One frame of lossless JPEG or JPEG-LS, with the samples of a pixel side by side.

    GDCM decodes lossless JPEG of colours. Raises `ValueError` for data that break off.
    """
    if not is_whole(source):
        raise ValueError("the data break off")
    if runner.transfer_syntax in _LOSSLESS_JPEG:
        found = headers(source)
        if runner.samples_per_pixel != 1:
            return gdcm._decode_frame(source, runner)
        if found is None or found.kind != _LOSSLESS:
            raise ValueError("the data are not lossless JPEG")
        values = imagecodecs.jpeg_decode(source, bitspersample=found.precision)
    else:
        values = imagecodecs.jpegls_decode(source)
    samples = () if runner.samples_per_pixel == 1 else (runner.samples_per_pixel,)
    if values.shape != (runner.rows, runner.columns, *samples):
        raise ValueError("the data have another size than the header")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    return np.ascontiguousarray(values).tobytes()
