"""The archive of the soak, with the rows that a run must write for it.

    made = make_archive()
    made.objects["odd/links.tar"], made.images["odd/links.tar", "hard.png"], made.failures

The rows are written down beside the content, from docs/reliability.md. Nothing here lists, reads or
decodes by the code of sdmad, so that a mistake in it cannot agree with itself.
"""

import csv
import gzip
import io
import lzma
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sdmad.phantoms.task import draw_example, encode_png

SHARDS, IMAGES, LOOSE, FEW = 40, 30, 50, 10
DAMAGED = 7
# Pillow writes wrong positions into MPO files from the fourth picture on.
FRAMES = 3
# A stack kills its reader at this frame; rows of a reader leave it 16 at a time.
STACK, FATAL_FRAME = 24, 20
# Images of this size end the process that resizes them. A file with the mark also ends a child
# process that opens it, so that the second attempt gives one row for the whole file.
FATAL_SIZE, MARK = (33, 21), "ENDS-ITS-CHILD"
KILLER = """
import os, signal, sys
from PIL import Image
child = "sdmad.archive.quarantine" in sys.orig_argv
resize, open_image = Image.Image.resize, Image.open
def die():
    os.kill(os.getpid(), signal.SIGSEGV)
def fatal_resize(self, *arguments, **options):
    if self.size == {size}:
        die()
    return resize(self, *arguments, **options)
def fatal_open(stream, *arguments, **options):
    if child and {mark} in stream.getvalue():
        die()
    return open_image(stream, *arguments, **options)
Image.Image.resize, Image.open = fatal_resize, fatal_open
if child:
    import tifffile
    open_tiff = tifffile.TiffFile
    def fatal_tiff(stream):
        if {mark} in stream.getvalue():
            die()
        return open_tiff(stream)
    tifffile.TiffFile = fatal_tiff
"""

Name = tuple[str, str]


@dataclass
class Made:
    """Objects by key, how many rows each (archive, member) must have, and which are failures."""

    objects: dict[str, bytes] = field(default_factory=dict)
    images: Counter[Name] = field(default_factory=Counter)
    failures: set[Name] = field(default_factory=set)

    def add(
        self,
        key: str,
        content: bytes,
        names: Iterable[str] | None = None,
        failed: Iterable[str] = (),
        times: int = 1,
    ) -> None:
        """An object; `names` are its members, or for a loose file (None) those of its frames."""
        self.objects[key] = content
        for name in names if names is not None else [key]:
            self.images["", name] += times if names is None else 0
            self.images[key, name] += times if names is not None else 0
        self.images = +self.images
        self.failures |= {(key, name) if names is not None else ("", name) for name in failed}

    def add_frames(self, key: str, content: bytes) -> None:
        """A loose file of `FRAMES` frames."""
        self.objects[key] = content
        self.images.update(("", name) for name in frames(key, FRAMES))

    @property
    def units(self) -> int:
        """Every shard here is one work unit, and so are the loose objects together."""
        return len({archive for archive, _ in self.images})


def frames(name: str, count: int) -> list[str]:
    return [f"{name}#frame={k}" for k in range(1, count + 1)]


def install_killer(folder: Path) -> str:
    """A PYTHONPATH under which the fatal frames end the process that decodes them."""
    (folder / "sitecustomize.py").write_text(
        KILLER.format(size=FATAL_SIZE, mark=repr(MARK.encode()))
    )
    return str(folder)


def make_archive() -> Made:
    """Shards of phantoms with a damaged one each, loose images, and odd shards and files."""
    made = Made()
    content = [encode_png(draw_example(k, "test").image) for k in range(IMAGES)]
    content[DAMAGED] = content[DAMAGED][:200]
    for shard in range(SHARDS):
        members = {f"{shard}-{k}.png": image for k, image in enumerate(content)}
        made.add(f"{shard:03d}.tar", tar_of(members), members, [f"{shard}-{DAMAGED}.png"])
    for k in range(LOOSE):
        key = f"loose/{k}.png"
        made.add(key, content[k % IMAGES], None, [key] if k % IMAGES == DAMAGED else [])
    add_tars(made, content)
    add_tables(made, content[:FEW])
    add_stacks(made, content)
    for form, several in animations(content).items():
        made.add_frames(f"odd/frames.{form}", several)
    made.add("odd//empty folder.png", content[0])
    made.add('odd/Doe, "J"; 50%.png', content[1])
    made.add("odd/labels.json", b"{}", [])
    return made


