"""Formats of files that are not images, by their first bytes; for reasons in the failures table."""

_STARTS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"LZIP", "an lzip file"),
    (b"\x1f\x9d", "a file of the program compress"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"%PDF-", "a PDF file"),
    (b"<?xml", "an XML file"),
    (b"<svg", "an SVG file"),
)


def other_format(content: bytes) -> str:
    """What a file is that is not an image, with its article; empty if that is not known."""
    for start, name in _STARTS:
        if content.startswith(start):
            return name
    if content[257:262] == b"ustar":
        return "a tar archive"
    return ""


def unknown(content: bytes) -> str:
    """The reason for a file that no decoder knows."""
    other = other_format(content)
    return f"unknown image format: it is {other}" if other else "unknown image format"
