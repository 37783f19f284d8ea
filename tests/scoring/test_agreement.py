"""The images that the readers give are those that verification expects, in every kind of archive.

Each case is an archive with the names written down by hand: an image is there under its name, a
file of several under the names of its frames, and a shard that cannot be read under no name.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import subprocess
import tarfile
import uuid
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad import storage
from sdmad.archive.naming import clean, split_frame
from sdmad.scoring.census import rules
from sdmad.scoring.census.frames import Count
from sdmad.scoring.census.listing import list_all
from sdmad.scoring.census.shards import count_loose, count_shard
from sdmad.scoring.verify import verify_scores
from tests.archive.test_dicom import dataset, saved
from tests.archive.test_members import fix_checksums
from tests.helpers import encoded, write_tar
from tests.scoring.helpers import animation, read_archive, tables

Name = tuple[str, str]
PNG = encoded()


def frames_of(name: str, number: int = 3) -> list[str]:
    return [f"{name}#frame={k}" for k in range(1, number + 1)]


def rows_by_file(output: str, files: Iterable[Name]) -> dict[Name, list[tuple[int | None, bool]]]:
    """Frame and success of each row in the tables, by file; names in `files` are no frames."""
    found = defaultdict(list)
    for kind in ("scores", "failures"):
        for row in tables(output, kind).to_pylist():
            name = row["archive"], row["member"]
            file, frame = split_frame(row["member"])
            if name in files or (row["archive"], file) not in files:
                file, frame = row["member"], None
            found[row["archive"], file].append((frame, kind == "scores"))
    return found


def census_of(archive: str) -> dict[Name, list[Count]]:
    """The possible numbers of images of every file that could be one."""
    found: defaultdict[Name, list[Count]] = defaultdict(list)
    for entry, why in list_all(archive):
        name = clean(storage.relative(entry.uri, archive))
        kind = "" if why else rules.shard_kind(entry.uri)
        if kind:
            census = count_shard(entry, kind, "axial")
        else:
            census = count_loose(entry, name, why, "axial")
        for member, count in census.images:
            found[name if kind else "", member].append(count)
        if census.broken:
            found[name, ""].append(None)
    return found


def agree(archive: str, output: str, names: Iterable[Name]) -> None:
    """The readers, verification and `names` agree; a broken shard has the name ("s.tar", "")."""
    read_archive(archive, output)
    found = [
        (row["archive"], row["member"])
        for kind in ("scores", "failures")
        for row in tables(output, kind).to_pylist()
    ]
    assert Counter(found) == Counter(names)
    expected = census_of(archive)
    rows = rows_by_file(output, expected)
    assert rows.keys() == expected.keys()
    for file, counts in expected.items():
        if len(counts) > 1:
            assert len(rows[file]) >= len(counts)
            continue
        numbers = sorted(frame or 0 for frame, _ in rows[file])
        assert numbers in ([0], list(range(1, len(numbers) + 1)))
        whole = rows[file] == [(None, False)]
        assert counts[0] is None or len(numbers) in counts[0] or whole, file
    verdict = verify_scores(archive, output)
    assert verdict.passed, vars(verdict)
    assert verdict.images == len(found)
    assert not verdict.gone


def in_shard(shard: str, *members: str) -> list[Name]:
    return [(shard, member) for member in members]


# Tars


def add(tar: tarfile.TarFile, name: str, content: bytes = PNG, **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def odd_tar(form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name in ("a.png", "d/b.png", "twice.png", "twice.png", "notes.txt", ".hidden.png"):
            add(tar, name)
        add(tar, "")
        add(tar, "x" * 300 + "/\u00fc \u65e5.png")
        add(tar, "f.png#frame=2")
        add(tar, "back\\x41.png")
        add(tar, "empty.png", b"")
        add(tar, "text.png", b"no image")
        add(tar, "stack.gif", animation("GIF"))
        add(tar, "vendor.png", type=b"Q")
        add(tar, "rest.png", type=b"M")
        for name, kind in (("folder", tarfile.DIRTYPE), ("pipe", tarfile.FIFOTYPE)):
            add(tar, name, b"", type=kind)
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("soft.png", tarfile.SYMTYPE, "d/b.png"),
            ("d/up.png", tarfile.SYMTYPE, "../a.png"),
            ("chain.png", tarfile.SYMTYPE, "soft.png"),
            ("film.gif", tarfile.LNKTYPE, "stack.gif"),
            ("broken.png", tarfile.SYMTYPE, "none.png"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"),
            ("folderlink", tarfile.SYMTYPE, "d"),
            ("notes.json", tarfile.SYMTYPE, "a.png"),
        ):
            add(tar, name, b"", type=kind, linkname=target)
    return sink.getvalue()


ODD_TAR = [
    *("a.png", "d/b.png", "twice.png", "twice.png", "", "x" * 300 + "/\u00fc \u65e5.png"),
    *("f.png#frame=2", "back\\x5cx41.png", "empty.png", "text.png", *frames_of("stack.gif")),
    *("vendor.png", "rest.png", "hard.png", "soft.png", "d/up.png", "chain.png"),
    *(*frames_of("film.gif"), "broken.png", "loop.png", "folderlink"),
]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_links_folders_and_odd_names(tmp_path, form) -> None:
    storage.write_bytes(f"{tmp_path}/a/s.tar", odd_tar(form))
    agree(f"{tmp_path}/a", f"{tmp_path}/out", in_shard("s.tar", *ODD_TAR))


def test_tars_of_gnu_tar_with_its_options(tmp_path) -> None:
    folder = tmp_path / "files"
    (folder / "d").mkdir(parents=True)
    (folder / "a.png").write_bytes(PNG)
    (folder / "d" / "b.png").write_bytes(PNG)
    os.link(folder / "a.png", folder / "d" / "hard.png")
    with (folder / "sparse.png").open("wb") as file:
        file.write(PNG)
        file.truncate(400_000)
    archive = tmp_path / "a"
    archive.mkdir()
    names = ["./a.png", "./d/b.png", "./d/hard.png", "./sparse.png"]
    expected = []
    for shard, *options in (
        ("gnu.tar",),
        ("v7.tar", "--format=v7"),
        ("ustar.tar", "--format=ustar"),
        ("pax.tar", "--format=posix"),
        ("sparse.tar", "-S"),
        ("sparse-pax.tar", "-S", "--format=posix"),
        ("incremental.tar", f"--listed-incremental={tmp_path}/snapshot"),
        ("verbose.tar.gz", "-z", "--label=volume"),
        ("x.tar.xz", "-J"),
    ):
        command = ["tar", "-C", folder, "--sort=name", *options, "-cf", archive / shard, "."]
        subprocess.run(command, check=True)
        expected += in_shard(shard, *names)
    agree(str(archive), f"{tmp_path}/out", expected)


def test_compressed_and_concatenated_tars_and_their_endings(tmp_path) -> None:
    members = {f"{k}.png": PNG for k in range(4)}
    plain = write_tar(tmp_path / "plain", members).read_bytes()
    other = write_tar(tmp_path / "other", {"other.png": PNG}).read_bytes()
    third = plain.index(b"2.png")
    half = len(plain) // 2
    damaged = bytearray(plain)
    damaged[third + 150] ^= 0xFF
    packed = gzip.compress(plain)
    wrong = {"garbage.tar": b"garbage" * 1000, "zip.tar": zipped({"a.png": PNG}), "empty.tar": b""}
    shards: dict[str, tuple[bytes, list[str]]] = {
        "multi.tar.gz": (gzip.compress(plain[:half]) + gzip.compress(plain[half:]), [*members]),
        "padded.tgz": (packed + bytes(700), [*members]),
        "misnamed.tar": (lzma.compress(plain), [*members]),
        "plain.tar.zst": (plain, [*members]),
        "b.tar.bz2": (bz2.compress(plain), [*members]),
        "z.tar.zst": (pa.compress(plain, "zstd", asbytes=True), [*members]),
        "cat.tar": (plain + other + bytes(700), [*members, "other.png"]),
        "cat.tar.gz": (packed + gzip.compress(other), [*members, "other.png"]),
        "behind.tar": (plain + b"garbage" * 100, [*members, ""]),
        "header.tar": (bytes(damaged), ["0.png", "1.png", ""]),
        "at_header.tar": (plain[:third], ["0.png", "1.png", ""]),
        "in_header.tar": (plain[: third + 100], ["0.png", "1.png", ""]),
        "in_member.tar": (plain[: third + 560], ["0.png", "1.png", "2.png", ""]),
        "owner.tar": (fix_checksums(plain[:108] + b"nobody!" + plain[115:]), [*members]),
        "no_end.tar": (plain[: plain.index(b"3.png") + 1024], [*members, ""]),
        "zeros.tar": (bytes(10240), []),
        "cut.tar.gz": (gzip.compress(os.urandom(9000) + plain)[:4000], [""]),
        **{name: (content, [""]) for name, content in wrong.items()},
    }
    for shard, (content, _) in shards.items():
        storage.write_bytes(f"{tmp_path}/a/{shard}", content)
    expected = [name for shard, (_, names) in shards.items() for name in in_shard(shard, *names)]
    agree(f"{tmp_path}/a", f"{tmp_path}/out", expected)


# Zips


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def odd_zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Two members of one name.
        archive.writestr("folder/", b"")
        for name in ("a.png", "d/b.png", "twice.png", "twice.png", "notes.txt", ".h.png", "\u65e5"):
            archive.writestr(name, PNG)
        archive.writestr("__MACOSX/a.png", PNG)
        archive.writestr("../up.png", PNG)
        archive.writestr("/abs.png", PNG)
        archive.writestr("win\\dows.png", PNG)
        archive.writestr("empty.png", b"")
        archive.writestr("inner.zip", zipped({"x.png": PNG}))
        archive.writestr("film.webp", animation("WEBP"), zipfile.ZIP_DEFLATED)
        told = "aß.png".encode()
        for name, crc in (("a_.png", zlib.crc32(b"a_.png")), ("b_.png", 0)):
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HHBI", 0x7075, 5 + len(told), 1, crc) + told
            archive.writestr(info, PNG)
        for name, target in (("l.png", "a.png"), ("m.png", "none.png"), ("n.png", "n.png")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return sink.getvalue()


ODD_ZIP = [
    *("a.png", "d/b.png", "twice.png", "twice.png", "\u65e5", "../up.png", "/abs.png"),
    *("win\\dows.png", "empty.png", "inner.zip", *frames_of("film.webp"), "a\u00df.png", "b_.png"),
    *("l.png", "m.png", "n.png"),
]


def directory(content: bytes, change: Callable[[bytearray, int], None], entry: int = 0) -> bytes:
    """A zip whose central directory is changed at the begin of an entry."""
    changed = bytearray(content)
    start = -1
    for _ in range(entry + 1):
        start = changed.index(b"PK\x01\x02", start + 1)
    change(changed, start)
    return bytes(changed)


def put(offset: int, form: str, value: int) -> Callable[[bytearray, int], None]:
    return lambda content, start: struct.pack_into(form, content, start + offset, value)


def test_zips_of_links_folders_and_odd_names(tmp_path) -> None:
    storage.write_bytes(f"{tmp_path}/a/s.zip", odd_zip())
    agree(f"{tmp_path}/a", f"{tmp_path}/out", in_shard("s.zip", *ODD_ZIP))


def test_zips_whose_directory_does_not_fit(tmp_path) -> None:
    members = {f"{k}.png": PNG for k in range(3)}
    plain, other = zipped(members), zipped({"other.png": PNG})
    end = plain.index(b"PK\x05\x06")
    shifted = bytearray(plain)
    (place,) = struct.unpack_from("<I", plain, end + 16)
    struct.pack_into("<I", shifted, end + 16, place + 100)
    with_nul = plain.replace(b"0.png", b"\0.png")
    nameless = zipped({"x": PNG, "y.png": PNG})
    for mark, at in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):
        # The name of the first member moves into its extra field.
        start = nameless.index(mark)
        changed = bytearray(nameless)
        struct.pack_into("<HH", changed, start + at, 0, 1)
        nameless = bytes(changed)
    shards: dict[str, tuple[bytes, list[str]]] = {
        "script.zip": (b"#!/bin/sh\nexit\n" * 9 + plain, [*members]),
        "cat.zip": (other + plain, ["", *members]),
        "script_cat.zip": (b"#!/bin/sh\n" + other + plain, [*members]),
        "front_cut.zip": (plain[20:], [*members]),
        "shifted.zip": (bytes(shifted), [*members]),
        "far.zip": (directory(plain, put(42, "<I", 1 << 30), 1), [*members]),
        "garbage.zip": (directory(plain, put(42, "<I", 7), 1), [*members]),
        "first_moved.zip": (directory(plain, put(42, "<I", 7)), ["", *members]),
        "encrypted.zip": (directory(plain, put(8, "<H", 1), 1), [*members]),
        "method.zip": (directory(plain, put(10, "<H", 9), 1), [*members]),
        "size.zip": (directory(plain, put(24, "<I", 1 << 31), 1), [*members]),
        "nul.zip": (with_nul, ["", "1.png", "2.png"]),
        "nameless.zip": (nameless, ["", "y.png"]),
        "no_members.zip": (zipped({}), []),
        "unlisted.zip": (plain[: plain.index(b"PK\x01\x02")] + zipped({}), [""]),
        "no_directory.zip": (plain[:-60], [""]),
        "empty.zip": (b"", [""]),
        "behind.zip": (plain + b"garbage", [*members]),
    }
    for shard, (content, _) in shards.items():
        storage.write_bytes(f"{tmp_path}/a/{shard}", content)
    expected = [name for shard, (_, names) in shards.items() for name in in_shard(shard, *names)]
    agree(f"{tmp_path}/a", f"{tmp_path}/out", expected)


# Parquet


FILES = [encoded(k, (40, 30)) for k in range(3)]
WIDEST = max(map(len, FILES))
LISTS = [list(content) for content in FILES]
SIGNED = [[x - 256 * (x > 127) for x in content] for content in FILES]
NUMBERED = ["row=0", "row=1", "row=2"]
PLAIN = pa.array(FILES, pa.binary())
NAMES = ["a.png", "b.png", None]
NAMED = ["a.png", "b.png", "row=2"]


def structs(names: Iterable[str | None] = NAMES, image: str = "bytes", path: str = "path") -> list:
    return [{image: c, path: name} for c, name in zip(FILES, names, strict=True)]


PARQUET: dict[str, tuple[dict[str, object], list[str]]] = {
    "binary": ({"image": PLAIN}, NUMBERED),
    "large": ({"scan": pa.array(FILES, pa.large_binary()), "path": NAMES}, NAMED),
    "view": ({"scan": pa.array(FILES, pa.binary_view()), "path": NAMES}, NAMED),
    "dictionary": ({"image": PLAIN.dictionary_encode(), "path": NAMES}, NAMED),
    "fixed": ({"scan": pa.array([c.ljust(WIDEST) for c in FILES], pa.binary(WIDEST))}, NUMBERED),
    "uint8": ({"scan": pa.array(LISTS, pa.list_(pa.uint8())), "path": NAMES}, NAMED),
    "int8": ({"scan": pa.array(SIGNED, pa.list_(pa.int8())), "path": NAMES}, NAMED),
    "large_int8": ({"image": pa.array(SIGNED, pa.large_list(pa.int8()))}, NUMBERED),
    "holes": ({"image": pa.array([[1, None], None, []], pa.list_(pa.uint8()))}, NUMBERED),
    "nulls": ({"image": pa.array([None, FILES[0], b""], pa.binary()), "key": NAMES}, NAMED),
    "int16": ({"scan": pa.array(LISTS, pa.list_(pa.int16()))}, []),
    "struct": ({"image": structs()}, NAMED),
    "struct_scan": ({"Scan": structs()}, NAMED),
    "struct_data": ({"picture": structs(image="data", path="file_name")}, NAMED),
    "struct_capitals": ({"Photo": structs(image="Bytes", path="Path")}, NAMED),
    "struct_lists": (
        {
            "image": pa.array(
                [{"data": c} for c in LISTS], pa.struct([("data", pa.list_(pa.uint8()))])
            )
        },
        NUMBERED,
    ),
    "struct_numbers": ({"image": [{"data": c} for c in LISTS]}, [""]),
    "struct_int8": (
        {
            "photo": pa.array(
                [{"bytes": c} for c in SIGNED], pa.struct([("bytes", pa.list_(pa.int8()))])
            )
        },
        NUMBERED,
    ),
    "struct_null": ({"image": pa.array([structs()[0], None, structs()[1]])}, None),
    "struct_beside": ({"image": structs([None, "p", None]), "file_name": ["f", "g", ""]}, None),
    "capitals": ({"IMAGE": PLAIN, "File_Name": NAMES}, NAMED),
    "two_cases": ({"image": [b"1", b"2", b"3"], "Image": PLAIN, "Path": NAMES}, NAMED),
    "known_first": ({"thumb": [b"1", b"2", b"3"], "data": PLAIN, "content": PLAIN}, NUMBERED),
    "hash": ({"sha": pa.array([bytes(64)] * 3, pa.binary(64)), "scan": PLAIN}, NUMBERED),
    "only_hash": ({"sha": pa.array([bytes(64)] * 3, pa.binary(64)), "n": [1, 2, 3]}, []),
    "wide": ({"sha": pa.array([bytes(65)] * 3, pa.binary(65)), "scan": PLAIN}, [""]),
    "hash_image": ({"image": pa.array([bytes(16)] * 3, pa.binary(16))}, NUMBERED),
    "list_beside": ({"e": pa.array([[1]] * 3, pa.list_(pa.uint8())), "scan": PLAIN}, NUMBERED),
    "two_lists": ({k: pa.array(LISTS, pa.list_(pa.uint8())) for k in "ab"}, [""]),
    "two": ({"left": PLAIN, "right": PLAIN}, [""]),
    "byte_names": ({"scan": PLAIN, "path": pa.array([b"a", b"\xff", None])}, None),
    "only_names": ({"path": PLAIN}, NUMBERED),
    "names_twice": ({"key": PLAIN, "path": PLAIN}, [""]),
    "large_names": ({"image": PLAIN, "name": pa.array(NAMES, pa.large_string())}, NAMED),
    "coded_names": ({"image": PLAIN, "name": pa.array(NAMES).dictionary_encode()}, NAMED),
    "odd_names": ({"image": PLAIN, "member": ["\\x41", "#frame=2", "a\0b"]}, None),
    "same_names": ({"image": PLAIN, "member": ["a", "a", "a"]}, ["a", "a", "a"]),
    "order": ({"image": PLAIN, "image_id": ["x", "y", "z"], "Member": NAMES}, NAMED),
    "several": ({"images": [[c, c] for c in FILES]}, [""]),
    "several_beside": ({"images": [[c, c] for c in FILES], "thumb": PLAIN}, [""]),
    "several_other": ({"frames": [[c, c] for c in FILES]}, [""]),
    "tokens": ({"tokens": [[b"a", b"b"]] * 3, "scan": PLAIN}, NUMBERED),
    "pixels": ({"image": pa.array([[[1, 2]]] * 3, pa.list_(pa.list_(pa.uint8())))}, [""]),
    "floats": ({"image": pa.array([[1.0]] * 3)}, [""]),
    "floats_beside": ({"image": pa.array([[1.0]] * 3), "scan": PLAIN}, NUMBERED),
    "text": ({"image": NAMES, "n": [1, 2, 3]}, []),
    "no_images": ({"n": [1, 2, 3]}, []),
    "no_rows": ({"image": pa.array([], pa.binary())}, []),
    "films": ({"image": None, "path": ["a.gif", "b.tif", "c.png"]}, None),
}
# Where names are not those of the table.
SPECIAL = {
    "struct_null": ["a.png", "row=1", "b.png"],
    "struct_beside": ["f", "p", "row=2"],
    "byte_names": ["a", "\\xff", "row=2"],
    "odd_names": ["\\x5cx41", "#frame=2", "a\\x00b"],
    "films": [*frames_of("a.gif"), *frames_of("b.tif"), "c.png"],
}


def parquet(columns: dict[str, object], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def test_parquet_of_every_schema(tmp_path) -> None:
    films = [animation("GIF"), animation("TIFF"), PNG]
    expected = []
    for shard, (columns, names) in PARQUET.items():
        filled = {k: pa.array(films) if c is None else c for k, c in columns.items()}
        name = f"{shard}.parquet"
        storage.write_bytes(f"{tmp_path}/a/{name}", parquet(filled, row_group_size=2))
        expected += in_shard(name, *(SPECIAL[shard] if names is None else names))
    agree(f"{tmp_path}/a", f"{tmp_path}/out", expected)


def test_parquet_of_other_writers_extensions_and_damage(tmp_path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    pd.DataFrame({"path": ["a", "b"], "image": FILES[:2]}).to_parquet(folder / "pandas.parquet")
    identifiers = pa.array([uuid.UUID(int=k).bytes for k in range(3)], pa.uuid())
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((3, 4, 4), np.uint8))
    opaque = pa.opaque(pa.binary(), "photo", "here")
    for name, columns in {
        "uuid": {"key": identifiers, "scan": PLAIN},
        "tensor": {"image": tensors},
        "opaque": {"scan": pa.ExtensionArray.from_storage(opaque, PLAIN), "path": NAMES},
    }.items():
        (folder / f"{name}.parquet").write_bytes(parquet(columns))
    noise = [os.urandom(300) for _ in range(40)]
    content = bytearray(
        parquet(
            {"image": noise, "path": [f"{k}" for k in range(40)]},
            row_group_size=10,
            use_dictionary=False,
            compression="snappy",
        )
    )
    column = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(1).column(0)
    start = column.data_page_offset + 60
    content[start : start + 240] = b"\xff" * 240
    (folder / "damaged.parquet").write_bytes(content)
    (folder / "cut.parquet").write_bytes(content[:-20])
    (folder / "other.parquet").write_bytes(b"garbage" * 100)
    expected = [
        *in_shard("pandas.parquet", "a", "b"),
        *in_shard("uuid.parquet", *NUMBERED),
        *in_shard("tensor.parquet", *NUMBERED),
        *in_shard("opaque.parquet", *NAMED),
        *in_shard("damaged.parquet", *(f"{k}" for k in range(40))),
        *in_shard("cut.parquet", ""),
        *in_shard("other.parquet", ""),
    ]
    agree(str(folder), f"{tmp_path}/out", expected)


# Files of several images


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, as type and content."""
    found, position = [], 8
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        found.append((kind, content[position + 8 : position + 8 + size]))
        position += size + 12
    return found


