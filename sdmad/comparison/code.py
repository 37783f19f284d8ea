"""Which code has made the cells of a comparison: a name in the metadata of each cell's file.

Cells that exist are not computed again, also after an update. `sentence` tells the user which ones
other code has made.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pyarrow as pa

from sdmad.words import code_version

KEY = b"sdmad.code_version"
# What a cell depends on, below the package.
PARTS = (
    *("archive", "backbones", "baselines", "inputs", "method"),
    *("activations.py", "evaluation/protocols.py", "phantoms/backbone.py"),
    *("comparison/catalogs.py", "comparison/cell.py", "comparison/config.py"),
    *("fitting/encoded.py", "fitting/worker.py"),
)


@cache
def present() -> str:
    """The version of sdmad and a digest of the sources in `PARTS`, as in "0.1.0 (3f2a91c0)"."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    return f"{code_version()} ({digest.hexdigest()[:8]})"


def sources() -> list[Path]:
    """The files of `PARTS`."""
    root = Path(__file__).parents[1]
    return [path for part in PARTS for path in sorted((root / part).rglob("*.py")) or [root / part]]


def stamped(table: pa.Table) -> pa.Table:
    """A cell that names the present code."""
    return table.replace_schema_metadata((table.schema.metadata or {}) | {KEY: present().encode()})


def made_by(cell: pa.Table) -> str:
    """The code that a cell names; empty if it names none."""
    return (cell.schema.metadata or {}).get(KEY, b"").decode()


def sentence(codes: Iterable[str], place: str) -> str:
    """What to tell of the codes of all cells, which are below `place`; empty if all are present."""
    counts = Counter(codes)
    others = {name: count for name, count in sorted(counts.items()) if name != present()}
    if not others:
        return ""
    listed = ", ".join(f"{count:,} of {name or 'unknown code'}" for name, count in others.items())
    return (
        f"{sum(others.values()):,} of all {counts.total():,} cells were made by other code than "
        f"this, {present()}: {listed}; to compute them again, remove them below {place} or give "
        "another --output"
    )
