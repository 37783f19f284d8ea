from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sdmad.demo.run import zero_shot
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog, Category
from sdmad.inputs.labels import load_labels
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig
from sdmad.method.augment import AugmentConfig, SupportImages, augment
from sdmad.method.calibration import conformal_thresholds
from sdmad.method.combine import Weights, fit_weights
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import DecisionRule, Readings, SignModel
from sdmad.method.views import encode
from sdmad.phantoms.task import draw_example
from tests.conftest import QUICK

FIELDS = (
    *("mean", "deviation", "support_auc", "weights", "centre", "spread"),
    *("probe", "parts", "offset", "slopes", "thresholds"),
)


def test_a_fit_does_not_depend_on_the_others_in_its_batch(
    fitted, supports, backbone, catalog
) -> None:
    together, rules = fitted
    alone, rule = fit_batch(backbone, catalog, supports[1:2], QUICK)
    for a, b in zip(together.image_adapters.layers, alone.image_adapters.layers, strict=True):
        assert torch.allclose(a.down[1], b.down[0], atol=1e-4)
        assert torch.allclose(a.up[1], b.up[0], atol=1e-4)
    for field in FIELDS:
        assert torch.allclose(getattr(rules, field)[1], getattr(rule, field)[0], atol=2e-2), field


def test_nor_does_a_fit_with_two_adapted_blocks(supports, backbone, catalog) -> None:
    towers = TowerAdapterConfig(blocks=2)
    config = LearnerConfig(
        steps=3,
        augment=AugmentConfig(views=1),
        adapter=AdapterConfig(image=towers, text=towers),
        learning_rate=3e-3,
    )
    together, _ = fit_batch(backbone, catalog, supports[:2], config)
    alone, _ = fit_batch(backbone, catalog, supports[1:2], config)
    for a, b in zip(together.text_adapters.layers, alone.text_adapters.layers, strict=True):
        assert torch.allclose(a.down[1], b.down[0], atol=1e-4)


