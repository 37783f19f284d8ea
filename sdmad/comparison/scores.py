"""The scores of a comparison: `<cell>.scores.parquet` beside the metrics of each cell.

`test.parquet` has a row for each test image: `archive`, `member`, `patient` (the patient's number)
and `label_<category>`. The scores have the same images in the same order: `score_<category>` and
`anomaly_score`, in float32, and of SD-MAD the answers that conformal sets hold,
`possible_with_<category>` and `possible_without_<category>`, and the scores where the prevalences
of the test images are stated, `stated_<category>` and `stated_anomaly`.
"""

import numpy as np
import pyarrow as pa

from sdmad import storage
from sdmad.inputs.labels import LabelTable
from sdmad.storage import parquet

SUFFIX = ".scores"
STATED = "stated_"
SETS = ("possible_with_", "possible_without_")


def write_test(output: str, test: LabelTable) -> None:
    """Write `test.parquet`; patients are numbered, and their names are not written."""
    _, patients = np.unique(test.patient.astype(str), return_inverse=True)
    columns = {"archive": test.archive, "member": test.member, "patient": patients}
    columns |= {f"label_{c}": test.labels[:, k] for k, c in enumerate(test.categories)}
    _write(columns, _test_uri(output))


def read_test(output: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth (N, C) and the number of the patient (N,) of all test images."""
    table = parquet.decode(storage.read_bytes(_test_uri(output)))
    return _stacked(table, "label_"), table["patient"].to_numpy()


def scores_uri(cell: str) -> str:
    """Where the scores of the cell at the URI `cell` are."""
    return cell.removesuffix(".parquet") + f"{SUFFIX}.parquet"


def write_scores(
    cell: str,
    categories: list[str],
    scores: np.ndarray,
    anomaly: np.ndarray,
    possible: np.ndarray | None = None,
    stated: np.ndarray | None = None,
) -> None:
    """Write scores (N, C), anomaly scores (N,), conformal sets (N, C, 2) and scores at stated
    prevalences (N, C + 1) beside the cell at the URI `cell`."""
    columns = {f"score_{c}": scores[:, k] for k, c in enumerate(categories)}
    columns["anomaly_score"] = anomaly
    if stated is not None:
        columns |= {STATED + c: stated[:, k] for k, c in enumerate([*categories, "anomaly"])}
    columns = {n: v.astype(np.float32) for n, v in columns.items()}
    if possible is not None:
        for answer, prefix in enumerate(SETS):
            columns |= {prefix + c: possible[:, k, answer] for k, c in enumerate(categories)}
    _write(columns, scores_uri(cell))


def read_scores(cell: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) and anomaly scores (N,) of the cell at the URI `cell`."""
    table = parquet.decode(storage.read_bytes(scores_uri(cell)))
    return _stacked(table, "score_"), table["anomaly_score"].to_numpy()


def read_possible(cell: str) -> np.ndarray | None:
    """The conformal sets (N, C, 2) of the cell at the URI `cell`; None if it has none."""
    table = parquet.decode(storage.read_bytes(scores_uri(cell)))
    if not any(name.startswith(SETS) for name in table.column_names):
        return None
    return np.stack([_stacked(table, prefix) for prefix in SETS], axis=-1)


def read_stated(cell: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores (N, C) and anomaly scores (N,) at stated prevalences of the cell at the URI `cell`;
    None if it has none."""
    table = parquet.decode(storage.read_bytes(scores_uri(cell)))
    if STATED + "anomaly" not in table.column_names:
        return None
    found = _stacked(table, STATED)
    return found[:, :-1], found[:, -1]


def _stacked(table: pa.Table, prefix: str) -> np.ndarray:
    names = [name for name in table.column_names if name.startswith(prefix)]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def _test_uri(output: str) -> str:
    return storage.join(output, "test.parquet")


def _write(columns: dict[str, np.ndarray], uri: str) -> None:
    storage.write_bytes(uri, parquet.encode(pa.table(columns)))
