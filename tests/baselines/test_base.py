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
    original = Tower.before_block

    def counted(tower, inputs, index):
        calls.append(len(inputs))
        return original(tower, inputs, index)

    monkeypatch.setattr(Tower, "before_block", counted)
    images = FrozenImages(backbone, supports[0].pixels)
    some = torch.tensor([3, 1])
    taken = images.take(some).take(torch.tensor([1]))
    assert torch.equal(taken.after_block(2).f_frozen, images.after_block(2).f_frozen[1:2])
    assert torch.equal(taken.embeddings, images.embeddings[1:2])
    assert sum(calls) == len(images)


@pytest.mark.parametrize("first", [BEFORE_BLOCKS, 0, 2])
def test_outputs_do_not_depend_on_which_was_asked_for_first(
    supports, backbone, first, monkeypatch
) -> None:
    tower, pixels = backbone.image, supports[0].pixels
    depth = len(tower.blocks)
    whole = tower.prefix(backbone.pixels(pixels), depth)
    outputs = [tower.prefix(backbone.pixels(pixels), depth - b).f_frozen for b in range(depth - 1)]
    embeddings = backbone.embed_images(pixels)
    images = FrozenImages(backbone, pixels)
    images.before_blocks() if first == BEFORE_BLOCKS else images.after_block(first)
    monkeypatch.setattr(type(backbone), "pixels", None)  # Pixels are not read again.
    assert torch.equal(images.before_blocks().f_in, whole.f_in)
    for block, expected in enumerate(outputs):
        assert torch.allclose(images.after_block(block).f_frozen, expected, atol=1e-5)
    assert torch.allclose(images.embeddings, embeddings, atol=1e-5)


def test_an_image_has_several_classes_or_is_normal(views, supports) -> None:
    assert views.classes.shape[1] == 1 + views.labels.shape[1]
    assert torch.equal(views.classes[:, 1:], views.labels)
    assert torch.equal(views.classes[:, 0] == 1, views.labels.sum(1) == 0)