def test_training_lowers_the_loss_and_reports_it(supports, backbone, catalog) -> None:
    losses: list[float] = []
    fit_batch(
        backbone,
        catalog,
        supports[:1],
        LearnerConfig(steps=40, augment=AugmentConfig(views=2)),
        on_step=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_both_towers_and_the_bias_are_trained(supports, backbone, catalog) -> None:
    before, _ = fit_batch(backbone, catalog, supports[:1], QUICK.model_copy(update={"steps": 0}))
    after, _ = fit_batch(backbone, catalog, supports[:1], QUICK)
    for name in ("image_adapters.0.down", "text_adapters.0.up", "bias"):
        first, second = dict(before.named_parameters())[name], dict(after.named_parameters())[name]
        assert not torch.allclose(first, second, atol=1e-4), name


def test_thresholds_at_one_shot_come_from_all_images_that_can_be_left_out(
    backbone, catalog, monkeypatch
) -> None:
    """Of one image of each kind, that with a category cannot be left out of its head; the others
    can, whatever is missing in other heads."""
    labels = np.concatenate([np.eye(6), np.zeros((1, 6))]).astype(np.float32)
    seen = []

    def spy(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(logits)
        return conformal_thresholds(logits, *rest)

    monkeypatch.setattr("sdmad.method.learner.conformal_thresholds", spy)
    _, rule = fit_batch(backbone, catalog, [drawn(labels, 1)], QUICK)
    assert torch.equal(torch.isfinite(seen[0]), torch.from_numpy(labels == 0))
    assert torch.equal(rule.thresholds[0, :, 1], seen[0].nan_to_num(-torch.inf).amax(0))
    assert not rule.thresholds[0, :, 0].any()


def test_signs_that_say_nothing_do_not_separate_images_that_were_left_out(
    backbone, catalog, monkeypatch
) -> None:
    """Weights of signs follow the support: on its own images AUROC would be 0.58."""
    read, measured = SignModel.read, []

    def noise(model: SignModel, *images: Any) -> Readings:
        found = read(model, *images)
        z = found.frozen_similarities
        return replace(found, frozen_similarities=z.mean() + z.std() * torch.randn_like(z))

    def spy(probe: torch.Tensor, signs: torch.Tensor, targets: torch.Tensor, prior: Any) -> Weights:
        measured.append(roc_auc_score(targets[:, 0], signs[:, 0]))
        return fit_weights(probe, signs, targets, prior)

    torch.manual_seed(0)
    monkeypatch.setattr(SignModel, "read", noise)
    monkeypatch.setattr("sdmad.method.learner.fit_weights", spy)
    content = {name: getattr(catalog, name) for name in Catalog.model_fields}
    signs = [sign for sign in catalog.signs if sign not in catalog.normal.signs]
    content["categories"] = {"finding": Category(signs=signs)}
    labels = np.repeat([[1.0], [0.0]], 4, axis=0).astype(np.float32)
    supports = [drawn(labels, 4, seed) for seed in range(100)]
    config = LearnerConfig(steps=0, augment=AugmentConfig(views=1), category_names=False)
    fit_batch(backbone, Catalog(**content), supports, config)
    assert 0.45 < np.mean(measured) < 0.55


def drawn(labels: np.ndarray, shots: int, seed: int = 0) -> SupportImages:
    """A support of phantoms that do not show what the labels say."""
    images = [draw_example(100 * seed + k, "pool").image for k in range(len(labels))]
    pixels = np.stack(images)[..., None].repeat(3, axis=-1)
    keys = [f"{seed}-{k}.png" for k in range(len(labels))]
    return SupportImages(shots, seed, keys, pixels, labels)


def test_signs_that_the_tokenizer_cannot_tell_apart_are_refused(backbone, catalog) -> None:
    """As with a vocabulary that is missing: every word is unknown."""
    blind = replace(backbone, tokenizer=lambda texts: backbone.tokens(["x"] * len(texts)))
    with pytest.raises(UserError, match="makes the same tokens of '"):
        SignModel(blind, catalog, AdapterConfig(), 1)


def test_without_adapters_the_embeddings_are_the_frozen_ones(supports, backbone, catalog) -> None:
    model, rule = fit_batch(backbone, catalog, supports[:2], zero_shot())
    activations, frozen = model.image_activations(backbone.pixels(supports[0].pixels))
    adapted = model.image_embeddings(activations)
    assert torch.allclose(adapted[0], frozen, atol=1e-5)
    assert torch.allclose(model.sign_embeddings()[1], model.frozen_signs, atol=1e-5)
    assert isinstance(rule, DecisionRule)


def test_augmentation_is_repeatable_and_view_zero_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (16, 20, 3), np.uint8)
    config = AugmentConfig()
    assert augment(image, "k", 0, config) is image
    first, again = augment(image, "k", 3, config), augment(image, "k", 3, config)
    assert np.array_equal(first, again)
    assert first.shape == image.shape
    assert not np.array_equal(first, augment(image, "other", 3, config))


def test_without_flips_the_sides_are_never_swapped() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :4] = 255
    plain = AugmentConfig(shift=0.0, gain=0.0, noise=0.0)
    for config in (plain, plain.chosen(False), plain.model_copy(update={"flip": False})):
        for view in range(1, 6):
            assert np.array_equal(augment(image, "k", view, config), image)


