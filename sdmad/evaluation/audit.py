"""The sign audit: which signs findings name, which are never named, which categories overlap.

    result = audit(detector, rows)                  # rows: the score table of a run
    result.signs, result.categories, result.pairs   # data frames
    remarks(result)                                 # sentences: sdmad.evaluation.remarks

Weights come from the supports, the signs of each finding from the score table. Labels of test
images only fill the columns `test_*`; no other column and no flag depends on them.
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
from sdmad.fitting.sight import signs_auroc
from sdmad.method.augment import SupportImages
from sdmad.method.selection import separate


@dataclass(frozen=True)
class SignAudit:
    """Three tables. Shares are in [0, 1], and NaN where their denominator is 0.

    `signs`, one row for each sign that the catalog lists for a category:

    - `shared_with`: the other categories that list the sign, separated by `;`.
    - `weight`, `weight_std`: mean and standard deviation over seeds.
    - `contradicted`: share of seeds in which the sign's AUC on the support (images with the
      category against the others) is at most 0.5. NaN without support AUC.
    - `findings`: number of findings of the category.
    - `carries`, `leads`: share of these findings in which the score table names the sign, and in
      which it names the sign first.
    - `test_auroc`: images with the category against images with other anomalies only.

    `categories`: number of `findings`, of `signs`, of `own` signs (listed for no other category;
    the category's name, which training adds, does not count), and `by_shared_only`, the share of
    findings that name no own sign.

    `pairs`: `shared` signs, `jaccard` index of the two sets of signs, `overlap` of their weights,
    `cosine` of their prototypes, `apart` (see `audit`), `test_confused` (share of test images with
    `category` alone in which `other` is found and `category` is not) and `test_confused_back` (the
    reverse).

    `backbone_auroc` is the mean AUC of the signs of the catalog on the support, before adaptation,
    over categories and seeds. Near 0.5 the backbone does not see what the
    signs say, and nothing in these tables says whether a sign is right.
    """

    signs: pd.DataFrame
    categories: pd.DataFrame
    pairs: pd.DataFrame
    num_seeds: int
    backbone_auroc: float = float("nan")

    def to_frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name, as in the file names of `write_audit`."""
        return {"signs": self.signs, "categories": self.categories, "pairs": self.pairs}


def audit(
    detector: Detector,
    rows: pa.Table,
    truth: np.ndarray | None = None,
    similarities: np.ndarray | None = None,
    support_auc: np.ndarray | None = None,
) -> SignAudit:
    """Audit the signs of a detector on a score table with the columns `findings` and `signs`.

    `truth` (N, C) are the labels of the rows, `similarities` (N, M) their adapted similarities to
    all signs (`Scores.similarities`; NaN for images that were not read). Both only fill the columns
    `test_*`. `support_auc` (S, C, M) is the result of `auc_on_support`.

    The signs of two categories do not separate them (`apart` is false) in three cases:

    - one category has no sign that the other lacks, apart from its name;
    - their weights overlap by half or more: sum_s min(w_cs, w_ds) >= 0.5;
    - their prototypes sum_s w_s (t_s - mean t), made of adapted sign embeddings t_s, have a cosine
      of 0.7 or more: different words, the same meaning.

    Overlap and cosine are means over seeds.

    Raises `UserError` when the score table names categories or signs outside the detector's
    catalog.
    """
    catalog = detector.catalog
    shape = (rows.num_rows, len(catalog.categories))
    if truth is not None and truth.shape != shape:
        raise ValueError(f"labels have the shape {truth.shape}; the score table needs {shape}")
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
        backbone_auroc=signs_auroc(catalog, detector.rule.support_auc.cpu().numpy()),
    )


def sign_weights(detector: Detector) -> np.ndarray:
    """The weights (S, C, M) of the signs within each category, as the detector uses them: equal
    ones when its selection does not weigh signs."""
    weights = detector.rule.weights.cpu().numpy()
    if detector.selection.weighs_signs:
        return weights
    members = detector.catalog.membership
    return np.broadcast_to(members / members.sum(1, keepdims=True), weights.shape)


@torch.inference_mode()
def auc_on_support(detector: Detector, supports: list[SupportImages]) -> np.ndarray:
    """AUC (S, C, M) of each adapted sign for each category on the support of each seed.

    `supports` belong to the detector's seeds, in the same order; their labels follow the order of
    the catalog's categories. Raises `ValueError` when the seeds differ.
    """
    if [s.seed for s in supports] != detector.seeds:
        raise ValueError(
            f"the supports have the seeds {[s.seed for s in supports]}, "
            f"the detector has {detector.seeds}"
        )
    found = []
    for index, support in enumerate(supports):
        own = detector.model.seed(index)
        activations, _ = own.image_activations(detector.backbone.pixels(support.pixels))
        z = own.image_embeddings(activations) @ own.sign_embeddings().transpose(1, 2)
        labels = torch.from_numpy(support.labels)[None].to(z)
        found.append(separate(z, labels, own.membership).auc)
    return torch.cat(found).cpu().numpy()


def write_audit(result: SignAudit, output: str) -> None:
    """Write `audit_signs.parquet`, `audit_categories.parquet` and `audit_pairs.parquet`."""
    for name, frame in result.to_frames().items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
        storage.write_bytes(storage.join(output, f"audit_{name}.parquet"), sink.getvalue())
