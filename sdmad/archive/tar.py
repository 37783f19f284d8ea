"""Strict reading of tar headers.

`tarfile` ends quietly at a damaged header, a cut header or a missing end marker, as if the archive
ended there; everything behind would be lost without a word. Opened with `tarinfo=StrictTarInfo`, it
raises `tarfile.ReadError` instead.
"""

import tarfile


class StrictTarInfo(tarfile.TarInfo):
    """A header that must be whole, or the zero block that ends an archive (POSIX.1-2001, pax)."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None