def png(parts: Iterable[tuple[bytes, bytes]]) -> bytes:
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def announcing(number: int, **options: object) -> bytes:
    """An APNG of three frames that announces another number."""
    content = chunks(animation("PNG", **options))
    told = struct.pack(">I", number)
    return png((k, told + data[4:] if k == b"acTL" else data) for k, data in content)


def test_animations_and_pages(tmp_path) -> None:
    still_beside = {"default_image": True}
    apng = chunks(animation("PNG"))
    film = animation("WEBP", lossless=True)
    scan = dataset(np.zeros((3, 8, 8), np.uint16))
    files: dict[str, tuple[bytes, int]] = {
        **{f"3.{form.lower()}": (animation(form), 3) for form in ("GIF", "PNG", "WEBP", "AVIF")},
        **{f"3.{form.lower()}": (animation(form), 3) for form in ("MPO", "TIFF")},
        "beside.png": (animation("PNG", **still_beside), 2),
        "one_more.png": (announcing(4), 4),
        "many_more.png": (announcing(40_000), 4),
        "many_beside.png": (announcing(40_000, **still_beside), 3),
        "fewer.png": (announcing(2), 2),
        "one.png": (announcing(1), 1),
        "none.png": (announcing(0), 1),
        "no_frames.png": (png(p for p in apng if p[0] not in (b"fcTL", b"fdAT")), 1),
        "twice.png": (png([*apng[:2], apng[1], *apng[2:]]), 1),
        "late.png": (png([p for p in apng if p[0] != b"acTL"] + [apng[1]]), 1),
        "cut.png": (animation("PNG")[:-40], 3),
        "cut.gif": (animation("GIF")[:-30], 3),
        "no_trailer.gif": (animation("GIF")[:-1], 3),
        "cut.webp": (animation("WEBP")[:-20], 1),
        "cut.avif": (animation("AVIF")[:-20], 1),
        "last.webp": (film.replace(b"VP8L", b"JUNK").replace(b"JUNK", b"VP8L", 2), 3),
        "scan": (saved(scan), 3),
        "wrong.dcm": (saved(dataset(np.zeros((3, 8, 8), np.uint16), NumberOfFrames=9)), 1),
        "one.dcm": (saved(dataset(np.zeros((1, 8, 8), np.uint16))), 1),
        **{f"still.{f.lower()}": (encoded(format=f), 1) for f in ("BMP", "JPEG", "PPM", "GIF")},
    }
    expected = []
    for name, (content, number) in files.items():
        storage.write_bytes(f"{tmp_path}/a/{name}", content)
        expected += [("", n) for n in (frames_of(name, number) if number > 1 else [name])]
    write_tar(tmp_path / "a" / "s.tar", {name: content for name, (content, _) in files.items()})
    expected += [("s.tar", name) for _, name in expected]
    agree(f"{tmp_path}/a", f"{tmp_path}/out", expected)


