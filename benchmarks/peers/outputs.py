"""What the peers wrote, read back and compared.

Embeddings are keyed by member name without its extension: clip-retrieval keeps no more of it.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq


def key(member: str) -> str:
    """The name under which an archive member's embedding is found."""
    return str(PurePosixPath(member).with_suffix(""))


def load_embeddings(peer: str, output: Path) -> dict[str, np.ndarray]:
    """Unit embeddings (E,) float32 of all images in a peer's output.

    Raises `ValueError` for a name that is there twice.
    """
    names, rows = _clip_retrieval(output) if peer == "clip_retrieval" else _parquet(output)
    found = {key(name): row for name, row in zip(names, rows.astype(np.float32), strict=True)}
    if len(found) < len(names):
        raise ValueError(f"{output} has {len(names) - len(found)} names more than once")
    return found


def difference(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """The largest absolute difference of any coordinate.

    Raises `ValueError` when the two are not of the same images.
    """
    if alone := sorted(some.keys() ^ others.keys()):
        raise ValueError(f"{len(alone)} images are in one output only: {', '.join(alone[:5])}")
    return max(float(np.abs(row - others[name]).max()) for name, row in some.items())


def _parquet(output: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(output, columns=["member", "embedding"])
    return table["member"].to_pylist(), np.array(table["embedding"].to_pylist())


def _clip_retrieval(output: Path) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    rows = []
    for path in sorted((output / "metadata").glob("*.parquet")):
        number = path.stem.removeprefix("metadata_")
        names += pq.read_table(path)["image_path"].to_pylist()
        rows.append(np.load(output / "img_emb" / f"img_emb_{number}.npy"))
    return names, np.concatenate(rows)
