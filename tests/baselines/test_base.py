import numpy as np
import pytest
import torch

from sdmad.backbones.towers import Tower
from sdmad.baselines import BaselineConfig, FrozenImages, SupportViews
from sdmad.baselines.base import BEFORE_BLOCKS, Task, balanced_batches
from sdmad.method.augment import AugmentConfig, augment

CONFIG = BaselineConfig(steps=6, augment=AugmentConfig(views=3))


@pytest.fixture
def views(supports, backbone) -> SupportViews:
    return SupportViews.of(backbone, supports[0], CONFIG.augment)


def test_views_are_the_learners_with_the_labels_of_their_image(supports, views, backbone) -> None:
    support = supports[0]
    for number, row in enumerate(np.argsort(support.keys)):
        rows = slice(3 * number, 3 * number + 3)
        expected = np.stack(
            [augment(support.pixels[row], support.keys[row], v, CONFIG.augment) for v in range(3)]
        )
        assert torch.allclose(
            views.views.embeddings[rows], backbone.embed_images(expected), atol=1e-5
        )
        assert (views.labels[rows].numpy() == support.labels[row]).all()
        assert (views.image[rows] == number).all()


def test_batches_have_equally_many_images_of_each_class(views, backbone, catalog) -> None:
    task = Task(backbone, catalog, views, CONFIG, torch.Generator().manual_seed(0))
    batches = list(balanced_batches(task))
    assert len(batches) == 6
    for rows in batches:
        labels = views.labels[rows].unflatten(0, (-1, 2))  # (1 + C, 2, C)
        assert (labels[0] == 0).all()
        for c in range(len(catalog.categories)):
            assert (labels[1 + c, :, c] == 1).all()


def test_the_frozen_tower_runs_once_for_each_image(supports, backbone, monkeypatch) -> None:
    calls: list[int] = []
    original = Tower.prefix

    def counted(tower, inputs, adapted_blocks):
        calls.append(len(inputs))
        return original(tower, inputs, adapted_blocks)

    monkeypatch.setattr(Tower, "prefix", counted)
    images = FrozenImages(backbone, supports[0].pixels)
    some = torch.tensor([3, 1])
    taken = images.take(some).take(torch.tensor([1]))
    assert torch.equal(taken.after_block(2).f_frozen, images.after_block(2).f_frozen[1:2])
    assert torch.equal(taken.embeddings, images.embeddings[1:2])
    assert sum(calls) == len(images)


@pytest.mark.parametrize("first", [BEFORE_BLOCKS, 0, 2])
def test_outputs_do_not_depend_on_which_was_asked_for_first(supports, backbone, first) -> None:
    tower, pixels = backbone.image, supports[0].pixels
    images = FrozenImages(backbone, pixels)
    images.after_block(first)
    depth = len(tower.blocks)
    for block in range(max(first, 0), depth - 1):
        expected = tower.prefix(backbone.pixels(pixels), depth - block).f_frozen
        assert torch.allclose(images.after_block(block).f_frozen, expected, atol=1e-5)
    assert torch.allclose(images.embeddings, backbone.embed_images(pixels), atol=1e-5)
    expected = tower.prefix(backbone.pixels(pixels), depth).f_in
    assert torch.equal(FrozenImages(backbone, pixels).before_blocks().f_in, expected)


def test_pixels_are_read_once_when_the_first_block_is_asked_for_first(
    supports, backbone, monkeypatch
) -> None:
    images = FrozenImages(backbone, supports[0].pixels)
    images.before_blocks()
    monkeypatch.setattr(type(backbone), "pixels", None)
    assert images.embeddings.shape[0] == images.after_block(0).f_in.shape[0] == len(images)


def test_an_image_has_several_classes_or_is_normal(views, supports) -> None:
    assert views.classes.shape[1] == 1 + views.labels.shape[1]
    assert torch.equal(views.classes[:, 1:], views.labels)
    assert torch.equal(views.classes[:, 0] == 1, views.labels.sum(1) == 0)
