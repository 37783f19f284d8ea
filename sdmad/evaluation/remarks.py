"""Remarks of the sign audit: sentences for a radiologist, made from its tables.

    for remark in remarks(result):
        print(remark.kind, remark.text)

Whether a remark is made depends on weights, findings and supports alone. Where test labels were
given, their result stands at the end of the remark, after "Test split:".
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sdmad.evaluation.audit import SignAudit
from sdmad.evaluation.audit_tables import CLOSE_COSINE, CLOSE_OVERLAP
from sdmad.fitting.sight import NEAR_CHANCE
from sdmad.inputs.catalog import NAME_OF

LEAST_FINDINGS = 20
MOSTLY = 0.5
Kind = Literal["carries", "never", "contradicted", "shared", "alike", "silent"]


@dataclass(frozen=True)
class Remark:
    """One remark. `carries` lists the signs named most often in the findings of a category,
    `silent` reports too few findings to judge; the other kinds suggest a change of the catalog."""

    kind: Kind
    text: str

    @property
    def is_advice(self) -> bool:
        return self.kind not in ("carries", "silent")


def remarks(result: SignAudit) -> list[Remark]:
    """All remarks: first the most frequent signs of each category, then advice on signs and pairs.

    - `never`: none of at least `LEAST_FINDINGS` findings names the sign.
    - `contradicted`: for at least half of the seeds, the sign's AUC on the support is at most 0.5.
    - `shared`: a category has no sign of its own, more than half of its findings name none, or one
      sign comes first in at least half of the findings of several categories.
    - `alike`: the signs of two categories do not separate them (`sdmad.evaluation.audit.audit`).

    Names of categories, which training adds as signs, get no advice: they are not in the catalog.
    When the backbone hardly sees the signs (`advice_withheld`), only the most frequent signs are
    listed: then the backbone is at fault, and advice would be to delete the signs of a textbook.
    """
    found = [_carries(result, row) for _, row in result.categories.iterrows()]
    if advice_withheld(result):
        return found
    for _, row in result.signs.iterrows():
        if row.sign != NAME_OF + row.category:
            found += _on_sign(row, result.num_seeds)
    found += [_shared(row) for _, row in result.categories.iterrows() if _rests_on_shared(row)]
    found += _leading_several(result)
    found += [_alike(row) for _, row in result.pairs.iterrows() if not row.apart]
    return found


def advice_withheld(result: SignAudit) -> bool:
    """Whether the backbone's AUC with the signs is so near to chance that no sign can be judged."""
    return result.backbone_auroc < NEAR_CHANCE


def _words(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: list[str]) -> str:
    quoted = [f"“{_words(name)}”" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _carries(result: SignAudit, row: pd.Series) -> Remark:
    category = _words(row.category)
    if row.findings < LEAST_FINDINGS:
        return Remark(
            "silent",
            f"Too few findings of {category} to judge its signs: {row.findings:,}, and at least "
            f"{LEAST_FINDINGS} are needed.",
        )
    signs = result.signs[result.signs.category == row.category]
    first, *others = signs.sort_values("carries", ascending=False, kind="stable").itertuples()
    text = (
        f"{_listed([first.sign])} is named in {_percent(first.carries)} of the {row.findings:,} "
        f"findings of {category}"
    )
    if others and others[0].carries > 0:
        text += f", {_listed([others[0].sign])} in {_percent(others[0].carries)}"
    return Remark("carries", f"{text}.")


def _on_sign(row: pd.Series, seeds: int) -> list[Remark]:
    sign, category = _listed([row.sign]), _words(row.category)
    contradicted = row.contradicted >= MOSTLY
    failed = round(seeds * row.contradicted) if contradicted else 0
    tested = ""
    if np.isfinite(row.test_auroc):
        tested = (
            f" Test split: AUROC {100 * row.test_auroc:.0f} % against images with other anomalies."
        )
    if row.findings >= LEAST_FINDINGS and row.carries == 0:
        also = ""
        if contradicted:
            also = (
                f" It fails on the support in {failed} of {seeds} seeds: it is no more similar to "
                f"images with {category} than to the others."
            )
        return [
            Remark(
                "never",
                f"{sign} is listed for {category}, but named in none of its {row.findings:,} "
                f"findings.{also} Consider removing or rewording it.{tested}",
            )
        ]
    if not contradicted:
        return []
    yet = ""
    if row.findings >= LEAST_FINDINGS:
        yet = f" It is still named in {_percent(row.carries)} of the findings."
    return [
        Remark(
            "contradicted",
            f"{sign} fails on the support of {category} in {failed} of {seeds} seeds: it is no "
            f"more similar to images with {category} than to the others.{yet} Either these images "
            "do not show it, or the backbone does not recognise it. Look at the images, then "
            f"remove or reword the sign.{tested}",
        )
    ]


def _rests_on_shared(row: pd.Series) -> bool:
    return row.own == 0 or (row.findings >= LEAST_FINDINGS and row.by_shared_only > MOSTLY)


def _shared(row: pd.Series) -> Remark:
    category = _words(row.category)
    if row.own == 0:
        text = f"Every sign of {category} is also listed for another category"
    else:
        text = (
            f"{_percent(row.by_shared_only)} of the findings of {category} name no sign that is "
            f"listed for {category} alone"
        )
    return Remark("shared", f"{text}. Add a sign that only {category} shows.")


def _leading_several(result: SignAudit) -> list[Remark]:
    """Remarks on signs that come first in at least half of the findings of several categories."""
    enough = result.signs[result.signs.findings >= LEAST_FINDINGS]
    leading = enough[enough.leads >= MOSTLY]
    found = []
    for sign, rows in leading.groupby("sign", sort=False):
        if len(rows) > 1:
            categories = [_words(name) for name in rows.category]
            names = f"{', '.join(categories[:-1])} and {categories[-1]}"
            found.append(
                Remark(
                    "shared",
                    f"{_listed([str(sign)])} is the first sign in at least half of the findings of "
                    f"{names}, so it does not separate these categories. Split it into the forms "
                    "that each category shows, or describe it more narrowly.",
                )
            )
    return found


def _alike(row: pd.Series) -> Remark:
    one, other = _words(row.category), _words(row.other)
    if row.overlap >= CLOSE_OVERLAP:
        reason = (
            f"The signs of {one} and {other} overlap: {_percent(row.overlap)} of their weight is "
            f"on {_listed(row.shared.split(';'))}"
        )
    elif row.cosine >= CLOSE_COSINE:
        reason = (
            f"To the text encoder, the signs of {one} and {other} mean nearly the same (cosine "
            f"{row.cosine:z.2f})"
        )
    else:
        shared = _listed(row.shared.split(";"))
        reason = f"The categories {one} and {other} share {shared}, and one has no other sign"
    text = f"{reason}. Add a sign that only one of them shows."
    if np.isfinite(row.test_confused) or np.isfinite(row.test_confused_back):
        shares = ((one, other, row.test_confused), (other, one, row.test_confused_back))
        told = [
            f"{_percent(s)} of the images with {a} alone were found to be {b} instead"
            for a, b, s in shares
            if np.isfinite(s)
        ]
        text += f" Test split: {', '.join(told)}."
    return Remark("alike", text)
