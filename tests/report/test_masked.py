"""Masks of a label table in an evaluation: loose and in the shard, read, measured and shown."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sdmad.evaluation import masks
from sdmad.evaluation.audit import sign_weights
from sdmad.evaluation.masks import measure_masks
from sdmad.evaluation.measure import ScoredTest, measure
from sdmad.localisation import locate, upsample
from sdmad.phantoms.task import draw_example, encode_png
from sdmad.report.inspection import Inspection
from sdmad.report.masked import mask_section
from sdmad.report.page import write_report
from tests.helpers import write_tar
from tests.report.made import scored_archive


def alone(category: str, count: int) -> list:
    examples = (draw_example(k, "test", seed=5) for k in range(400))
    return [e for e in examples if e.labels == (category,)][:count]


@pytest.fixture(scope="module")
def masked(tmp_path_factory, training_run, detector) -> ScoredTest:
    """Abscesses in a tar with their masks, tumours beside loose masks, one image without a mask,
    one whose mask is missing, and one of two categories."""
    folder = tmp_path_factory.mktemp("masked")
    lines = ["archive,member,patient_id,split,labels,mask"]
    shard = {}
    for k, example in enumerate(alone("abscess", 2)):
        shard[f"{k}.png"] = encode_png(example.image)
        mask = np.any(list(example.masks.values()), axis=0)
        shard[f"{k}-mask.png"] = encode_png(mask.astype(np.uint8))
        lines.append(f"s.tar,{k}.png,a{k},test,abscess,{k}-mask.png")
    for k, example in enumerate(alone("tumour", 1)):
        shard[f"t{k}.png"] = encode_png(example.image)
        (folder / "masks").mkdir(exist_ok=True)
        mask = np.any(list(example.masks.values()), axis=0)
        (folder / "masks" / f"t{k}.png").write_bytes(encode_png(255 * mask.astype(np.uint8)))
        lines.append(f"s.tar,t{k}.png,t{k},test,tumour,masks/t{k}.png")
    for name, labels, mask in (
        ("none", "tumour", ""),
        ("lost", "tumour", "gone.png"),
        ("both", "tumour;abscess", "0-mask.png"),
        ("normal", "", ""),
    ):
        shard[f"{name}.png"] = encode_png(draw_example(1, "test").image)
        lines.append(f"s.tar,{name}.png,p-{name},test,{labels},{mask}")
    write_tar(folder / "s.tar", shard)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return scored_archive(Path(folder), str(training_run), detector)


@pytest.mark.parametrize(
    "category", ["calcinosis", "cystic_disease", "tumour", "fibrosis", "abscess", "infarct"]
)
def test_maps_lie_on_the_masks_of_their_category(category, detector) -> None:
    examples = alone(category, 12)
    pixels = [np.repeat(example.image[..., None], 3, axis=2) for example in examples]
    maps = upsample(locate(detector, pixels, detector.catalog.sign_names), (64, 64))
    weights = sign_weights(detector).mean(0)[detector.catalog.category_names.index(category)]
    heats = np.einsum("s,bsyx->byx", weights, maps)
    drawn = [np.any(list(example.masks.values()), axis=0) for example in examples]
    assert roc_auc_score(np.ravel(drawn), heats.ravel()) > 0.6


def test_maps_are_measured_by_category_where_an_image_has_one_and_a_mask(masked, detector) -> None:
    found = measure_masks(masked, detector)
    assert found.notes == ["1 of 4 masks cannot be read, such as gone.png"]
    table = found.table.set_index("category")
    assert table.images.to_dict() == {"tumour": 1, "abscess": 2}
    names = detector.catalog.category_names
    pixels, heats, drawn = [], [], []
    for example in alone("abscess", 2):
        pixels.append(np.repeat(example.image[..., None], 3, axis=2))
        drawn.append(np.any(list(example.masks.values()), axis=0))
    signs = detector.catalog.sign_names
    maps = upsample(locate(detector, pixels, signs), (64, 64))
    weights = sign_weights(detector).mean(0)[names.index("abscess")]
    heats = np.einsum("s,bsyx->byx", weights, maps)
    assert table.pixel_auroc["abscess"] == pytest.approx(
        roc_auc_score(np.ravel(drawn), heats.ravel()), abs=1e-4
    )
    assert table.chance.between(0, 0.6).all()
    assert [image.mask.sum() for image in found.images if image.category == "abscess"] == [
        mask.sum() for mask in drawn
    ]


def test_time_and_tables_without_masks(masked, detector, scored) -> None:
    assert measure_masks(scored, detector) is None
    assert mask_section(scored, detector) is None
    late = measure_masks(masked, detector, seconds=-1)
    assert len(late.table) == 0
    assert "3 images with a mask have no map, because time ran out" in late.notes


def test_the_report_shows_each_map_beside_its_mask(masked, detector, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(masks, "MOST_IMAGES", 1)
    section = mask_section(masked, detector)
    assert sorted(example.category for example in section.examples) == ["abscess", "tumour"]
    page = Path(
        write_report(masked, measure(masked), str(tmp_path), {}, Inspection(masks=section))
    ).read_text()
    assert "Maps against masks" in page
    assert page.count("map of its signs") == 2
    assert section.examples[0].mask != section.examples[0].map