@pytest.mark.parametrize(
    ("configured", "catalogs", "mirrored"),
    [(None, False, False), (None, True, True), (False, True, False), (True, False, True)],
)
def test_flips_are_as_configured_or_as_the_catalog_says(
    configured, catalogs, mirrored, backbone, catalog
) -> None:
    """In what the image tower is shown of a support."""
    size, count = backbone.spec.size[0], len(catalog.categories)
    pixels = np.zeros((count + 1, size, size, 3), np.uint8)
    pixels[:, :, : size // 4] = 255
    labels = np.eye(count + 1, count, -1, np.uint8)
    support = SupportImages(1, 0, [str(k) for k in range(count + 1)], pixels, labels)
    shown: list[AugmentConfig] = []

    def encoder(model, supports, config):
        shown.append(config)
        return encode(model, supports, config)

    views = AugmentConfig(flip=configured, shift=0.0, gain=0.0, noise=0.0)
    learner = LearnerConfig(steps=1, augment=views)
    allowed = catalog.model_copy(update={"flip": catalogs})
    fit_batch(backbone, allowed, [support], learner, encoder=encoder)
    (config,) = shown
    left = {bool(augment(pixels[0], "a", view, config)[0, 0, 0]) for view in range(config.views)}
    assert left == ({True, False} if mirrored else {True})


@pytest.mark.parametrize("shots", [4])
def test_sd_mad_beats_zero_shot_over_eight_seeds(shots, tmp_path, backbone, catalog) -> None:
    """On phantoms, with the embedded backbone and the default configuration."""
    from sdmad.evaluation import protocols
    from sdmad.fitting.worker import SupportRef
    from sdmad.phantoms.task import write_archive
    from tests.helpers import support_images

    labels = write_archive(str(tmp_path), pool=600, test=400)
    table = load_labels(labels, catalog.category_names)
    refs = [SupportRef.draw(table, shots, seed) for seed in range(8)]
    few = [support_images(str(tmp_path), ref, backbone.spec) for ref in refs]
    test = np.flatnonzero(table.split == "test")
    pixels = _read(tmp_path, table, test, backbone)
    metrics = {}
    for name, config in (("sd-mad", LearnerConfig()), ("zero-shot", zero_shot())):
        model, rule = fit_batch(backbone, catalog, few, config)
        p, anomaly = _probabilities(model, rule, config, pixels)
        truth = table.labels[test]
        rows = []
        for seed in range(8):
            two = protocols.category_discrimination(truth, p[seed])
            three = protocols.multilabel_prediction(truth, p[seed])
            one = protocols.anomaly_detection(truth, anomaly[seed])
            rows.append(
                [*one.values(), two["normal"].mean(), two["others"].mean(), *three.values()]
            )
        metrics[name] = np.array(rows)
    difference = metrics["sd-mad"] - metrics["zero-shot"]
    # Zero-shot signs tell phantoms from normal ones as well, within half a point of AUROC.
    assert (difference.mean(axis=0)[:3] > -0.005).all(), difference.mean(axis=0)
    # It finds less, so it is as often right to say no.
    means = difference.mean(axis=0)
    assert means[5] > -0.02 and (means[[3, 4, 6, 7]] > 0.01).all(), means
    # AUROC against other anomalies, Hamming score and F1 are higher in nearly all seeds.
    higher = (difference > 0).sum(axis=0)
    assert (higher[[3, 4, 7]] >= [7, 7, 6]).all(), higher


def _read(folder, table, rows, backbone) -> np.ndarray:
    from sdmad.archive.selected import decode_members

    names = [(table.archive[r], table.member[r]) for r in rows]
    found, problems = decode_members(str(folder), names, backbone.spec)
    assert not problems
    return np.stack([found[name] for name in names])


def _probabilities(model, rule, config, pixels) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        activations, frozen = model.image_activations(model.backbone.pixels(pixels))
        readings = model.read(activations, frozen, model.sign_embeddings())
        found = rule.evidence(model, readings, config)
    return torch.sigmoid(found.logits).numpy(), torch.sigmoid(found.anomaly).numpy()


def test_shots_that_are_not_one_number_are_the_median_of_the_smaller_sides() -> None:
    """Three images with one category, one with the other, two normal: sides of 3, 1 and 2."""
    from sdmad.method.learner import _typical_shots

    labels = torch.tensor([[1.0, 0]] * 3 + [[0.0, 1]] + [[0.0, 0]] * 2)
    assert _typical_shots(labels) == 2
