"""List local folders: links are followed, and what cannot be examined is listed too."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sdmad.storage.names import escaped, local_path
from sdmad.storage.objects import StoredObject
from sdmad.storage.retries import is_missing, storage_error


def list_local(uri: str) -> Iterator[StoredObject]:
    """Every file below a folder, sorted by name; only the file itself if `uri` names one.

    Links to files and folders are followed; a folder is not entered again inside itself. Left out
    are names that start with a dot, and pipes, sockets and devices. What cannot be examined (a
    broken link, a folder without read permission) is listed without a size and an ETag; the URI
    of such a folder ends with a slash. Reading it gives the reason.
    """
    root = local_path(uri)
    try:
        status = root.stat()
        if stat.S_ISREG(status.st_mode):
            yield describe(uri, status)
        elif stat.S_ISDIR(status.st_mode):
            here = (status.st_dev, status.st_ino)
            yield from _below(uri.rstrip("/"), root, _names(root), (here,))
    except OSError as error:
        if not is_missing(error):
            raise storage_error(uri, error) from error


def describe(uri: str, status: os.stat_result) -> StoredObject:
    """The entry of a file. Its modification time serves as the ETag."""
    return StoredObject(uri, status.st_size, f"{status.st_mtime_ns:x}")


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _below(
    uri: str, folder: Path, names: list[str], parents: tuple[tuple[int, int], ...]
) -> Iterator[StoredObject]:
    """The files called `names` in a folder and below; `parents` are the folders that contain it.

    A folder is known by its device and inode.
    """
    for name in names:
        path, name_uri = folder / name, f"{uri}/{escaped(name)}"
        try:
            status = path.stat()
        except OSError as error:
            # A file that has just been deleted has left the archive; a broken link stays.
            if not is_missing(error) or path.is_symlink():
                yield StoredObject(name_uri, 0, "")
            continue
        here = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode):
            yield describe(name_uri, status)
        elif stat.S_ISDIR(status.st_mode) and here not in parents:
            try:
                inside = _names(path)
            except OSError as error:
                if not is_missing(error):
                    yield StoredObject(f"{name_uri}/", 0, "")
                continue
            yield from _below(name_uri, path, inside, (*parents, here))
