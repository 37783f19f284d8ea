"""Every architecture in open_clip's registry, shrunk to a few narrow blocks (`small.build`).

Architectures that shrink to the same model are checked once. Embeddings are compared after
normalisation, as scores use them.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from sdmad.backbones import architectures
from sdmad.backbones.loading import Backbone
from sdmad.backbones.packed import can_pack
from sdmad.backbones.towers import Tower
from sdmad.backbones.towers.kinds import image_tower, text_tower
from sdmad.errors import UserError
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig, TowerAdapters
from sdmad.method.augment import AugmentConfig
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.method.model import SignModel
from tests.backbones.small import TINY, Small, build
from tests.helpers import draw_adapters

NAMES = open_clip.list_models()
REFUSED = {name for names in architectures.refused().values() for name in names}
ADAPTED = [name for name in NAMES if name not in REFUSED]
HALF = {torch.float16: 0.01, torch.bfloat16: 0.06}
"""Largest distance of a unit embedding from that of single precision, and so of its cosine with any
sign. Measured on these towers: 0.008 and 0.05 for MobileCLIP, 0.003 and 0.02 for all others."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Towers this small take longer on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Callable[[str], Small]:
    """The shrunken architecture of a name; the same object for names that shrink to the same."""
    folder: Path = tmp_path_factory.mktemp("text")
    by_name: dict[str, Small] = {}
    by_key: dict[str, Small] = {}

    def get(name: str) -> Small:
        if name not in by_name:
            made = build(name, folder)
            by_name[name] = by_key.setdefault(made.key, made)
        return by_name[name]

    return get


def once(check: Callable[[Small], None]) -> Callable[[str, Callable[[str], Small]], None]:
    """A test of one architecture that computes only for the first that shrinks to its model."""
    outcomes: dict[str, Exception | AssertionError | None] = {}

    @wraps(check)
    def test(name, small) -> None:
        one = small(name)
        if one.key not in outcomes:
            try:
                check(one)
                outcomes[one.key] = None
            except (Exception, AssertionError) as error:
                outcomes[one.key] = error
        if (error := outcomes[one.key]) is not None:
            raise error

    del test.__wrapped__
    return pytest.mark.parametrize("name", ADAPTED)(test)


def towers(one: Small) -> list[tuple[Tower, torch.Tensor, torch.Tensor]]:
    """Both towers, their inputs, and what open_clip makes of these."""
    images, ids = one.images(3), one.token_ids(4)
    with torch.no_grad():
        return [
            (image_tower(one.clip), images, one.clip.encode_image(images, normalize=True)),
            (text_tower(one.clip), ids, one.clip.encode_text(ids, normalize=True)),
        ]


def adapters(tower: Tower, seeds: int, **settings: object) -> TowerAdapters:
    made = TowerAdapters(seeds, tower.width, TowerAdapterConfig(bottleneck=4, **settings))
    return draw_adapters(made, seeds)


@once
def test_lambda_one_is_open_clips_embedding(one: Small) -> None:
    for tower, inputs, expected in towers(one):
        with torch.no_grad():
            assert torch.allclose(F.normalize(tower.run(inputs), dim=-1), expected, atol=1e-6)
            for blocks in (0, 1, 2):
                same = adapters(tower, 1, blocks=blocks, frozen_weight=1.0)
                got = tower.suffix(tower.prefix(inputs, blocks), same.layers)[0]
                assert torch.allclose(F.normalize(got, dim=-1), expected, atol=1e-5), blocks


@once
def test_seeds_in_one_batch_equal_seeds_alone(one: Small) -> None:
    for tower, inputs, expected in towers(one):
        for blocks in (1, 2, len(tower.blocks)):
            both = adapters(tower, 2, blocks=blocks, frozen_weight=0.6)
            with torch.no_grad():
                activations = tower.prefix(inputs, blocks)
                together = F.normalize(tower.suffix(activations, both.layers, 2), dim=-1)
                second = F.normalize(tower.suffix(activations, both.seed(1).layers), dim=-1)
            assert torch.allclose(together[1], second[0], atol=1e-5), blocks
            assert not torch.allclose(together[0], together[1], atol=1e-4)
            assert not torch.allclose(together[0], expected, atol=1e-4)


