"""CPU time of decoding and resizing: libjpeg-turbo through several bindings, and codecs of DICOM.

    python benchmarks/decoding.py jpeg [--data ODIR]
    python benchmarks/decoding.py dicom

`jpeg` compares JPEG decoded in full, as sdmad decodes it (Pillow at reduced size), and with
imagecodecs, and simplejpeg if it is installed, each followed by the resize of
sdmad. It also prints how far the pixels are from full decoding. `dicom` compares sdmad with the
first plugin that pydicom would try, and with the others and imagecodecs, frame by frame. Sides take
turns; the ratios are those of each turn.
"""

import importlib.util
import io
import logging
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import imagecodecs
import jpeg_ls
import numpy as np
import typer
from peers.ranges import ranged
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from sdmad.archive.decode import decode
from sdmad.archive.dicom_decoders import decoder
from sdmad.archive.preprocess import ImageSpec
from sdmad.phantoms.task import draw_example

app = typer.Typer(add_completion=False)
SIZES = ((512, 512), (1024, 1024), (2048, 2048), (4000, 3000))
FORMS = ((75, 2, "RGB"), (90, 2, "RGB"), (90, 0, "RGB"), (90, 0, "L"))
Turns = Annotated[int, typer.Option(help="Turns of every comparison.")]
Decode = Callable[[], np.ndarray]


