"""Compressed tars: every format, several streams in one file, damage, memory."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from sdmad.archive.compression import unpacked
from sdmad.archive.limits import is_damage
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import cut_units
from sdmad.errors import UserError
from tests.helpers import ROOT, encoded, write_tar

CONTENT = os.urandom(300_000) + bytes(700_000)


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


def bgzip(content: bytes) -> bytes:
    """As bgzip of htslib: members of at most 64 KiB with an extra field, and an empty one."""
    size = 60_000
    parts = [content[k : k + size] for k in range(0, len(content), size)] + [b""]
    return b"".join(gzip.compress(part) for part in parts)


FORMATS = {
    "gzip": gzip.compress,
    "bgzip": bgzip,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "zstd": zstd,
}
SKIPPABLE = b"\x5e\x2a\x4d\x18\x04\x00\x00\x00" + b"skip"


@pytest.mark.parametrize("form", FORMATS)
def test_one_stream_and_several_are_unpacked_whole(form) -> None:
    pack = FORMATS[form]
    for content, expected in (
        (pack(CONTENT), CONTENT),
        (pack(CONTENT[:500_000]) + pack(CONTENT[500_000:]), CONTENT),
        (pack(b""), b""),
    ):
        stream, compressed = unpacked(io.BytesIO(content))
        assert compressed
        assert stream.read() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"a") + bytes(100) + gzip.compress(b"b") + bytes(9), b"ab"),
        (lzma.compress(b"a") + bytes(8) + lzma.compress(b"b") + bytes(4), b"ab"),
        (SKIPPABLE + zstd(b"a") + SKIPPABLE + zstd(b"b") + SKIPPABLE, b"ab"),
    ],
    ids=["gzip", "xz", "zstd"],
)
def test_padding_between_streams_is_skipped(content, expected) -> None:
    stream, compressed = unpacked(io.BytesIO(content))
    assert (stream.read(), compressed) == (expected, True)


@pytest.mark.parametrize("form", FORMATS)
def test_damage_raises(form) -> None:
    content = FORMATS[form](CONTENT)
    broken = bytearray(content)
    broken[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    damages = [content[: len(content) // 2], content[:-3], content + b"garbage"]
    if form != "zstd":  # Arrow writes no checksums.
        damages.append(bytes(broken))
    for damaged in damages:
        with pytest.raises(Exception) as caught:
            unpacked(io.BytesIO(damaged))[0].read()
        assert is_damage(caught.value), caught.value


@pytest.mark.parametrize("form", FORMATS)
def test_a_shard_is_recognised_by_its_content_for_scores_and_supports(tmp_path, form) -> None:
    members = {f"{k}.png": encoded(k) for k in range(4)}
    plain = write_tar(tmp_path / "plain", members).read_bytes()
    half = len(plain) // 2
    pack = FORMATS[form]
    archive = tmp_path / "archive"
    archive.mkdir()
    shards = {
        "a.tar": pack(plain),
        "b.tar.gz": pack(plain[:half]) + pack(plain[half:]),
        "c.tar.zst": plain,
        "d.txz": pack(plain),
    }
    for name, content in shards.items():
        (archive / name).write_bytes(content)
    for unit in cut_units(str(archive), list_archive(str(archive))):
        assert {m.name: m.content for m in read_unit(unit)} == members
    wanted = [(shard, "2.png") for shard in shards]
    assert read_members(str(archive), wanted) == dict.fromkeys(wanted, encoded(2))


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_shard_gives_the_members_before_the_break(tmp_path, form) -> None:
    members = {f"{k}.png": os.urandom(400_000) for k in range(4)}
    plain = write_tar(tmp_path / "plain", members).read_bytes()
    content = FORMATS[form](plain)
    path = tmp_path / "s.tar.gz"
    path.write_bytes(content[: len(content) * 3 // 5])
    (unit,) = cut_units(str(path), list_archive(str(path)))
    found = list(read_unit(unit))
    whole = [m.name for m in found if m.content]
    # bzip2 and xz work in blocks of up to 900 kB and 24 MiB.
    assert whole == [f"{k}.png" for k in range(len(whole))]
    assert len(whole) == (2 if form in ("gzip", "bgzip", "zstd") else len(whole))
    assert all(members[m.name] == m.content for m in found if m.content)
    assert found[-1].name == ""
    assert "breaks off" in found[-1].reason


MEMORY = """
import resource, sys
from sdmad.archive import tars
from sdmad.archive.limits import is_damage

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

before = peak()
for path in sys.argv[1:]:
    with open(path, "rb") as stream:
        try:
            for row in tars.members(stream): print(row)
        except Exception as error:
            assert is_damage(error)
            print(type(error).__name__)
print("MiB", peak() - before)
"""


def test_compression_bombs_need_little_memory(tmp_path) -> None:
    info = tarfile.TarInfo("x.png")
    info.size = 3 << 30
    bomb, wide = tmp_path / "bomb.tar.xz", tmp_path / "wide.tar.xz"
    with lzma.open(bomb, "w", preset=0) as sink:
        sink.write(info.tobuf())
        for _ in range(100):
            sink.write(bytes(1 << 20))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    wide.write_bytes(lzma.compress(bytes(1000), filters=filters))
    command = [sys.executable, "-c", MEMORY, str(bomb), str(wide)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    *rows, grown = done.stdout.splitlines()
    assert rows == ["('x.png', None, 'too large: 3221225472 bytes')", "ReadError", "LZMAError"]
    assert int(grown.removeprefix("MiB ")) < 40


@pytest.mark.parametrize("name", ["s.7z", "s.rar", "s.tar.lz4", "s.tar.Z"])
def test_an_archive_in_another_format_is_refused_before_work_starts(tmp_path, name) -> None:
    Path(tmp_path / name).write_bytes(b"-")
    with pytest.raises(UserError, match=f"{name} cannot be read, because"):
        list(cut_units(str(tmp_path), list_archive(str(tmp_path))))