# Loose objects, manifests, single objects


def test_local_folders_with_links_and_odd_files(tmp_path) -> None:
    folder, outside = tmp_path / "a", tmp_path / "outside"
    for name in ("a.png", "d/b.png", "noext", "x#frame=2", "back\\x41.png", "new\nline.png"):
        storage.write_bytes(f"{folder}/{storage.names.unescaped(name) if 0 else name}", PNG)
    for name in (
        "notes.txt",
        ".hidden.png",
        ".hidden/c.png",
        "__MACOSX/d.png",
        "e/README",
        "DICOMDIR",
    ):
        storage.write_bytes(f"{folder}/{name}", PNG)
    for name, content in (("empty.png", b""), ("text.png", b"no image"), ("s.tar.md5", b"-")):
        storage.write_bytes(f"{folder}/{name}", content)
    storage.write_bytes(f"{outside}/o.png", PNG)
    (folder / "linked").symlink_to(outside)
    (folder / "file.png").symlink_to(outside / "o.png")
    (folder / "broken.png").symlink_to("none.png")
    (folder / "broken.tar").symlink_to("none.tar")
    (folder / "self.png").symlink_to("self.png")
    (folder / "d" / "again").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xe9.png"))).write_bytes(PNG)
    loose = ["a.png", "d/b.png", "noext", "x#frame=2", "new\nline.png", "empty.png", "text.png"]
    loose += ["back\\x5cx41.png", "linked/o.png", "file.png", "broken.png", "self.png", "\\xe9.png"]
    agree(str(folder), f"{tmp_path}/out", [("", name) for name in loose] + [("broken.tar", "")])


