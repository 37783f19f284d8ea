"""Read tar shards as a stream, and raise where they are damaged.

At a damaged header, a truncated header or a missing end marker, `tarfile` stops without an error,
as if the archive ended there. With `StrictTarInfo` it raises `tarfile.ReadError` instead, and also
for an extended header of more than `LARGEST_HEADER_BYTES`.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, Literal

from sdmad.archive import naming
from sdmad.archive.limits import LARGEST_HEADER_BYTES, Entry, too_large

_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


class StrictTarInfo(tarfile.TarInfo):
    """A complete header, or the zero block that ends an archive (POSIX.1-2001, pax)."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > LARGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"extended header too large: {self.size} bytes")
        if self.size < 0:
            raise tarfile.ReadError(f"member of negative size: {self.size} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


def members(stream: IO[bytes]) -> Iterator[Entry]:
    """Every image of a shard in stored order. Raises `tarfile.ReadError` where it is damaged."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=StrictTarInfo, errorlevel=2) as tar:
        for info in tar:
            # tarfile keeps every member in memory; a stream never needs them again.
            tar.members = []  # type: ignore[attr-defined]
            if not info.isreg() or naming.is_sidecar(info.name):
                continue
            if reason := too_large(info.size):
                yield info.name, None, reason
                continue
            handle = tar.extractfile(info)
            try:
                content = handle.read() if handle else b""
            except tarfile.ReadError:
                yield info.name, None, "the shard breaks off within this image"
                raise
            yield info.name, content, ""


def find(stream: IO[bytes], names: set[str], compressed: bool) -> Iterator[tuple[str, bytes]]:
    """The members called `names`. Unless compressed, data between them is skipped."""
    mode: Literal["r|*", "r:"] = "r|*" if compressed else "r:"
    left = set(names)
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=StrictTarInfo) as tar:
        for info in tar:
            if info.isreg() and info.name in left and not too_large(info.size):
                handle = tar.extractfile(info)
                yield info.name, handle.read() if handle else b""
                left.remove(info.name)
                if not left:
                    return
