"""Properties that every baseline has."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sdmad.backbones.identity import fingerprint
from sdmad.baselines import BASELINES, BaselineConfig, FrozenImages, Scorer, SupportViews, fit
from sdmad.baselines.base import whole_evidence
from sdmad.errors import UserError
from sdmad.evaluation import protocols
from sdmad.fitting.worker import SupportRef
from sdmad.inputs.labels import load_labels
from sdmad.inputs.support import draw_support
from sdmad.method.augment import AugmentConfig, SupportImages
from sdmad.method.losses import category_loss
from tests.helpers import support_images

QUICK = BaselineConfig(steps=5, augment=AugmentConfig(views=2))
DRAWN = ("clip_adapter", "coop_names", "coop_signs", "mvfa", "aa_clip", "clip_lora")
TRAINED = (*DRAWN, "tip_adapter_f", "lp_plus_plus", "clap")
BLIND = ("zero_shot_names", "coop_names")  # the embedded backbone was not trained on category names

every_baseline = pytest.mark.parametrize("name", BASELINES)


@pytest.fixture(scope="module")
def test_images(archive, catalog, backbone) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the test split."""
    from sdmad.archive.selected import decode_members

    table = load_labels(str(archive / "labels.csv"), catalog.category_names)
    table = table.where(table.split == "test")
    members = list(zip(table.archive, table.member, strict=True))
    found, _ = decode_members(str(archive), members, backbone.spec)
    return np.stack([found[member] for member in members]), table.labels


@pytest.fixture(scope="module")
def four_shots(archive, catalog, backbone) -> SupportViews:
    table = load_labels(str(archive / "labels.csv"), catalog.category_names)
    support = support_images(str(archive), SupportRef.draw(table, 4, 0), backbone.spec)
    return SupportViews.of(backbone, support, BaselineConfig().augment)


@pytest.fixture(scope="module")
def scorers(four_shots, backbone, catalog) -> dict[str, Scorer]:
    """Every baseline fitted to four shots, with 40 of the default 100 steps."""
    budget = BaselineConfig(steps=40)
    return {name: fit(name, backbone, catalog, four_shots, budget) for name in BASELINES}


@pytest.fixture(scope="module")
def few_images(test_images) -> np.ndarray:
    """Pixels of 20 test images, for what does not depend on their number."""
    return test_images[0][:20]


@pytest.fixture(scope="module")
def quick(supports, backbone, catalog) -> dict[str, Scorer]:
    """Every baseline fitted to `supports[0]` with the budget `QUICK`."""
    views = SupportViews.of(backbone, supports[0], QUICK.augment)
    return {name: fit(name, backbone, catalog, views, QUICK) for name in BASELINES}


@every_baseline
def test_scores_are_probabilities_of_each_category(name, scorers, test_images, catalog) -> None:
    scores = scorers[name].scores(test_images[0])
    assert scores.shape == (100, len(catalog.categories))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1
    assert np.array_equal(Scorer.anomaly(scores), scores.max(axis=1))


@every_baseline
def test_scores_do_not_depend_on_the_other_images(name, scorers, test_images, backbone) -> None:
    pixels, _ = test_images
    together = scorers[name].scores(FrozenImages(backbone, pixels[:70]))
    parts = [scorers[name].scores(part) for part in (pixels[:7], pixels[7:70])]
    assert np.allclose(together, np.concatenate(parts), atol=1e-4)


@every_baseline
def test_a_fit_is_repeatable_and_ignores_the_order_of_the_support(
    name, quick, supports, few_images, backbone, catalog
) -> None:
    support = supports[0]
    order = np.random.default_rng(0).permutation(len(support.keys))
    shuffled = replace(
        support,
        keys=[support.keys[row] for row in order],
        pixels=support.pixels[order],
        labels=support.labels[order],
    )
    first = quick[name].scores(few_images)
    for same in (support, shuffled):
        again = fit(name, backbone, catalog, same, QUICK)
        assert np.array_equal(first, again.scores(few_images))