@pytest.fixture
def stored(tmp_path) -> Path:
    folder = tmp_path / "a"
    write_tar(folder / "s.tar", {"1.png": PNG, "n.txt": b"-"})
    for name in ("2.png", "d/3.png", "4.gif"):
        storage.write_bytes(f"{folder}/{name}", PNG)
    return folder


def test_manifests(stored, tmp_path) -> None:
    storage.write_bytes(f"{tmp_path}/other/5.png", PNG)
    (tmp_path / "link").symlink_to(tmp_path / "other")
    uris = ["s.tar", "./2.png", "2.png", "d//3.png", "missing.png", "missing.tar", "notes.txt"]
    uris += [f"{tmp_path}/other//5.png", f"file://{tmp_path}/link/../other/6.png", "d"]
    uris += ["zero\0byte.png", f"{tmp_path}/other/zero\0byte.png", f"file://{tmp_path}/\0.png"]
    names = [("s.tar", "1.png"), ("missing.tar", "")]
    loose = ["2.png", "d/3.png", "missing.png", "d"]
    loose += [f"{tmp_path}/other/5.png", f"{tmp_path}/other/6.png"]
    loose += ["zero\\x00byte.png", f"{tmp_path}/other/zero\\x00byte.png", f"{tmp_path}/\\x00.png"]
    names += [("", name) for name in loose]
    text = "\ufeff size , uri\r\n" + "\r\n\r\n".join(f",{uri}" for uri in uris) + "\r\n"
    (stored / "list.csv").write_text(text)
    agree(f"{stored}/list.csv", f"{tmp_path}/out", names)
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        column = pa.array([uri.encode() if kind == pa.binary() else uri for uri in uris], kind)
        (stored / "list.parquet").write_bytes(parquet({"uri": column, "note": column}))
        agree(f"{stored}/list.parquet", f"{tmp_path}/out-{kind}", names)


