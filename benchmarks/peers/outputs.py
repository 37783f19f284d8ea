"""Read and compare the outputs of the systems.

Images are keyed by member name without extension, because clip-retrieval keeps no more.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rows = dict[str, np.ndarray]
SDMAD = "sdmad"


def load_similarities(system: str, output: Path, prompts: np.ndarray, signs: list[str]) -> Rows:
    """Cosines (M,) of every image with `prompts` (M, E), in the order of `signs`.

    clip-retrieval writes none, so its cosines are computed from its embeddings. Raises `ValueError`
    when a name occurs twice.
    """
    if system == SDMAD:
        return _score_tables(output / "scores", signs)
    if system == "clip_retrieval":
        return {name: prompts @ v for name, v in load_embeddings(system, output).items()}
    return _column(pq.read_table(output), "similarity")


def load_embeddings(peer: str, output: Path) -> Rows:
    """Unit embeddings (E,) of every image by a peer; sdmad writes none."""
    if peer == "clip_retrieval":
        return _clip_retrieval(output)
    return _column(pq.read_table(output), "embedding")


def difference(some: Rows, others: Rows) -> float:
    """The largest absolute difference of any value.

    Raises `ValueError` when the outputs have different images.
    """
    if alone := sorted(some.keys() ^ others.keys()):
        raise ValueError(f"{len(alone)} images are in one output only: {', '.join(alone[:5])}")
    return max(float(np.abs(row - others[name]).max()) for name, row in some.items())


def spread(rows: Rows) -> float:
    """How much values vary between images: the median over columns of the standard deviation.

    Outputs agree only if their differences are far below this.
    """
    return float(np.median(np.std(list(rows.values()), axis=0)))


def _keyed(names: list[str], values: np.ndarray, where: Path | str) -> Rows:
    keys = [str(PurePosixPath(name).with_suffix("")) for name in names]
    found = dict(zip(keys, values.astype(np.float32), strict=True))
    if len(found) < len(names):
        raise ValueError(f"{where} has {len(names) - len(found)} names more than once")
    return found


def _column(table: pa.Table, name: str) -> Rows:
    return _keyed(table["member"].to_pylist(), np.array(table[name].to_pylist()), name)


def _score_tables(folder: Path, signs: list[str]) -> Rows:
    table = pq.read_table(folder, columns=["member", "signs"])
    rows = []
    for evidence in table["signs"].to_pylist():
        found = {e["sign"]: e["similarity"] for e in evidence}
        rows.append([found[sign] for sign in signs])
    return _keyed(table["member"].to_pylist(), np.array(rows), folder)


def _clip_retrieval(output: Path) -> Rows:
    names: list[str] = []
    rows = []
    for path in sorted((output / "metadata").glob("*.parquet")):
        number = path.stem.removeprefix("metadata_")
        names += pq.read_table(path)["image_path"].to_pylist()
        rows.append(np.load(output / "img_emb" / f"img_emb_{number}.npy"))
    return _keyed(names, np.concatenate(rows), output)