@pytest.mark.parametrize("name", DRAWN)
def test_fits_of_different_seeds_differ(
    name, quick, supports, few_images, backbone, catalog
) -> None:
    other = fit(name, backbone, catalog, replace(supports[0], seed=1), QUICK)
    scores = (scorer.scores(few_images) for scorer in (quick[name], other))
    assert not np.allclose(*scores, atol=1e-4)


@pytest.mark.usefixtures("quick")
def test_the_backbone_stays_frozen(backbone) -> None:
    weights = list(backbone.text.clip.parameters())
    assert fingerprint(backbone.text.clip) == backbone.fingerprint
    assert not any(weight.requires_grad or weight.grad is not None for weight in weights)


@every_baseline
def test_global_random_state_is_neither_used_nor_changed(
    name, quick, supports, backbone, catalog
) -> None:
    torch.manual_seed(8)
    before = torch.get_rng_state()
    first, again = quick[name], fit(name, backbone, catalog, supports[0], QUICK)
    if name not in DRAWN:
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.bias, again.bias) and torch.equal(first.temperature, again.temperature)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in BLIND])
def test_better_than_chance_at_four_shots(name, scorers, test_images) -> None:
    pixels, truth = test_images
    scores = scorers[name].scores(pixels)
    assert protocols.anomaly_detection(truth, Scorer.anomaly(scores))["auroc"] > 0.75
    by_category = protocols.category_discrimination(truth, scores)
    assert np.nanmean(by_category["normal"]) > 0.75
    assert np.nanmean(by_category["others"]) > 0.6


def support_loss(scorer: Scorer, support: SupportViews) -> float:
    scores = torch.from_numpy(scorer.scores(support.views)).clamp(1e-6, 1 - 1e-6)
    return float(category_loss(torch.logit(scores)[None], support.labels[None]))


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_on_the_support(
    name, scorers, four_shots, backbone, catalog
) -> None:
    start = fit(name, backbone, catalog, four_shots, BaselineConfig(steps=0))
    trained, untrained = (
        category_loss(
            (whole_evidence(scorer.evidence, four_shots.views) - scorer.bias)[None],
            four_shots.labels[None],
        )
        for scorer in (scorers[name], start)
    )
    assert trained < untrained


@pytest.mark.parametrize("name", ["linear_probe", "tip_adapter", "gda", "lp_plus_plus"])
def test_the_loss_on_the_support_is_lower_than_zero_shot(name, scorers, four_shots) -> None:
    zero_shot = support_loss(scorers["zero_shot_signs"], four_shots)
    assert support_loss(scorers[name], four_shots) < zero_shot


@every_baseline
def test_a_fit_to_one_shot_has_finite_scores(name, archive, few_images, backbone, catalog) -> None:
    table = load_labels(str(archive / "labels.csv"), catalog.category_names)
    assert len(draw_support(table, 1, 0)) <= 1 + len(catalog.categories)
    support = support_images(str(archive), SupportRef.draw(table, 1, 0), backbone.spec)
    assert np.isfinite(fit(name, backbone, catalog, support, QUICK).scores(few_images)).all()


@every_baseline
def test_a_category_without_support_images_leaves_scores_finite(
    name, supports, few_images, backbone, catalog
) -> None:
    support: SupportImages = supports[0]
    rows = ~support.labels[:, 0].astype(bool)
    keys = [key for key, kept in zip(support.keys, rows, strict=True) if kept]
    less = replace(support, keys=keys, pixels=support.pixels[rows], labels=support.labels[rows])
    assert np.isfinite(fit(name, backbone, catalog, less, QUICK).scores(few_images)).all()


def test_an_unknown_name_is_refused_and_known_ones_are_listed(supports, backbone, catalog) -> None:
    with pytest.raises(UserError, match="tip_adapter_f"):
        fit("tip", backbone, catalog, supports[0])