def test_a_single_object_is_an_archive(stored, tmp_path) -> None:
    columns = {"uri": ["http://host/1.png"] * 3, "Img": FILES, "path": NAMES}
    (stored / "s.parquet").write_bytes(parquet(columns))
    agree(f"{stored}/s.parquet", f"{tmp_path}/out1", in_shard("s.parquet", *NAMED))
    agree(f"{stored}/s.tar", f"{tmp_path}/out2", [("s.tar", "1.png")])
    agree(f"{stored}/2.png", f"{tmp_path}/out3", [("", "2.png")])


def test_prefixes_in_s3(s3, tmp_path) -> None:
    base = f"{s3}/agreement-{tmp_path.name}"
    loose = ["a.png", "/b.png", "d//c.png", "d#1/e.png", ".hidden/f.png", "folder/", "\u00fc.png"]
    for name in [*loose, ".g.png", "notes.json"]:
        storage.write_bytes(f"{base}/{name}", PNG)
    storage.write_bytes(f"{base}/marker/", b"")
    storage.write_bytes(f"{base}-other/x.png", PNG)
    shards = ["t.tar", "d#1/s.tar", "/u.tar", ".v.tar"]
    for name in shards:
        content = write_tar(tmp_path / "t", {"1.png": PNG}).read_bytes()
        storage.write_bytes(f"{base}/{name}", content)
    storage.write_bytes(f"{base}/s.zip", b"#!/bin/sh\n" + zipped({"1.png": PNG}))
    storage.write_bytes(f"{base}/s.parquet", parquet({"image": structs()}))
    expected = [("", name) for name in loose] + [(name, "1.png") for name in [*shards, "s.zip"]]
    agree(base, f"{s3}/agreement-out-{tmp_path.name}", expected + in_shard("s.parquet", *NAMED))
    storage.write_bytes(f"{base}/list.csv", b"uri\na.png\nd//c.png\nnone.png\nt.tar\n")
    expected = [("", name) for name in ("a.png", "d//c.png", "none.png")] + [("t.tar", "1.png")]
    agree(f"{base}/list.csv", f"{s3}/agreement-list-{tmp_path.name}", expected)


