"""What a backbone sees of the signs of a catalog: their AUC on the support, before any fitting.

Each fit keeps it (`support_auc`), since the selection of signs needs it.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sdmad import storage
from sdmad.fits import deserialize
from sdmad.inputs.catalog import Catalog
from sdmad.runtime.progress import step
from sdmad.storage.fit_files import Key, list_fits

NEAR_CHANCE = 0.55
"""Mean AUC of the signs on the support below which no sign can be judged."""
READERS = 8


def signs_auroc(catalog: Catalog, support_auc: np.ndarray) -> float:
    """The mean of AUC (S, C, M) over seeds, over the signs of a category, and over categories."""
    members = catalog.membership
    by_category = (support_auc.mean(0) * members).sum(1) / members.sum(1)
    return float(by_category.mean())


def in_words(auroc: float) -> str:
    """What the backbone sees of the signs, in one or several sentences."""
    said = (
        "Before any fitting, signs of the catalog tell support images of their category from "
        f"others with a mean AUROC of {100 * auroc:.0f} % (50 is chance)."
    )
    if auroc < NEAR_CHANCE:
        said += (
            " This backbone hardly sees the signs: findings rest on appearance, and no sign can be "
            "judged. Choose a backbone that has seen such images."
        )
    return said


def say_sight(output: str, wanted: Iterable[Key]) -> float | None:
    """Tell on stderr what the backbone sees of the signs, from the fits at `output` that are
    `wanted`; returns the AUROC. None if the fits do not keep it."""
    wanted = set(wanted)
    uris = [uri for key, uri in list_fits(output).items() if key in wanted]
    with ThreadPoolExecutor(READERS) as pool:
        fits = [
            deserialize(content, uri)
            for content, uri in zip(pool.map(storage.read_bytes, uris), uris, strict=True)
        ]
    known = [fit for fit in fits if "support_auc" in fit.tensors]
    if not known:
        return None
    auc = np.stack([fit.tensors["support_auc"].numpy() for fit in known])
    found = signs_auroc(known[0].provenance.catalog, auc)
    step("fitting", in_words(found))
    return round(found, 4)
