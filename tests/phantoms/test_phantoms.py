import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from sdmad.phantoms import backbone as phantom_backbone
from sdmad.phantoms.anatomy import HELD_OUT_ORGAN, SEEN_ORGANS
from sdmad.phantoms.captions import SIGN_PHRASES, caption
from sdmad.phantoms.pretraining import draw_batch, draw_phrases
from sdmad.phantoms.render import HELD_OUT_LOOK, SEEN_LOOK, render
from sdmad.phantoms.signs import SIGNS
from sdmad.phantoms.task import CATEGORIES, SHOWN_SIGNS, draw_example, write_archive


@pytest.mark.parametrize("organ", [*SEEN_ORGANS, HELD_OUT_ORGAN])
@pytest.mark.parametrize("sign", list(SIGNS))
def test_a_sign_changes_the_image_inside_its_mask(organ, sign) -> None:
    """Compares with the same phantom without the sign, inside the mask."""
    still = SEEN_LOOK.__class__(**{**vars(SEEN_LOOK), "noise": (0, 0), "speckle": (0, 0)})
    plain = render(np.random.default_rng(5), organ, set(), still).image.astype(int)
    drawn = render(np.random.default_rng(5), organ, {sign}, still)
    mask = drawn.masks[sign]
    assert 2 <= mask.sum() < mask.size / 2
    # Drawing the sign shifts the random numbers of distractors outside the organ.
    change = np.abs(drawn.image.astype(int) - plain)
    assert change[mask].mean() > 6


def test_the_same_generator_gives_the_same_phantom() -> None:
    first = render(np.random.default_rng(1), "disc", {"haze", "notch"}, SEEN_LOOK)
    again = render(np.random.default_rng(1), "disc", {"haze", "notch"}, SEEN_LOOK)
    assert np.array_equal(first.image, again.image)
    assert set(first.masks) == {"haze", "notch"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown signs"):
        render(np.random.default_rng(0), "disc", {"rash"}, SEEN_LOOK)
    with pytest.raises(ValueError, match="unknown organ"):
        render(np.random.default_rng(0), "cube", set(), SEEN_LOOK)


def test_the_task_has_the_documented_shares_of_labels_and_signs() -> None:
    examples = [draw_example(k, "pool") for k in range(600)]
    counts = np.array([len(e.labels) for e in examples])
    assert 0.3 < (counts == 0).mean() < 0.5
    assert (counts > 1).mean() > 0.1
    assert len(SIGNS) >= 10
    assert len(CATEGORIES) >= 6
    shared = [s for s in SIGNS if sum(s in signs for signs in SHOWN_SIGNS.values()) > 1]
    assert len(shared) >= 3
    for example in examples:
        allowed = {s for label in example.labels for s in SHOWN_SIGNS[label]}
        assert set(example.masks) <= allowed
        for label in example.labels:
            assert set(SHOWN_SIGNS[label]) & set(example.masks), "every category shows a sign"


def test_pool_and_test_are_different_patients_and_images() -> None:
    pool, test = draw_example(3, "pool"), draw_example(3, "test")
    assert pool.patient_id != test.patient_id
    assert not np.array_equal(pool.image, test.image)


def test_the_archive_holds_images_labels_and_damaged_members(tmp_path) -> None:
    labels = write_archive(str(tmp_path), pool=150, test=100, damaged=2)
    assert [p.name for p in sorted(tmp_path.glob("*.tar"))] == [
        "phantoms-0000.tar",
        "phantoms-0001.tar",
    ]
    rows = list(csv.DictReader(Path(labels).read_text().splitlines()))
    assert len(rows) == 250
    names = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [(path.name, m.name) for m in tar]
            content = tar.extractfile(tar.getmembers()[5]).read()
            assert Image.open(io.BytesIO(content)).size == (64, 64)
    assert {(r["archive"], r["member"]) for r in rows} < set(names)
    assert len(names) == 252


def test_captions_name_every_sign_and_fit_the_context_length() -> None:
    tokenizer = phantom_backbone.load_tokenizer()
    rng = np.random.default_rng(0)
    text = caption(rng, "disc", {"haze", "notch"})
    assert any(p in text for p in SIGN_PHRASES["haze"])
    assert any(p in text for p in SIGN_PHRASES["notch"])
    longest = [max(phrases, key=len) for phrases in SIGN_PHRASES.values()]
    assert (tokenizer(longest)[:, -1] == 0).all()


def test_pretraining_shows_only_seen_organs() -> None:
    _, captions, shown = draw_batch(np.random.default_rng(0), 64)
    assert not any("wedge shaped organ" in c or "a wedge with" in c for c in captions)
    assert shown.shape == (64, len(SIGNS) + 1)
    assert ((shown[:, :-1].sum(1) == 0) == (shown[:, -1] == 1)).all()
    assert len(draw_phrases(np.random.default_rng(0))) == shown.shape[1]


def test_shipped_weights_are_small_and_detect_signs_zero_shot(backbone) -> None:
    """Mean zero-shot AUROC of sign phrases, on organs of the training and on the held-out one."""
    weights = phantom_backbone.WEIGHTS / "open_clip_model.safetensors"
    assert weights.stat().st_size < 20_000_000
    for organs, look, least in (
        (SEEN_ORGANS, SEEN_LOOK, 0.9),
        ([HELD_OUT_ORGAN], HELD_OUT_LOOK, 0.8),
    ):
        rng = np.random.default_rng(11)
        images, shown = [], []
        for _ in range(200):
            signs = set(rng.choice(list(SIGNS), rng.integers(0, 4), replace=False))
            images.append(render(rng, str(rng.choice(organs)), signs, look).image)
            shown.append([s in signs for s in SIGNS])
        v = backbone.embed_images(np.repeat(np.stack(images)[..., None], 3, axis=3))
        t = torch.stack([backbone.embed_texts(list(p)).mean(0) for p in SIGN_PHRASES.values()])
        z, truth = (v @ t.T).numpy(), np.array(shown)
        areas = [roc_auc_score(truth[:, k], z[:, k]) for k in range(len(SIGNS))]
        assert np.mean(areas) > least


@pytest.mark.usefixtures("ray_cluster")
def test_the_pretraining_job_writes_a_checkpoint_that_loads(tmp_path) -> None:
    from sdmad.backbones.config import BackboneConfig
    from sdmad.backbones.loading import load_backbone
    from sdmad.phantoms.pretraining import PretrainConfig, pretrain

    pretrain(PretrainConfig(steps=2, images_per_worker=4, workers=2, cpus_per_worker=0.5), tmp_path)
    config = BackboneConfig(model=f"local-dir:{tmp_path}")
    loaded = load_backbone.__wrapped__(config, "cpu")
    assert loaded.spec.size == (64, 64)
    assert loaded.embed_texts(["a bright ring"]).shape == (1, 128)