def phantom(width: int, height: int, mode: str) -> Image.Image:
    """A phantom with the grain of a sensor."""
    rng = np.random.default_rng(0)
    drawn = Image.fromarray(draw_example(3, "test").image).convert("L")
    grey = np.asarray(drawn.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    if mode == "RGB":
        grey = grey[..., None] * (1, 0.6, 0.3) + (0, 10, 40)
    noisy = grey + rng.normal(0, 3, grey.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def photographs(data: Path, count: int) -> list[Image.Image]:
    """The first images of the first tar of a folder."""
    found = []
    with tarfile.open(min(data.glob("*.tar"))) as tar:
        for member in tar:
            if member.name.lower().endswith((".jpg", ".jpeg", ".png")) and len(found) < count:
                content = tar.extractfile(member)
                found.append(Image.open(io.BytesIO(content.read() if content else b"")))
    return found


def bindings(content: bytes, spec: ImageSpec) -> dict[str, Decode]:
    """Ways to the same input, by name."""
    side, grey = 2 * max(spec.size), Image.open(io.BytesIO(content)).mode == "L"

    def fitted(values: np.ndarray) -> np.ndarray:
        return spec.fit(Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values))

    ways = {
        "in full": lambda: decode(content, replace(spec, jpeg_scaling=False)),
        "sdmad": lambda: decode(content, spec),
        "imagecodecs": lambda: fitted(imagecodecs.jpeg8_decode(content)),
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        colours = "GRAY" if grey else "RGB"
        ways["simplejpeg"] = lambda: fitted(
            simplejpeg.decode_jpeg(content, colours, min_height=side, min_width=side, min_factor=1)
        )
    return ways


def compare(ways: dict[str, Decode], base: str, turns: int) -> str:
    """How much less CPU than `base` each way takes, after milliseconds of `base`."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            spent[name].append(time.process_time() - begin)
    told = [f"{base} {1000 * median(spent[base]):.1f} ms"]
    for name, seconds in spent.items():
        if name != base:
            ratios = [one / other for one, other in zip(spent[base], seconds, strict=True)]
            told.append(f"{name} {ranged(ratios)} x")
    return "; ".join(told)


def apart(ways: dict[str, Decode]) -> str:
    difference = np.abs(ways["sdmad"]().astype(int) - ways["in full"]())
    return f"differs by {difference.mean():.2f} on average, {difference.max()} at most"


@app.command()
def jpeg(
    data: Annotated[Path | None, typer.Option(help="Folder of tars with photographs.")] = None,
    turns: Turns = 20,
    sides: Annotated[list[int], typer.Option(help="Sides of the backbone.")] = [224, 256, 336],  # noqa: B006
) -> None:
    """JPEG files of many sizes and kinds, decoded and resized to the input of a backbone."""
    for width, height in SIZES:
        for quality, subsampling, mode in FORMS:
            picture = phantom(width, height, mode)
            if data and mode == "RGB":
                picture = photographs(data, 1)[0].convert("RGB").resize((width, height), 3)
            sink = io.BytesIO()
            picture.save(sink, "JPEG", quality=quality, subsampling=subsampling)
            for side in sides:
                spec = ImageSpec((side, side), (0.5,) * 3, (0.2,) * 3)
                ways = bindings(sink.getvalue(), spec)
                kind = "grey" if mode == "L" else ("4:4:4" if subsampling == 0 else "4:2:0")
                what = f"{width} x {height}, quality {quality}, {kind}, to {side}"
                print(f"{what}: {compare(ways, 'in full', turns)}; {apart(ways)}", flush=True)


def film(side: int, bits: int) -> np.ndarray:
    """A grey phantom with grain, of 8 or 12 bits."""
    top = (1 << bits) - 1
    grey = np.asarray(phantom(side, side, "L"), np.float32) / 255 * top
    noisy = grey + np.random.default_rng(0).normal(0, top / 400, grey.shape)
    return noisy.clip(0, top).astype(np.uint8 if bits == 8 else np.uint16)


def codecs(values: np.ndarray, bits: int) -> Iterator[tuple[str, UID, bytes, Decode]]:
    """Name, transfer syntax, data, and decoding by imagecodecs alone."""
    encoded = imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True)
    lossy = imagecodecs.jpeg2k_encode(values, level=52, codecformat="j2k", bitspersample=bits)
    high = imagecodecs.htj2k_encode(values)
    near = bytes(jpeg_ls.encode(values))
    lossless = imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=bits)
    yield "JPEG 2000", JPEG2000Lossless, encoded, lambda: imagecodecs.jpeg2k_decode(encoded)
    yield "JPEG 2000, lossy", JPEG2000, lossy, lambda: imagecodecs.jpeg2k_decode(lossy)
    yield "HTJ2K", HTJ2KLossless, high, lambda: imagecodecs.htj2k_decode(high)
    yield "JPEG-LS", JPEGLSLossless, near, lambda: imagecodecs.jpegls_decode(near)
    yield (
        "lossless JPEG",
        JPEGLosslessSV1,
        lossless,
        lambda: imagecodecs.jpeg_decode(lossless, bitspersample=bits),
    )
    if bits == 8:
        base = imagecodecs.jpeg8_encode(values, level=90)
        yield "baseline JPEG", JPEGBaseline8Bit, base, lambda: imagecodecs.jpeg8_decode(base)


def dataset(values: np.ndarray, bits: int, syntax: UID, data: bytes) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID, made.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.3")
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * values.itemsize, bits, bits - 1
    made.PixelRepresentation, made.NumberOfFrames = 0, 1
    made.WindowCenter, made.WindowWidth = 1 << (bits - 1), 1 << bits
    made.PixelData = encapsulate([data])
    return made


def plugins(made: Dataset, syntax: UID) -> dict[str, Decode]:
    """One frame by what pydicom would take, by each of its plugins, and by sdmad's decoder."""

    def way(name: str) -> Decode:
        return lambda: get_decoder(syntax).as_array(made, index=0, raw=True, decoding_plugin=name)[
            0
        ]

    found = {"pydicom's first": way("")}
    found |= {name: way(name) for name in get_decoder(syntax).available_plugins}
    found["sdmad"] = lambda: decoder(syntax).as_array(made, index=0, raw=True)[0]
    return found


@app.command()
def dicom(
    turns: Turns = 20,
    sides: Annotated[list[int], typer.Option(help="Sides of the frames.")] = [512, 2048],  # noqa: B006
) -> None:
    """Frames of DICOM in each transfer syntax, decoded by each library."""
    logging.disable(logging.CRITICAL)
    for side in sides:
        for bits in (8, 12):
            values = film(side, bits)
            for name, syntax, data, alone in codecs(values, bits):
                made = dataset(values, bits, syntax, data)
                ways = plugins(made, syntax) | {"imagecodecs": alone}
                first = ways["pydicom's first"]()
                worst = max(int(np.abs(way().astype(int) - first).max()) for way in ways.values())
                what = f"{side} x {side}, {bits} bits, {name}"
                told = compare(ways, "pydicom's first", turns)
                print(f"{what}: {told}; values differ by {worst} at most", flush=True)


if __name__ == "__main__":
    app()