@once
def test_texts_without_padding_have_the_same_embeddings(one: Small) -> None:
    tower, ids = text_tower(one.clip), one.token_ids(4)
    rows = torch.tensor([3, 0])  # The two shortest.
    with torch.no_grad():
        expected = tower.run(ids)[rows]
        texts = tower.texts(tower.before_block(ids, 0), rows)
        tokens = texts.f_in
        for index in range(len(tower.blocks)):
            tokens = tower.block(index, tokens, texts)
        assert torch.allclose(tower.head(tokens, texts), expected, atol=1e-5)


@once
def test_the_token_that_is_read_is_that_of_the_whole_block(one: Small) -> None:
    for tower, inputs, _ in towers(one):
        last = len(tower.blocks) - 1
        with torch.no_grad():
            before = tower.before_block(inputs, last)
            token = tower.read_token(last, before)
            whole = tower.block(last, before.f_in, before)
        if token is not None:
            read = before.read if before.read is not None else torch.zeros(len(inputs)).long()
            assert torch.allclose(token[:, 0], whole[torch.arange(len(inputs)), read], atol=1e-5)


@once
def test_fits_train_and_scores_come_out(one: Small) -> None:
    backbone = one.backbone()
    two = TowerAdapterConfig(blocks=2, bottleneck=4)
    config = LearnerConfig(
        steps=4,
        images_per_class=1,
        augment=AugmentConfig(views=1),
        adapter=AdapterConfig(image=two, text=two),
    )
    supports = [one.support(seed) for seed in range(2)]
    before = SignModel(backbone, TINY, config.adapter, 2)
    losses: list[float] = []
    model, rule = fit_batch(
        backbone, TINY, supports, config, on_step=lambda _, loss: losses.append(loss)
    )
    assert np.isfinite(losses).all()
    for weight, start in zip(model.parameters(), before.parameters(), strict=True):
        assert weight.isfinite().all()
        assert not torch.equal(weight, start)
    p = probabilities(model, rule, backbone, config)
    assert p.shape == (2, 4, 1)
    assert ((p >= 0) & (p <= 1)).all()
    assert p.std() > 0


@once
def test_half_precision_is_close_to_single(one: Small) -> None:
    tower, inputs, expected = towers(one)[0]
    for dtype, bound in HALF.items():
        half = tower.cast(dtype)
        for blocks in (0, 1):
            with torch.inference_mode():
                activations = half.prefix(inputs, blocks, lean=True)
                got = F.normalize(half.frozen(activations).float(), dim=-1)
            assert activations.f_in.dtype == dtype
            assert (got - expected).norm(dim=-1).max() < bound


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")
@once
def test_packed_blocks_are_the_same_blocks(one: Small) -> None:
    tower, inputs, expected = towers(one)[0]
    packed = tower.packed(torch.float32)
    with torch.inference_mode():
        assert torch.allclose(F.normalize(packed.run(inputs), dim=-1), expected, atol=1e-5)
        for blocks in (0, 1, 2):
            ours, theirs = tower.prefix(inputs, blocks), packed.prefix(inputs, blocks, lean=True)
            assert torch.allclose(theirs.f_in, ours.f_in, atol=1e-5)
            assert torch.allclose(theirs.f_frozen, ours.f_frozen, atol=1e-5)
            assert torch.allclose(theirs.patches, ours.patches, atol=1e-5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_table_lists_is_refused_in_one_sentence(name, small) -> None:
    with pytest.raises(UserError, match="use a vision transformer") as told:
        architectures.check_architecture(name)
    assert str(told.value).count(".") == 0
    with pytest.raises(UserError, match="use a vision transformer"):
        image_tower(small(name).clip)


def test_nothing_is_built_to_refuse_an_architecture(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__init__", None)
    architectures.check_architecture("ViT-L-14-336")
    architectures.check_architecture("no-such-model")
    with pytest.raises(UserError, match="timm's convnext"):
        architectures.check_architecture("convnext_base")


def test_the_table_in_the_documentation_is_current() -> None:
    page = Path("docs/backbones.md").read_text()
    _, _, rest = page.partition(architectures.BEGIN)
    written, _, _ = rest.partition(architectures.END)
    assert written.strip() == architectures.table()


def probabilities(model, rule, backbone: Backbone, config: LearnerConfig) -> np.ndarray:
    """Scores (S, B, C) of four images."""
    generator = np.random.default_rng(7)
    pixels = generator.integers(0, 255, (4, *backbone.spec.size, 3), np.uint8)
    with torch.inference_mode():
        activations, frozen = model.image_activations(backbone.pixels(pixels), lean=True)
        readings = model.read(activations, frozen, model.sign_embeddings())
        logits = rule.evidence(model, readings, config).logits
    return torch.sigmoid(logits).numpy()
