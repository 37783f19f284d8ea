"""The sign audit in words that a radiologist can act on.

    for remark in remarks(result):
        print(remark.kind, remark.text)

A remark is made on weights, findings and supports alone; where test labels were given, what they
say stands behind "test split:" at its end and decides nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sdmad.evaluation.audit import SignAudit
from sdmad.evaluation.audit_tables import CLOSE_COSINE, CLOSE_OVERLAP

LEAST_FINDINGS = 20
MOSTLY = 0.5
Kind = Literal["carries", "never", "contradicted", "shared", "alike", "silent"]


@dataclass(frozen=True)
class Remark:
    """`carries` tells which signs a category rests on, `silent` that it has too few findings to
    tell; the other kinds ask for a change of the catalog."""

    kind: Kind
    text: str

    @property
    def is_advice(self) -> bool:
        return self.kind not in ("carries", "silent")


def remarks(result: SignAudit) -> list[Remark]:
    """All remarks: what carries each category first, then advice on signs, then on pairs.

    A sign *never* carries a finding when none of at least `LEAST_FINDINGS` findings names it; the
    support *contradicts* it when its AUC there is at most 0.5 for at least half of the seeds; a
    category rests on *shared* signs when more than half of its findings name no sign of its own.
    """
    found = [_carries(result, row) for _, row in result.categories.iterrows()]
    for _, row in result.signs.iterrows():
        found += _on_sign(row, result.num_seeds)
    found += [_shared(row) for _, row in result.categories.iterrows() if _rests_on_shared(row)]
    found += _leading_several(result)
    found += [_alike(row) for _, row in result.pairs.iterrows() if not row.apart]
    return found


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
            f"{category} has {row.findings} finding{'s' * (row.findings != 1)}: "
            "too few to tell which of its signs work",
        )
    signs = result.signs[result.signs.category == row.category]
    first, *others = signs.sort_values("carries", ascending=False, kind="stable").itertuples()
    text = (
        f"{_listed([first.sign])} carries {_percent(first.carries)} of the {row.findings} findings "
        f"of {category}"
    )
    if others and others[0].carries > 0:
        text += f", {_listed([others[0].sign])} {_percent(others[0].carries)}"
    return Remark("carries", text)


def _on_sign(row: pd.Series, seeds: int) -> list[Remark]:
    sign, category = _listed([row.sign]), _words(row.category)
    contradicted = row.contradicted >= MOSTLY
    against = f"in {round(seeds * row.contradicted)} of {seeds} seeds" if contradicted else ""
    tested = ""
    if np.isfinite(row.test_auroc):
        tested = (
            f" (test split: AUROC {100 * row.test_auroc:.0f} against images with other anomalies)"
        )
    if row.findings >= LEAST_FINDINGS and row.carries == 0:
        also = f", and the support contradicts it {against}" if contradicted else ""
        return [
            Remark(
                "never",
                f"{sign} never carries a finding of {category} although the catalog lists it"
                f"{also}: consider removing or rewording it{tested}",
            )
        ]
    if not contradicted:
        return []
    yet = ""
    if row.findings >= LEAST_FINDINGS:
        yet = f"; it is named in {_percent(row.carries)} of the findings all the same"
    return [
        Remark(
            "contradicted",
            f"the support contradicts {sign} for {category} {against}: it was no more similar to "
            f"images with {category} than to others{yet}. Either they do not show it or the "
            f"backbone does not see it: look at them, then remove or reword it{tested}",
        )
    ]


def _rests_on_shared(row: pd.Series) -> bool:
    return row.own == 0 or (row.findings >= LEAST_FINDINGS and row.by_shared_only > MOSTLY)


def _shared(row: pd.Series) -> Remark:
    category = _words(row.category)
    if row.own == 0:
        text = f"every sign of {category} is also listed for another category"
    else:
        text = (
            f"{_percent(row.by_shared_only)} of the findings of {category} rest only on signs that "
            "other categories have too"
        )
    return Remark("shared", f"{text}: add a sign that only {category} shows")


def _leading_several(result: SignAudit) -> list[Remark]:
    """Signs that come first in most findings of several categories."""
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
                    f"{_listed([str(sign)])} comes first in most findings of {names}: it tells "
                    "none of them from the others. Split it into what each of them shows, or "
                    "word it narrower",
                )
            )
    return found


def _alike(row: pd.Series) -> Remark:
    one, other = _words(row.category), _words(row.other)
    shared = f"{one} and {other} share {_listed(row.shared.split(';'))}" if row.shared else ""
    if row.overlap >= CLOSE_OVERLAP:
        reason = f"{shared}, which carry {_percent(row.overlap)} of the weight of both"
    elif row.cosine >= CLOSE_COSINE:
        reason = f"the signs of {one} and {other} mean nearly the same to the text encoder"
        reason += f" (cosine {row.cosine:.2f})"
    else:
        reason = f"{shared}, and one of them has no other"
    text = f"{reason}: add a sign that only one of them shows"
    if np.isfinite(row.test_confused) or np.isfinite(row.test_confused_back):
        shares = ((one, other, row.test_confused), (other, one, row.test_confused_back))
        told = [
            f"{_percent(s)} of images with {a} alone are found to be {b} instead"
            for a, b, s in shares
            if np.isfinite(s)
        ]
        text += f" (test split: {', '.join(told)})"
    return Remark("alike", text)
