"""Decode and read mutated files: each must give images or reasons, and none may raise.

    python benchmarks/fuzz.py --files 10000

Four fifths are images (PNG, JPEG, TIFF, DICOM, animations and others), decoded as in quarantine: a
crash or a hang of the decoder is a reason too, and is counted. The others are shards (tars with
hard and symbolic links, tar.gz, zip, Parquet of several types) and manifests, read as in a scoring
run; a manifest may be refused with a sentence. Mutations: flipped bits; overwritten, removed and
repeated ranges; wrong lengths; cuts; two files joined.

In between, the decoder of an undamaged file of several frames is killed after one of them: all
frames must come once, with the same pixels. Prints one line; the exit code is 0 only if nothing was
raised, no frame was lost and memory stayed below 8 GiB.
"""

import csv
import io
import random
import resource
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import tifffile
import typer
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from sdmad.archive import decode
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_unit
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.quarantine import Decoder
from sdmad.archive.units import cut_units
from sdmad.errors import UserError

SPEC = ImageSpec((64, 64), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
MEMORY_LIMIT = 8 << 30
DECODE_SECONDS = 20
KILL_EVERY = 100


def images() -> list[bytes]:
    """Undamaged images of every supported kind."""
    noise = np.random.default_rng(0)
    grey = noise.integers(0, 255, (96, 80), np.uint8)
    deep = noise.integers(0, 65535, (96, 80), np.uint16)
    colour = noise.integers(0, 255, (96, 80, 3), np.uint8)
    deep_colour = noise.integers(0, 4095, (96, 80, 3), np.uint16)
    made = [
        save(Image.fromarray(values), format, **options)
        for values in (grey, colour)
        for format, options in (
            *(("PNG", {}), ("JPEG", {"quality": 80}), ("JPEG", {"progressive": True})),
            *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("GIF", {})),
            *(("JPEG2000", {}), ("WEBP", {})),
        )
    ]
    made += [save(Image.fromarray(deep), "PNG"), save(Image.fromarray(deep), "TIFF")]
    made.append(save(Image.fromarray(deep.astype(np.float32)), "TIFF"))
    made += stacks(colour)
    for mode in ("P", "CMYK", "RGBA", "LA", "1"):
        format = "JPEG" if mode == "CMYK" else "PNG"
        made.append(save(Image.fromarray(colour).convert(mode), format))
    made.append(imagecodecs.png_encode(deep_colour))
    made.append(imagecodecs.jpeg2k_encode(deep_colour, level=0, reversible=True))
    return made + tiffs(deep, deep_colour) + dicoms(deep)


def stacks(colour: np.ndarray) -> list[bytes]:
    """Files of several frames, each of another picture."""
    first, *others = [Image.fromarray(np.roll(colour, 9 * k, axis=0)) for k in range(4)]
    kinds = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "MPO")
    return [save(first, kind, save_all=True, append_images=others) for kind in kinds]


def tiffs(deep: np.ndarray, colour: np.ndarray) -> list[bytes]:
    """Sample formats, layouts and compressions that Pillow does not read, or wrongly."""
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1))
    palette = np.arange(3 * 256, dtype=np.uint16).reshape(3, 256)
    options: list[tuple[np.ndarray, dict[str, object]]] = [
        (deep, {"photometric": "miniswhite", "compression": "lzw", "predictor": True}),
        ((deep / 65535).astype(np.float16), {"compression": "zlib"}),
        (deep.astype(np.float64), {"compression": "zlib", "predictor": 3}),
        (deep.astype(np.uint32) << 16, {"bigtiff": True, "tile": (32, 32)}),
        ((deep >> 8).astype(np.uint8), {"photometric": "palette", "colormap": palette}),
        (colour, {"photometric": "rgb", "compression": "zstd"}),
        (planes, {"photometric": "rgb", "planarconfig": "separate", "byteorder": ">"}),
        (np.dstack([colour, deep]), {"photometric": "separated", "compression": "packbits"}),
    ]
    made = []
    for values, how in options:
        sink = io.BytesIO()
        tifffile.imwrite(sink, values, **how)
        made.append(sink.getvalue())
    return made


