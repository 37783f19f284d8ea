"""Read tar shards as a stream, compressed or not, and raise where they are damaged.

At a damaged header, a truncated header or a missing end marker, `tarfile` stops without an error,
as if the archive ended there. With `StrictTarInfo` it raises `tarfile.ReadError` instead, and also
for an extended header of more than `LARGEST_HEADER_BYTES`. Concatenated tars (`cat a.tar b.tar`)
are read to the end of the last one.

Hard and symbolic links to a member are images with the content of that member. They come after the
other images, from a second reading. A link to anything else has a reason.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from sdmad.archive import naming
from sdmad.archive.compression import BLOCK, unpacked
from sdmad.archive.formats import other_format
from sdmad.archive.limits import DAMAGE, LARGEST_HEADER_BYTES, Entry, is_damage, too_large

MOST_HOPS = 40
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
# Folder lists, volume labels, old long names (GNU tar); attributes (Solaris, star).
_NO_FILES = frozenset((b"A", b"D", b"E", b"I", b"N", b"V"))
_CONTINUED = b"M"
_UNUSED_FIELDS = ((100, 124), (136, 148), (329, 345))
_POSIX_MAGIC = b"ustar\0"


class StrictTarInfo(tarfile.TarInfo):
    """A complete header, or the zero block that ends an archive (POSIX.1-2001, pax)."""

    @classmethod
    def fromtarfile(cls, tar: Any) -> "StrictTarInfo":
        ended, tar.ended = getattr(tar, "ended", False), False
        buffer = tar.fileobj.read(tarfile.BLOCKSIZE)
        if ended and len(buffer) < tarfile.BLOCKSIZE and not buffer.strip(b"\x00"):
            buffer = b""  # Padding that is no whole block.
        try:
            try:
                info: Any = cls.frombuf(buffer, tar.encoding, tar.errors)
            except tarfile.InvalidHeaderError:  # type: ignore[attr-defined]
                info = cls.frombuf(_mended(buffer), tar.encoding, tar.errors)
            info.offset = tar.fileobj.tell() - tarfile.BLOCKSIZE
            if buffer[257:263] != _POSIX_MAGIC and info.type not in tarfile.GNU_TYPES:
                # Where POSIX has a prefix of the name, GNU tar may have times.
                name = tarfile.nts(buffer[:100], tar.encoding, tar.errors)  # type: ignore[attr-defined]
                info.name = name.rstrip("/") if info.isdir() else name
            return info._proc_member(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.ended = True
            raise
        except tarfile.HeaderError as error:
            if ended and not buffer:
                raise
            raise tarfile.ReadError(_what(error, buffer, tar.offset, ended)) from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > LARGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"extended header too large: {self.size} bytes")
        if self.size < 0:
            raise tarfile.ReadError(f"member of negative size: {self.size} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


def _mended(header: bytes) -> bytes:
    """A header without the fields that do not matter here: mode, owner, times, device.

    tarfile gives up at one that is no number, even if the checksum is right.
    """
    told = tarfile.nti(header[148:156])  # type: ignore[attr-defined]
    if told not in tarfile.calc_chksums(header):  # type: ignore[attr-defined]
        return header
    kept = bytearray(header)
    for start, stop in _UNUSED_FIELDS:
        kept[start:stop] = bytes(stop - start)
    kept[148:156] = b"%06o\0 " % tarfile.calc_chksums(kept)[0]  # type: ignore[attr-defined]
    return bytes(kept)


def _what(error: Exception, buffer: bytes, offset: int, ended: bool) -> str:
    if offset == 0:
        if not buffer:
            return "the file is empty"
        if other := other_format(buffer):
            return f"it is {other}, not a tar"
    return f"{'data after the end of the tar: ' if ended else ''}{error} at byte {offset}"


@dataclass(frozen=True)
class _Link:
    """A link of a shard. `path` and `target` are normalised paths, `text` is what it leads to."""

    name: str
    path: str
    target: str
    text: str

    @staticmethod
    def of(info: tarfile.TarInfo) -> "_Link":
        folder = posixpath.dirname(info.name) if info.issym() else ""
        target = _path(posixpath.join(folder, info.linkname))
        return _Link(
            naming.escaped(info.name), _path(info.name), target, naming.escaped(info.linkname)
        )


def members(stream: IO[bytes]) -> Iterator[Entry]:
    """Every image of a shard: files in stored order, then links.

    Raises an exception of `limits.DAMAGE` where the shard is damaged, after the images before it.
    """
    links: list[_Link] = []
    damage: Exception | None = None
    try:
        with _opened(stream) as tar:
            for info in _images(tar):
                if _is_link(info):
                    links.append(_Link.of(info))
                else:
                    yield from _entry(tar, info)
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise
        damage = error
    yield from _linked(stream, links, links)
    if damage:
        raise damage


def names(stream: IO[bytes]) -> Iterator[str]:
    """The names that `members` gives, from the headers, in stored order."""
    with _opened(stream, skip=True) as tar:
        yield from (naming.escaped(info.name) for info in _images(tar))


def find(stream: IO[bytes], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The members called `wanted`. Unless the tar is compressed, data between them is skipped."""
    left, links = set(wanted), []
    with _opened(stream, skip=True) as tar:
        for info in _images(tar):
            name = naming.escaped(info.name)
            if _is_link(info):
                links.append(_Link.of(info))
            elif name in left and not too_large(info.size):
                yield name, _content(tar, info)
                left.remove(name)
                if not left:
                    return
    for name, content, _ in _linked(stream, links, [link for link in links if link.name in left]):
        if content is not None:
            yield name, content


