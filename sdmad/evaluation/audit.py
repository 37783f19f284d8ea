"""The sign audit: which signs carry each finding, which never do, which categories share too much.

    result = audit(detector, rows)                  # rows: the score table of a run
    result.signs, result.categories, result.pairs   # data frames
    remarks(result)                                 # in words: sdmad.evaluation.remarks

Weights come from the supports, what carries a finding from the score table. Labels of test images
choose and flag nothing: where they are given, they fill the columns `test_*`, and no others.
Shapes: N images, S seeds, C categories, M signs, E embedding width.
"""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sdmad import storage
from sdmad.detector import Detector
from sdmad.evaluation import audit_tables
from sdmad.method.augment import SupportImages
from sdmad.method.selection import pairwise_auc


@dataclass(frozen=True)
class SignAudit:
    """Three tables; shares are in [0, 1], NaN where there is nothing to take a share of.

    `signs`, one row for each sign that the catalog lists for a category: `shared_with` (the other
    categories that list it, separated by `;`), `weight` and `weight_std` over seeds, `contradicted`
    (the share of seeds whose support has it no higher in images with the category than in others:
    AUC at most 0.5; NaN when no support AUC was given), `findings` of the category, the share of
    them that the sign `carries` (is among the signs of the score table) and `leads` (is the first
    of them), `test_auroc` (against test images with other anomalies only).

    `categories`: `findings`, number of `signs`, those of `own` that no other category lists, and
    `by_shared_only`, the share of findings that no sign of its own carries.

    `pairs`: `shared` signs, `jaccard` of the two sets, `overlap` of their weights, `cosine` of
    their prototypes, `apart` (see `audit`), and `test_confused` / `test_confused_back`: the share
    of test images with `category` alone that are found to be `other` and not `category`, and the
    reverse.
    """

    signs: pd.DataFrame
    categories: pd.DataFrame
    pairs: pd.DataFrame
    num_seeds: int

    def to_frames(self) -> dict[str, pd.DataFrame]:
        """The tables by the names under which `write_audit` keeps them."""
        return {"signs": self.signs, "categories": self.categories, "pairs": self.pairs}


def audit(
    detector: Detector,
    rows: pa.Table,
    truth: np.ndarray | None = None,
    similarities: np.ndarray | None = None,
    support_auc: np.ndarray | None = None,
) -> SignAudit:
    """Audit the signs of a detector on a score table with the columns `findings` and `signs`.

    `truth` (N, C) are labels of the rows and `similarities` (N, M) their adapted similarities with
    all signs (`Scores.similarities`; NaN for images that were not read); both only fill the columns
    `test_*`. `support_auc` (S, C, M) is what `auc_on_support` gives.

    Two categories cannot be told apart by their signs (`apart` is false) when one has no sign that
    the other lacks; when the weights they give to the same signs overlap by half or more, sum over
    signs of min(w_c, w_d) >= 0.5; or when the prototypes sum_s w_s (t_s - mean t), of adapted sign
    embeddings without what all signs have in common, have a cosine of 0.7 or more: other words,
    the same meaning. Weights and cosines are means over seeds.

    Raises `UserError` when the score table is not one of this detector's catalog.
    """
    catalog = detector.catalog
    shape = (rows.num_rows, len(catalog.categories))
    if truth is not None and truth.shape != shape:
        raise ValueError(f"labels are {truth.shape}, the score table needs {shape}")
    weights = sign_weights(detector)
    found, carried = audit_tables.findings(rows), audit_tables.carrying_signs(rows)
    audit_tables.check(catalog, found, carried)
    signs = audit_tables.of_signs(catalog, weights, found, carried)
    if support_auc is not None:
        signs["contradicted"] = (support_auc <= 0.5).mean(0)[catalog.membership]
    if truth is not None and similarities is not None:
        against_others = audit_tables.against_others(truth, similarities)
        signs["test_auroc"] = against_others[catalog.membership]
    return SignAudit(
        signs=signs,
        categories=audit_tables.of_categories(catalog, found, carried),
        pairs=audit_tables.of_pairs(catalog, weights, detector.sign_embeddings.cpu(), found, truth),
        num_seeds=detector.num_seeds,
    )


def sign_weights(detector: Detector) -> np.ndarray:
    """The weights of signs within categories (S, C, M) as the detector uses them."""
    weights = detector.rule.weights.cpu().numpy()
    if detector.selection.weighs_signs:
        return weights
    members = detector.catalog.membership
    return np.broadcast_to(members / members.sum(1, keepdims=True), weights.shape)


@torch.inference_mode()
def auc_on_support(detector: Detector, supports: list[SupportImages]) -> np.ndarray:
    """AUC of each sign for each category on the support of each seed, after adaptation: (S, C, M).

    `supports` are those that the detector's seeds were fitted to, in the order of its seeds; their
    labels are in the order of the catalog's categories. Raises `ValueError` for other seeds.
    """
    if [s.seed for s in supports] != detector.seeds:
        raise ValueError(
            f"supports of seeds {[s.seed for s in supports]} for a detector of {detector.seeds}"
        )
    found = []
    for index, support in enumerate(supports):
        own = detector.model.seed(index)
        activations, _ = own.image_activations(detector.backbone.pixels(support.pixels))
        z = own.image_embeddings(activations) @ own.sign_embeddings().transpose(1, 2)
        labels = torch.from_numpy(support.labels)[None].to(z)
        found.append(pairwise_auc(z, labels))
    return torch.cat(found).cpu().numpy()


def write_audit(result: SignAudit, output: str) -> None:
    """`audit_signs.parquet`, `audit_categories.parquet` and `audit_pairs.parquet`."""
    for name, frame in result.to_frames().items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
        storage.write_bytes(storage.join(output, f"audit_{name}.parquet"), sink.getvalue())
