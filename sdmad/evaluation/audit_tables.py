"""The tables of the sign audit, computed from weights, membership and score tables.

`sdmad.evaluation.audit.SignAudit` explains their columns.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from sdmad.errors import UserError
from sdmad.evaluation.protocols import LEAST_POSITIVES
from sdmad.inputs.catalog import Catalog

CLOSE_OVERLAP = 0.5
CLOSE_COSINE = 0.7


def findings(rows: pa.Table) -> pd.DataFrame:
    """One row for each finding: image (row number of the score table), category."""
    column = rows["findings"].combine_chunks()
    columns = [pc.list_parent_indices(column), pc.list_flatten(column)]
    return pa.table(columns, names=["image", "category"]).to_pandas()


def carrying_signs(rows: pa.Table) -> pd.DataFrame:
    """One row for each sign of each finding: image (row number), category, sign, and whether the
    sign is the `first` of its finding."""
    column = rows["signs"].combine_chunks()
    flat = pc.list_flatten(column)
    names = ["category", "sign"]
    columns = [pc.list_parent_indices(column), *(pc.struct_field(flat, name) for name in names)]
    table = pa.table(columns, names=["image", *names]).to_pandas()
    table["first"] = ~table.duplicated(["image", "category"])
    return table


def check(catalog: Catalog, found: pd.DataFrame, carried: pd.DataFrame) -> None:
    """Raise `UserError` when a finding or a sign is not in the catalog."""
    strange = set(found.category) - set(catalog.category_names)
    strange |= set(carried.sign) - set(catalog.sign_names)
    if strange:
        raise UserError(
            f"the score table names {min(strange)!r}, which is not in the detector's sign catalog "
            f"{catalog.name}; use the detector that made these scores"
        )


def of_signs(
    catalog: Catalog, weights: np.ndarray, found: pd.DataFrame, carried: pd.DataFrame
) -> pd.DataFrame:
    """`SignAudit.signs`; columns that need the support AUC or labels are NaN."""
    totals = found.category.value_counts()
    carries = carried.groupby(["category", "sign"])["first"].agg(["size", "sum"])
    records = []
    for c, s in np.argwhere(catalog.membership):
        category, sign = catalog.category_names[c], catalog.sign_names[s]
        others = np.flatnonzero(catalog.membership[:, s])
        total = int(totals.get(category, 0))
        often, first = (
            carries.loc[(category, sign)] if (category, sign) in carries.index else (0, 0)
        )
        records.append(
            {
                "category": category,
                "sign": sign,
                "shared_with": ";".join(catalog.category_names[k] for k in others if k != c),
                "weight": float(weights[:, c, s].mean()),
                "weight_std": float(weights[:, c, s].std()),
                "contradicted": np.nan,
                "findings": total,
                "carries": often / total if total else np.nan,
                "leads": first / total if total else np.nan,
                "test_auroc": np.nan,
            }
        )
    return pd.DataFrame(records)


def of_categories(catalog: Catalog, found: pd.DataFrame, carried: pd.DataFrame) -> pd.DataFrame:
    """`SignAudit.categories`."""
    members = catalog.membership
    own = catalog.written & (members.sum(0) == 1)
    listed = {(catalog.category_names[c], catalog.sign_names[s]) for c, s in np.argwhere(own)}
    named = zip(carried.category, carried.sign, strict=True)
    is_own = np.array([pair in listed for pair in named], bool)
    by_own = carried[is_own].drop_duplicates(["image", "category"]).category.value_counts()
    totals = found.category.value_counts()
    records = []
    for c, category in enumerate(catalog.category_names):
        total = int(totals.get(category, 0))
        records.append(
            {
                "category": category,
                "findings": total,
                "signs": int(members[c].sum()),
                "own": int(own[c].sum()),
                "by_shared_only": 1 - by_own.get(category, 0) / total if total else np.nan,
            }
        )
    return pd.DataFrame(records)


def of_pairs(
    catalog: Catalog,
    weights: np.ndarray,
    signs: torch.Tensor,
    found: pd.DataFrame,
    truth: np.ndarray | None,
) -> pd.DataFrame:
    """`SignAudit.pairs`, from `weights` (S, C, M) and adapted sign embeddings `signs` (S, M, E)."""
    names, members = catalog.category_names, catalog.membership
    written = catalog.written.sum(1)
    prototypes = torch.from_numpy(weights.copy()).to(signs) @ (signs - signs.mean(1, keepdim=True))
    units = F.normalize(prototypes, dim=-1)
    cosines = (units @ units.transpose(1, 2)).mean(0).numpy()
    confused = _confusion(names, found, truth)
    records = []
    for c, d in combinations(range(len(names)), 2):
        both = members[c] & members[d]
        overlap = float(np.minimum(weights[:, c], weights[:, d]).sum(-1).mean())
        nested = both.sum() == min(written[c], written[d])
        close = overlap >= CLOSE_OVERLAP or cosines[c, d] >= CLOSE_COSINE
        records.append(
            {
                "category": names[c],
                "other": names[d],
                "shared": ";".join(np.array(catalog.sign_names)[both]),
                "jaccard": float(both.sum() / (members[c] | members[d]).sum()),
                "overlap": overlap,
                "cosine": float(cosines[c, d]),
                "apart": not (nested or close),
                "test_confused": confused[c, d],
                "test_confused_back": confused[d, c],
            }
        )
    columns = ["category", "other", "shared", "jaccard", "overlap", "cosine", "apart"]
    return pd.DataFrame(records, columns=[*columns, "test_confused", "test_confused_back"])


def _confusion(names: list[str], found: pd.DataFrame, truth: np.ndarray | None) -> np.ndarray:
    """Shares (C, C): of test images with c alone, those where d is found and c is not."""
    confused = np.full((len(names), len(names)), np.nan)
    if truth is None:
        return confused
    finds = np.zeros(truth.shape, bool)
    finds[found.image, [names.index(name) for name in found.category]] = True
    for c in range(len(names)):
        alone = truth[:, c] & (truth.sum(1) == 1)
        if alone.sum() >= LEAST_POSITIVES:
            confused[c] = (finds[alone] & ~finds[alone, c, None]).mean(0)
    return confused


def against_others(truth: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """AUROC (C, M) of each sign: images with c against images with other anomalies only.

    Rows of `similarities` that are NaN are left out; NaN with fewer than five images with c.
    """
    areas = np.full((truth.shape[1], similarities.shape[1]), np.nan)
    known = np.isfinite(similarities).all(axis=1)
    for c in range(truth.shape[1]):
        rows = known & truth.any(axis=1)
        positive = truth[rows, c]
        if positive.sum() >= LEAST_POSITIVES and not positive.all():
            areas[c] = [roc_auc_score(positive, z) for z in similarities[rows].T]
    return areas
