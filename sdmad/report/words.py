"""What an evaluation found, in plain sentences made from counts of test images.

" ".join(plain_words(test))
"""

from collections import Counter

import numpy as np

from sdmad.evaluation.measure import ScoredTest

MISTAKES = 3
AT_STATED_PREVALENCE = (
    "Scores are probabilities for the prevalence that the fits state; where that is low, few are "
    "above 0.5. `sdmad calibrate` chooses other thresholds."
)


def plain_words(test: ScoredTest) -> list[str]:
    """Sentences on images with anomalies, normal images, categories, and the most frequent
    mistakes, at the thresholds of the findings (of the ensemble)."""
    truth, found = test.truth, test.found
    names = [name.replace("_", " ") for name in test.table.categories]
    abnormal = np.asarray(truth.any(axis=1))
    some, right = found.any(axis=1), (truth == found).all(axis=1)
    said = []
    if abnormal.any():
        said.append(
            f"Of {_images(abnormal.sum())} with an anomaly, {_get((some & abnormal).sum())} a "
            f"finding, and {(right & abnormal).sum():,} exactly the labelled ones."
        )
    if not abnormal.all():
        of_normal = f"Of {(~abnormal).sum():,} normal images"
        said.append(f"{of_normal}, {_get((some & ~abnormal).sum())} a finding.")
    shown = truth.sum(axis=0)
    hits = (truth & found).sum(axis=0)
    known = np.flatnonzero(shown)
    if len(known):
        order = known[np.argsort(-hits[known] / shown[known], kind="stable")]
        best, worst = order[0], order[-1]
        said.append(f"Of {_images(shown[best])} with {names[best]}, {_found(hits[best])}")
        if len(order) == 1:
            said[-1] += "."
        else:
            said[-1] += f", the largest share of the {len(order)} categories"
            said[-1] += f"; of {shown[worst]:,} with {names[worst]}, the smallest, {hits[worst]:,}."
    if not found.any():
        said.append(f"No image has a finding; the highest score is {test.scores.max():.2g}.")
        said += why_no_finding(test.metadata)
    made = mistakes(truth, found, names).most_common(MISTAKES)
    if made:
        listed = "; ".join(f"{text} ({_images(count)})" for text, count in made)
        said.append(f"Most mistakes: {listed}.")
    return said


def why_no_finding(metadata: dict[str, str]) -> list[str]:
    """What may keep all scores of a run below 0.5: a prevalence that its fits state."""
    stated = "prevalence" in metadata and "decision" not in metadata
    return [AT_STATED_PREVALENCE] if stated else []


def mistakes(truth: np.ndarray, found: np.ndarray, names: list[str]) -> Counter[str]:
    """How often each mistake is made, from labels and findings (N, C).

    A labelled category is missed in an image without any finding, or taken for another; a finding
    is false in a normal image, or made beside all labelled categories.
    """
    counts: Counter[str] = Counter()
    normal, none = ~truth.any(axis=1), ~found.any(axis=1)
    complete = ~normal & ~(truth & ~found).any(axis=1)
    for c, name in enumerate(names):
        false = found[:, c] & ~truth[:, c]
        counts[f"{name} is missed, and nothing is found"] = int((truth[:, c] & none).sum())
        counts[f"{name} is found in normal images"] = int((false & normal).sum())
        counts[f"{name} is found beside the labelled categories"] = int((false & complete).sum())
        for d, other in enumerate(names):
            instead = truth[:, c] & ~found[:, c] & found[:, d] & ~truth[:, d]
            counts[f"{name} is taken for {other}"] = int(instead.sum())
    return +counts


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def _get(count: int) -> str:
    return f"{count:,} {'gets' if count == 1 else 'get'}"


def _found(count: int) -> str:
    return f"{count:,} {'is' if count == 1 else 'are'} found"