def save(image: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def dicoms(deep: np.ndarray) -> list[bytes]:
    """pydicom's samples below 40 kB, and a file of three frames in four transfer syntaxes."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    samples = [p.read_bytes() for p in sorted(folder.glob("*.dcm")) if p.stat().st_size < 40_000]
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        dataset = pydicom.dcmread(folder / "MR_small.dcm")
        dataset.NumberOfFrames = 3
        dataset.Rows, dataset.Columns = deep.shape
        dataset.PixelData = (deep // 16).astype(np.int16).tobytes() * 3
        if syntax != ExplicitVRLittleEndian:
            dataset.compress(syntax, generate_instance_uid=False)
        sink = io.BytesIO()
        dataset.save_as(sink)
        samples.append(sink.getvalue())
    return samples


def shards() -> dict[str, bytes]:
    """Undamaged shards of small images, and manifests, by the end of their names."""
    content = save(Image.new("L", (40, 40), 7), "PNG")
    made = {}
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz")):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode=mode) as tar:
            for k in range(8):
                info = tarfile.TarInfo(f"{'long' * 30 * (k % 2)}{k}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        made[suffix] = sink.getvalue()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(8):
            archive.writestr(f"{k}.png", content)
    made[".zip"] = sink.getvalue()
    made["-links.tar"] = linked(content)
    return made | tables(content) | manifests()


def linked(content: bytes) -> bytes:
    """A tar of hard and symbolic links: to a file, to a link, to nothing, and in a circle."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        info = tarfile.TarInfo("in/a.png")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        for k, target in enumerate(("in/a.png", "0.png", "none.png", "4.png", "3.png", "in")):
            info = tarfile.TarInfo(f"{k}.png")
            info.type, info.linkname = (tarfile.LNKTYPE, tarfile.SYMTYPE)[k % 2], target
            tar.addfile(info)
    return sink.getvalue()


def tables(content: bytes) -> dict[str, bytes]:
    """Parquet files whose images or names are of other types than binary and string."""
    names = [f"{k}.png" for k in range(8)]
    large = pa.array(names, pa.large_string())
    images = pa.array([content] * 8)
    columns = {
        "": {"image": pa.array([{"bytes": content, "path": name} for name in names])},
        "-dictionary": {"image": images.dictionary_encode(), "path": large.dictionary_encode()},
        "-fixed": {"image": pa.array([content] * 8, pa.binary(len(content))), "path": large},
        "-lists": {"image": pa.array([list(content)] * 8, pa.list_(pa.uint8())), "path": large},
    }
    made = {}
    for kind, table in columns.items():
        sink = io.BytesIO()
        pq.write_table(pa.table(table), sink, row_group_size=3)
        made[f"{kind}.parquet"] = sink.getvalue()
    return made


def manifests() -> dict[str, bytes]:
    """Manifests with empty sizes, duplicates and names that need quoting."""
    uris = ["0.png", 'Doe, "J".png', "0.png", "in/x; y.tar", "café #1.png", "./b.zip"]
    sizes = ["", "10240", "7", "", "0", "10240.0"]
    text = io.StringIO()
    csv.writer(text).writerows([("uri", "size", "etag"), *zip(uris, sizes, sizes, strict=True)])
    sink = io.BytesIO()
    numbers = [int(float(size)) if size else None for size in sizes]
    pq.write_table(pa.table({"uri": pa.array(uris, pa.large_string()), "size": numbers}), sink)
    return {".csv": text.getvalue().encode(), "-manifest.parquet": sink.getvalue()}


def mutate(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """`content` after one to four mutations; `other` is the file to join."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        # Half of the mutations hit the first kilobyte, where the headers are.
        limit = min(len(data), 1024) if chance.random() < 0.5 else len(data)
        at = chance.randrange(limit)
        size = chance.randint(1, 1 + len(data) // 8)
        kind = chance.randrange(7)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + size] = chance.randbytes(len(data[at : at + size]))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\x7f", b"\x00" * 4, b"\xff" * 4))
        elif kind == 5:
            del data[at:]
        else:
            data[at:] = other[at:]
    return bytes(data)


def main(
    files: Annotated[int, typer.Option(help="Mutated files.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the mutations.")] = 0,
) -> None:
    """Decode and read mutated files; print counts and peak memory."""
    chance = random.Random(seed)  # noqa: S311 - mutations, no secrets
    pictures, archives = images(), shards()
    several = [content for content in pictures if decode.count_frames(content, SPEC) > 1]
    outcome: Counter[str] = Counter()
    raised: list[str] = []
    begin = time.monotonic()
    with Decoder(SPEC, DECODE_SECONDS) as decoder, tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            try:
                if number % KILL_EVERY == 0:
                    check_killed(decoder, chance.choice(several), chance)
                    outcome["kills"] += 1
                if number % 5 < 4:
                    content = mutate(chance.choice(pictures), chance.choice(pictures), chance)
                    reasons = [frame.reason for frame in decoder.frames(content)]
                else:
                    suffix = chance.choice(sorted(archives))
                    content = mutate(archives[suffix], archives[suffix], chance)
                    reasons = read_archive(Path(folder) / f"s{suffix}", content)
            except Exception as error:
                raised.append(f"file {number}: {type(error).__name__}: {error}")
                continue
            outcome["images"] += sum(not reason for reason in reasons)
            outcome["reasons"] += sum(bool(reason) for reason in reasons)
            outcome["crashes"] += sum("crashed" in reason for reason in reasons)
            outcome["hangs"] += sum("did not return" in reason for reason in reasons)
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    for line in raised[:10]:
        print(line)
    print(
        f"{files} files, {outcome['images']} images, {outcome['reasons']} reasons, "
        f"{outcome['crashes']} crashes and {outcome['hangs']} hangs quarantined, "
        f"{outcome['kills']} decoders killed between frames, {len(raised)} "
        f"raised, peak memory {here >> 20} MiB reading and {child >> 20} MiB decoding, "
        f"{time.monotonic() - begin:.0f} s"
    )
    sys.exit(bool(raised) or max(here, child) > MEMORY_LIMIT)


def check_killed(decoder: Decoder, content: bytes, chance: random.Random) -> None:
    """Kill the decoder after one frame of a file; raises `AssertionError` if a frame is lost."""
    wanted = list(decoder.frames(content))
    at, found = chance.randrange(len(wanted)), []
    for frame in decoder.frames(content):
        if len(found) == at and decoder.child:
            decoder.child.kill()
        found.append(frame)
    assert [frame.number for frame in found] == list(range(1, len(wanted) + 1))
    for frame, other in zip(found, wanted, strict=True):
        assert frame.reason == other.reason
        assert np.array_equal(frame.pixels, other.pixels)


def read_archive(path: Path, content: bytes) -> list[str]:
    """The reason of each member of a shard or object of a manifest, empty for those that can be
    read; of a manifest that is refused, the sentence."""
    path.write_bytes(content)
    try:
        units = list(cut_units(str(path), list_archive(str(path))))
    except UserError as refusal:
        if "manifest" not in str(refusal) and "is not a format of shards" not in str(refusal):
            raise
        return [str(refusal)]
    return [member.reason for unit in units for member in read_unit(unit)]


if __name__ == "__main__":
    typer.run(main)