# Volumes


def volume(*sides: int, dtype: str = "int16", **fields: object) -> bytes:
    image = nib.Nifti1Image(np.zeros(sides, dtype), np.eye(4), dtype=dtype)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


VOLUMES = {
    "three.nii": volume(4, 5, 3),
    "packed.nii.gz": gzip.compress(volume(4, 5, 3)),
    "flat.nii": volume(4, 5),
    "times.nii.gz": gzip.compress(volume(4, 5, 3, 2)),
    "complex.nii": volume(4, 5, 3, dtype="complex64"),
    "cut.nii.gz": gzip.compress(volume(4, 5, 3))[:-20],
    "short.nii": volume(4, 5, 3)[:-1],
    "text.nii.gz": gzip.compress(b"no volume", mtime=0),
}
SLICES = [
    *(*frames_of("three.nii"), *frames_of("packed.nii.gz"), "flat.nii"),
    *("times.nii.gz", "complex.nii", "cut.nii.gz", "short.nii", "text.nii.gz"),
]


def test_volumes_in_every_kind_of_archive(tmp_path) -> None:
    """A volume is one row a slice; one that cannot be read is one row."""
    folder = tmp_path / "a"
    folder.mkdir()
    write_tar(folder / "s.tar", VOLUMES)
    with zipfile.ZipFile(folder / "s.zip", "w") as archive:
        for name, content in VOLUMES.items():
            archive.writestr(name, content)
    columns = {"image": list(VOLUMES.values()), "name": list(VOLUMES)}
    pq.write_table(pa.table(columns), folder / "s.parquet")
    for name, content in VOLUMES.items():
        (folder / name).write_bytes(content)
    names = [
        *in_shard("s.tar", *SLICES),
        *in_shard("s.zip", *SLICES),
        *in_shard("s.parquet", *SLICES),
        *in_shard("", *SLICES),
    ]
    agree(str(folder), str(tmp_path / "out"), names)
    reasons = {
        r["member"]: r["reason"] for r in tables(str(tmp_path / "out"), "failures").to_pylist()
    }
    assert reasons["times.nii.gz"].startswith("4-D NIfTI of 2 volumes")
    assert sorted(reasons) == sorted(SLICES[-5:])


def test_a_lost_slice_of_a_volume_is_found(tmp_path) -> None:
    """The volume is 4 x 5 x 6: nothing but the axis that was scored is its number of slices."""
    folder, output = tmp_path / "a", tmp_path / "out"
    folder.mkdir()
    (folder / "v.nii").write_bytes(volume(4, 5, 6))
    read_archive(str(folder), str(output))
    (part,) = (output / "scores").iterdir()
    table = pq.read_table(part)
    pq.write_table(table.slice(0, 5), part)
    verdict = verify_scores(str(folder), str(output))
    assert verdict.lost == [("", "v.nii#frame=6")]
    plan = pq.read_table(output / "plan.parquet")
    known = {**(plan.schema.metadata or {}), b"sdmad.input": b'{"slice_axis": "coronal"}'}
    pq.write_table(plan.replace_schema_metadata(known), output / "plan.parquet")
    assert verify_scores(str(folder), str(output)).passed
