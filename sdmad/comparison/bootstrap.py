"""Two-level bootstrap of a comparison: over supports, and over the patients of the test split.

    replicates = bootstrap(settings, "runs/compare/odir")
    replicates.means["sd_mad", 4, "anomaly detection", "auroc"].std()

Each replicate draws n - 1 of n seeds with replacement, and as many test patients as there are, with
all their images. Both draws are the same for all methods, so differences of methods are paired.
With n - 1 draws the variance of a mean over seeds has no bias (Rao and Wu, Journal of the American
Statistical Association 83, 1988). Drawing seeds and patients independently counts the part of the
variance that depends on both too often, so that intervals are rather too wide (Owen, Annals of
Applied Statistics 1, 2007).
"""

from dataclasses import dataclass

import numpy as np

from sdmad.comparison.config import CompareConfig
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import read_scores, read_test
from sdmad.evaluation.resampled import resampled_metrics
from sdmad.fitting.config import parse_numbers
from sdmad.runtime.progress import Tracker

VALUES_AT_ONCE = 1 << 22  # Weights of one block of replicates.


@dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates of every method.

    `means` has the mean over the drawn seeds (R,), by (method, shots, protocol, metric).
    """

    means: dict[tuple[str, int, str, str], np.ndarray]
    count: int
    seeds: int
    patients: int


def bootstrap(config: CompareConfig, output: str) -> Replicates | None:
    """`config.bootstrap` replicates of a comparison whose cells are all at `output`.

    None if that is 0 or there are fewer than two seeds or patients. Every call draws the same.
    """
    count = config.bootstrap
    seeds = parse_numbers(config.seeds, "seeds")
    truth, patients = read_test(output)
    num_patients = int(patients.max()) + 1
    if not count or len(seeds) < 2 or num_patients < 2:
        return None
    drawn = draw_seeds(len(seeds), count)
    times = draw_patients(num_patients, count)
    means: dict[tuple[str, int, str, str], np.ndarray] = {}
    total = len(config.names) * len(config.shots) * len(seeds)
    with Tracker("resampling", total, "fits") as tracker:
        for number, (shots, method, k) in enumerate(
            (shots, method, k)
            for shots in config.shots
            for method in config.names
            for k in range(len(seeds))
        ):
            cell = cell_uri(output, stored_name(config, method), shots, seeds[k])
            found = _of_cell(truth, *read_scores(cell), times, patients)
            for key, values in found.items():
                name = (method, shots, *key)
                means[name] = means.get(name, 0.0) + drawn[:, k] * values
            tracker.update(number + 1)
    return Replicates(means, count, len(seeds), num_patients)


def draw_seeds(seeds: int, count: int) -> np.ndarray:
    """The weight of each seed in the mean of a replicate: (count, seeds), in n - 1 draws of n."""
    draws = np.random.default_rng((0, seeds)).multinomial(
        seeds - 1, np.full(seeds, 1 / seeds), size=count
    )
    return draws / (seeds - 1)


def draw_patients(patients: int, count: int) -> np.ndarray:
    """How often each replicate has each patient: uint16 (patients, count)."""
    random = np.random.default_rng((1, patients))
    drawn = (random.integers(patients, size=patients) for _ in range(count))
    times = [np.bincount(some, minlength=patients).astype(np.uint16) for some in drawn]
    return np.stack(times, axis=1)


def _of_cell(
    truth: np.ndarray,
    scores: np.ndarray,
    anomaly: np.ndarray,
    times: np.ndarray,
    patients: np.ndarray,
) -> dict[tuple[str, str], np.ndarray]:
    """The metrics (R,) of one method on one support, for all replicates."""
    together = max(1, VALUES_AT_ONCE // len(truth))
    blocks = []
    for start in range(0, times.shape[1], together):
        weights = times[patients, start : start + together].astype(np.float32)
        blocks.append(resampled_metrics(truth, scores, anomaly, weights))
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