@contextmanager
def _opened(stream: IO[bytes], skip: bool = False) -> Iterator[tarfile.TarFile]:
    """A tar from its start; with `skip`, data that is not asked for is not transferred."""
    content, compressed = unpacked(stream)
    mode: Literal["r|", "r:"] = "r:" if skip and not compressed else "r|"
    with tarfile.open(
        fileobj=content,
        mode=mode,
        tarinfo=StrictTarInfo,
        errorlevel=2,
        ignore_zeros=True,
        bufsize=BLOCK,
    ) as tar:
        yield tar


def _infos(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for info in tar:
        # tarfile keeps every member in memory; a stream never needs them again.
        tar.members = []  # type: ignore[attr-defined]
        yield info


def _images(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members that could be images: files and links."""
    for info in _infos(tar):
        if (_is_file(info) or _is_link(info)) and not naming.is_sidecar(info.name):
            yield info


def _is_file(info: tarfile.TarInfo) -> bool:
    """Whether a member has content. A member of an unknown type is a file, as POSIX demands."""
    return info.isreg() or not (info.type in tarfile.SUPPORTED_TYPES or info.type in _NO_FILES)


def _is_link(info: tarfile.TarInfo) -> bool:
    return info.islnk() or info.issym()


def _path(name: str) -> str:
    """A path in a shard; tar itself removes a leading slash from names, not from link targets."""
    return posixpath.normpath(name).lstrip("/")


def _entry(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[Entry]:
    name = naming.escaped(info.name)
    reason = too_large(info.size)
    if info.type == _CONTINUED:
        reason = "continued from another volume of the tar"
    if reason:
        yield name, None, reason
        return
    try:
        content = _content(tar, info)
    except (OSError, *DAMAGE) as error:
        if is_damage(error):
            yield name, None, "the shard breaks off within this image"
        raise
    yield name, content, ""


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(info)
    return handle.read() if handle else b""


def _linked(stream: IO[bytes], links: list[_Link], asked: list[_Link]) -> Iterator[Entry]:
    """The members that the links `asked` lead to, directly or through other `links`."""
    by_path = {link.path: link for link in links}
    wanted: dict[str, list[_Link]] = {}
    for link in asked:
        target = _resolved(link, by_path)
        if target is None:
            yield link.name, None, "the link leads back to itself"
        else:
            wanted.setdefault(target, []).append(link)
    if not wanted:
        return
    folders = {"."}
    try:
        with _opened(stream, skip=True) as tar:
            for info in _infos(tar):
                path = _path(info.name)
                if path in wanted and _is_file(info):
                    reason = too_large(info.size)
                    content = None if reason else _content(tar, info)
                    yield from ((link.name, content, reason) for link in wanted.pop(path))
                folders |= {path} if info.isdir() else set()
                folders |= wanted.keys() & set(_parents(path))
                if not wanted:
                    return
        absent = "which is not in the shard"
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise
        absent = "and the shard breaks off before it"
    for target, some in wanted.items():
        for link in some:
            reason = "a folder" if target in folders else f"{link.text}, {absent}"
            yield link.name, None, f"a link to {reason}"


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _resolved(link: _Link, by_path: dict[str, _Link]) -> str | None:
    """The path that a link leads to in the end; None for a loop."""
    path = link.target
    for _ in range(MOST_HOPS):
        step = next((by_path[part] for part in (path, *_parents(path)) if part in by_path), None)
        if step is None:
            return path
        path = _path(posixpath.join(step.target, path.removeprefix(step.path).lstrip("/")))
    return None