def tar_of(members: dict[str, bytes], links: Iterable[tuple[str, bytes, str]] = ()) -> bytes:
    """A tar of files, then links: their name, type and target."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return sink.getvalue()


def animations(images: list[bytes]) -> dict[str, bytes]:
    """Files of `FRAMES` frames, by suffix."""
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images[:FRAMES]]
    made = {}
    for form in ("gif", "png", "webp", "tiff", "mpo"):
        sink = io.BytesIO()
        first, *others = [picture.copy() for picture in pictures]
        first.save(sink, form.upper(), save_all=True, append_images=others)
        made[form] = sink.getvalue()
    return made


def add_tars(made: Made, images: list[bytes]) -> None:
    """Links, several streams and several tars in one file, names that need quoting."""
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    files = {"a.png": images[0], "in/cine.gif": animations(images)["gif"]}
    links = [
        ("hard.png", hard, "a.png"),
        ("soft.png", soft, "a.png"),
        ("far/up.png", soft, "../a.png"),
        ("chain.png", soft, "far/up.png"),
        ("hard of soft.png", hard, "chain.png"),
        ("soft.gif", soft, "in/cine.gif"),
    ]
    dead = [
        ("loop.png", soft, "loop.png"),
        ("missing.png", soft, "nothing.png"),
        ("outside.png", soft, "/etc/hostname"),
        ("folder.png", soft, "in"),
    ]
    several = frames("in/cine.gif", FRAMES) + frames("soft.gif", FRAMES)
    failed = [name for name, _, _ in dead]
    names = ["a.png", *several, *(name for name, _, _ in links[:-1]), *failed]
    whole = tar_of(files, links + dead)
    half = len(whole) // 2
    made.add("odd/links.tar", whole, names, failed)
    made.add("odd/concatenated.tar", whole + whole, names, failed, times=2)
    streams = gzip.compress(whole[:half]) + gzip.compress(whole[half:])
    made.add("odd/streams.tar.gz", streams, names, failed)
    made.add("odd/named wrong.tar", lzma.compress(whole), names, failed)
    quoted = 'odd/ha#sh 50%25, "quoted"; café.tar'
    made.add(quoted, whole, names, failed)
    # The target of a hard link may come behind it, where two tars are joined.
    early = tar_of({}, [("early.png", hard, "late.png")])
    late = tar_of({"late.png": images[1], "../x, y#1.png": images[2]})
    made.add("odd/early.tar", early + late, ["early.png", "late.png", "../x, y#1.png"])


def add_stacks(made: Made, images: list[bytes]) -> None:
    """Files of several frames, one of which ends the process that decodes it."""
    around = {"first.png": images[0], "last.png": images[1]}
    names = frames("stack.tif", STACK)
    made.add(
        "odd/stack.tar", tar_of({"stack.tif": stack()} | around), [*around, *names],
        [names[FATAL_FRAME - 1]],
    )  # fmt: skip
    fickle = tar_of({"stack.tif": stack(MARK)} | around)
    made.add("odd/fickle.tar", fickle, [*around, "stack.tif"], ["stack.tif"])


def stack(mark: str = "") -> bytes:
    """A TIFF of `STACK` pages, of which one is fatal."""
    sizes = [FATAL_SIZE if k == FATAL_FRAME else (40, 40) for k in range(1, STACK + 1)]
    first, *others = [Image.new("L", size, 10 * k) for k, size in enumerate(sizes)]
    sink = io.BytesIO()
    first.save(sink, "TIFF", save_all=True, append_images=others, description=mark)
    return sink.getvalue()


def add_tables(made: Made, images: list[bytes]) -> None:
    """Parquet files whose images, and names, are of other types than binary and string."""
    images = [b"no image" if k == DAMAGED else image for k, image in enumerate(images)]
    width = max(map(len, images))
    padded = [image.ljust(width, b"\0") for image in images]
    lists = [list(image) for image in images]
    plain = pa.array(images)
    names = [f"{k}.png" for k in range(len(images))]
    large = pa.array(names, pa.large_string())
    structs = [{"bytes": image, "path": name} for image, name in zip(images, names, strict=True)]
    columns: dict[str, dict[str, pa.Array]] = {
        "dictionary": {"image": plain.dictionary_encode(), "path": large},
        "large": {"image": plain.cast(pa.large_binary()), "path": large},
        "fixed": {"image": pa.array(padded, pa.binary(width)), "path": large},
        "lists": {"image": pa.array(lists, pa.list_(pa.uint8())), "path": large},
        "large lists": {"image": pa.array(lists, pa.large_list(pa.uint8())), "path": large},
        "fixed lists": {
            "image": pa.array([list(p) for p in padded], pa.list_(pa.uint8(), width)),
            "path": large,
        },
        "structs": {"image": pa.array(structs)},
        "names as dictionary": {"image": plain, "file_name": large.dictionary_encode()},
    }
    for key, table in columns.items():
        made.add(f"odd/{key}.parquet", parquet(table), names, [names[DAMAGED]])
    numbers = [f"row={k}" for k in range(len(images))]
    made.add("odd/unnamed.parquet", parquet({"image": plain}), numbers, [numbers[DAMAGED]])
    # The third row has no name, the sixth no image.
    holes = {
        "image": pa.array([None if k == 5 else image for k, image in enumerate(images)]),
        "member": pa.array([None if k == 2 else name for k, name in enumerate(names)]),
    }
    left = ["row=2" if k == 2 else name for k, name in enumerate(names)]
    made.add("odd/holes.parquet", parquet(holes), left, [names[5], names[DAMAGED]])


def parquet(columns: dict[str, pa.Array]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=7)
    return sink.getvalue()


def csv_manifest(uris: list[str], sizes: list[int], etags: list[str]) -> bytes:
    """A manifest with empty, right and wrong sizes, and every fourth line twice."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["size", "note, free text", "uri", "etag"])
    for k, (uri, size, etag) in enumerate(zip(uris, sizes, etags, strict=True)):
        told, tag = (("", ""), (size, f'"{etag}"'), (size + 1, etag))[k % 3]
        for _ in range(2 if k % 4 == 0 else 1):
            writer.writerow([told, "a\nb", uri, tag])
    return text.getvalue().encode()


def parquet_manifest(uris: list[str], sizes: list[int], etags: list[str]) -> bytes:
    """A manifest as pandas 3 writes it, with duplicates and empty sizes and ETags."""
    order = [*range(len(uris)), *range(0, len(uris), 4)]
    known = [k % 3 > 0 for k in range(len(uris))]
    columns = {
        "uri": pa.array([uris[k] for k in order], pa.large_string()),
        "size": pa.array([sizes[k] if known[k] else None for k in order], pa.int64()),
        "etag": pa.array([etags[k] if known[k] else None for k in order], pa.large_string()),
    }
    return parquet(columns)
