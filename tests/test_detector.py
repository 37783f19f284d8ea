import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sdmad import Detector
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
from sdmad.backbones.packed import can_pack
from sdmad.backbones.towers import ImageTower
from sdmad.errors import UserError
from sdmad.fits import load_fits
from sdmad.method.learner import fit_batch
from sdmad.phantoms.task import draw_example
from sdmad.scores import Scores
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(draw_example(k, "test").image) for k in range(40)]


@pytest.fixture(scope="module")
def detector(training_run) -> Detector:
    return Detector.load(str(training_run))


def test_scores_are_means_and_deviations_over_seeds(detector, images) -> None:
    scores = detector.score(images)
    assert scores.seeds.shape == (40, 6, 3)
    assert np.allclose(scores.categories, scores.seeds.mean(-1), atol=1e-6)
    assert np.allclose(scores.spread, scores.seeds.std(-1), atol=1e-6)
    assert np.allclose(scores.anomaly, scores.anomaly_seeds.mean(-1), atol=1e-6)
    assert scores.anomaly_seeds.shape == (40, 3)
    # One seed alone: its logit is that of its probability.
    assert (np.sign(scores.logits) == np.sign(scores.categories - 0.5))[scores.spread < 0.01].all()
    for values in (scores.anomaly, scores.categories, scores.seeds):
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert (values <= 1).all()


def test_findings_are_the_categories_above_one_half_with_their_own_signs(detector, images) -> None:
    scores = detector.score(images)
    names = detector.catalog.category_names
    for row in range(40):
        expected = [n for n, p in zip(names, scores.categories[row], strict=True) if p > 0.5]
        assert scores.findings[row] == expected
        for evidence in scores.signs[row]:
            assert evidence.category in expected
            assert evidence.sign in detector.catalog.categories[evidence.category].signs
            assert -1 <= evidence.similarity <= 1
        carried = {e.category for e in scores.evidence[row] if e.sign_logit > 0}
        assert {e.category for e in scores.signs[row]} == carried
        assert [e.category for e in scores.evidence[row]] == expected


def test_parts_of_a_finding_add_up_to_its_logit(training_run, images) -> None:
    """With one seed and without the gate: signs, patch probe and offset."""
    single = Detector.load(str(training_run / "fits" / "shots=2" / "seed=1.safetensors"))
    learner = single.provenance.learner.model_copy(update={"gate": 0.0})
    single.provenance = single.provenance.model_copy(update={"learner": learner})
    scores = single.score(images)
    names = single.catalog.category_names
    seen = 0
    for row, found in enumerate(scores.evidence):
        for part in found:
            column = names.index(part.category)
            offset = float(single.rule.offset[0, column])
            total = part.sign_logit + part.probe_logit + offset
            assert total == pytest.approx(scores.logits[row, column], abs=1e-3)
            seen += 1
    assert seen > 10


def test_a_stated_prevalence_multiplies_two_probabilities(training_run, images) -> None:
    """Those of any anomaly, and of a category among anomalies."""
    detector = Detector.load(f"{training_run}/fits/shots=2/seed=0.safetensors")
    names = detector.catalog.category_names

    def scores(**settings: object) -> Scores:
        learner = detector.provenance.learner.model_copy(update=settings)
        learner.check(names)
        detector.provenance = detector.provenance.model_copy(update={"learner": learner})
        return detector.score(images)

    plain = scores(gate=0.0)
    shares = dict(zip(names, [0.001, *np.linspace(0.02, 0.3, len(names) - 1)], strict=True))
    found = scores(gate=0.5, prevalence=shares, anomaly_prevalence=0.4)

    def logistic(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    slopes = detector.rule.slopes[0].numpy()
    anomaly = logistic(slopes[-1] * np.log(plain.anomaly / (1 - plain.anomaly)) + np.log(0.4 / 0.6))
    among = np.array(list(shares.values())) / 0.4
    category = logistic(slopes[:-1] * plain.logits + np.log(among / (1 - among)))
    assert np.allclose(found.anomaly, anomaly, atol=1e-3)
    assert np.allclose(found.categories, category * anomaly[:, None], atol=1e-3)
    independent = scores(prevalence=0.1, anomaly_prevalence=None)
    joint = 1 - 0.9 ** len(names)
    anomaly = slopes[-1] * np.log(plain.anomaly / (1 - plain.anomaly)) + np.log(joint / (1 - joint))
    assert np.allclose(independent.anomaly, logistic(anomaly), atol=1e-3)


def test_scores_do_not_depend_on_the_logit_scale_of_the_backbone(
    backbone, catalog, supports, images
) -> None:
    pixels = backbone.pixels(supports[0].pixels)
    found = []
    for factor in (1.0, 5.0):
        scaled = replace(backbone, logit_scale=factor * backbone.logit_scale)
        model, rule = fit_batch(scaled, catalog, supports[:1], QUICK)
        with torch.no_grad():
            readings = model.read(*model.image_activations(pixels), model.sign_embeddings())
            found.append(rule.evidence(model, readings, QUICK).logits)
    assert torch.equal(*found)


def test_seeds_scored_together_equal_each_fit_alone(detector, images, training_run) -> None:
    together = detector.score(images)
    single = Detector.load(str(training_run / "fits" / "shots=2" / "seed=1.safetensors"))
    alone = single.score(images)
    assert np.allclose(together.seeds[..., 1], alone.categories, atol=1e-5)
    assert not alone.spread.any()


def test_scores_do_not_depend_on_the_batch_size(detector, images) -> None:
    whole, parts = detector.score(images), detector.score(images, batch_size=7)
    assert np.allclose(whole.seeds, parts.seeds, atol=1e-5)
    assert whole.findings == parts.findings


def test_arrays_and_images_of_any_size_and_mode_are_accepted(detector) -> None:
    grey = np.full((100, 80), 90, np.uint8)
    color = np.full((30, 40, 3), 90, np.uint8)
    palette = Image.new("P", (50, 50))
    assert len(detector.score([grey, color, palette]).anomaly) == 3


def test_scoring_no_images_is_refused(detector) -> None:
    with pytest.raises(ValueError, match="no images"):
        detector.score([])


def test_the_library_decodes_images_exactly_as_the_job_does(detector) -> None:
    """For bytes and opened files: 16 bits, transparency, and a large, rotated JPEG."""
    from sdmad.archive.decode import decode

    ramp = np.tile(np.linspace(0, 4000, 300).astype(np.uint16), (200, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.fromarray((ramp[:, :, None].repeat(3, 2) >> 4).astype(np.uint8))
    cases = [
        (Image.fromarray(ramp), "PNG", {}),
        (Image.new("RGBA", (90, 70), (200, 10, 10, 100)), "PNG", {}),
        (photograph.resize((1200, 900)), "JPEG", {"exif": exif}),
    ]
    encoded = []
    for image, format, options in cases:
        sink = io.BytesIO()
        image.save(sink, format, **options)
        encoded.append(sink.getvalue())
    job = detector.score_pixels(np.stack([decode(c, detector.spec) for c in encoded]))
    for given in (encoded, [Image.open(io.BytesIO(c)) for c in encoded]):
        assert np.array_equal(detector.score(given).seeds, job.seeds)


def test_weights_are_prepacked_at_the_first_batch_and_only_once(training_run, monkeypatch) -> None:
    calls = []
    packed = ImageTower.packed
    monkeypatch.setattr("sdmad.backbones.encoder.packing_pays", can_pack)
    monkeypatch.setattr(ImageTower, "packed", lambda *args: calls.append(args) or packed(*args))
    detector = Detector.load(str(training_run), "cpu")
    assert not calls
    detector.score([draw_example(k, "test").image for k in range(2)])
    detector.score([draw_example(3, "test").image])
    assert len(calls) == 1


def test_a_detector_prepares_pixels_as_its_fits_were(training_run, tmp_path) -> None:
    fits = load_fits(str(training_run))
    window = InputConfig(resize="pad", window={"center": 40, "width": 80})
    changed = [
        replace(fit, provenance=fit.provenance.model_copy(update={"input": window})) for fit in fits
    ]
    backbone = load_backbone(BackboneConfig(), "cpu")
    detector = Detector(backbone, changed)
    assert detector.spec == window.apply(backbone.spec)
    assert Detector(backbone, fits).spec == backbone.spec
    wide = Image.new("L", (100, 20), 255)
    assert detector.pixels(wide)[0, 0].max() == 0, "black above the whole image"


GREY = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
COLOR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def test_forms_of_one_picture_get_one_score(detector, tmp_path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    forms = [
        *(COLOR, Image.fromarray(COLOR), content, bytearray(content), memoryview(content)),
        *(tmp_path / "x.png", str(tmp_path / "x.png"), f"file://{tmp_path}/x.png"),
        *(np.dstack([COLOR, np.full(GREY.shape, 255, np.uint8)]), np.asfortranarray(COLOR)),
    ]

    def same(forms: list) -> bool:
        pixels = list(detector.pixels(forms))
        return all(np.array_equal(pixels[0], other) for other in pixels)

    assert same(forms)
    assert same([GREY, GREY[:, :, None], Image.fromarray(GREY)])
    deep = GREY.astype(np.uint16) * 20
    sink = io.BytesIO()
    Image.fromarray(deep).save(sink, "PNG")
    assert same([deep, deep.astype(">u2"), sink.getvalue()])
    assert len(detector.score(iter(forms)).anomaly) == len(forms)
    assert np.array_equal(detector.score(COLOR[None]).seeds, detector.score([COLOR]).seeds)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (
            np.moveaxis(COLOR, -1, 0),
            ValueError,
            r"image 1 .* \(3, 100, 200\); put the channels last",
        ),
        (GREY[None], ValueError, r"\(1, 100, 200\); put the channels last"),
        (COLOR.astype(np.int64), TypeError, "image 1 is an array of int64; give uint8"),
        (COLOR / 255, TypeError, r"array of float64, .* \(255 \* image\).astype\(np.uint8\)"),
        (GREY.astype(np.float32), TypeError, "array of float32, whose range is not known"),
        (GREY > 3, TypeError, "array of bool; give uint8"),
        (GREY.astype(np.int8), TypeError, "array of int8; give uint8"),
        (GREY.astype(object), TypeError, "array of object; give uint8"),
        (COLOR.astype(np.uint16), ValueError, "with several channels give uint8"),
        (np.zeros((0, 0), np.uint8), ValueError, r"has no pixels: its shape is \(0, 0\)"),
        (np.zeros((5, 0, 3), np.uint8), ValueError, "has no pixels"),
        (np.zeros(7, np.uint8), ValueError, r"shape \(7,\); give \(height, width\)"),
        (np.zeros((9, 9, 2), np.uint8), ValueError, r"shape \(9, 9, 2\); give"),
        (np.zeros((9, 9, 9, 3), np.uint8), ValueError, "give .height, width"),
        (Image.new("L", (0, 3)), ValueError, "has no pixels"),
        (torch.zeros(3, 9, 9), TypeError, "image 1 is of type Tensor; give encoded bytes, a path"),
        (None, TypeError, "of type NoneType"),
        ([[1, 2]], TypeError, "of type list"),
        (b"no image", DecodeError, "unknown image format"),
        (b"", DecodeError, "empty file"),
        ("nowhere.png", UserError, "there is no image .*nowhere.png"),
        ("http://host/x.png", UserError, "scheme http:// is not supported"),
    ],
)
def test_what_is_no_image_is_one_sentence(detector, image, kind, message) -> None:
    with pytest.raises(kind, match=message) as raised:
        detector.score([GREY, image])
    assert "\n" not in str(raised.value)


def test_a_file_that_breaks_off_is_one_sentence(detector) -> None:
    sink = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8)
    Image.fromarray(noise).save(sink, "PNG")
    with pytest.raises(DecodeError, match="image 0: damaged image: "):
        detector.score([Image.open(io.BytesIO(sink.getvalue()[:3000]))])


def test_one_image_in_any_form_is_scored_like_a_list_of_it(detector, tmp_path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(COLOR).save(path)
    expected = detector.score([COLOR]).seeds
    for image in (COLOR, COLOR[None], Image.fromarray(COLOR), path, str(path), path.read_bytes()):
        scores = detector.score(image)
        assert len(scores) == 1
        assert np.array_equal(scores.seeds, expected)
    assert np.array_equal(detector.score(GREY).seeds, detector.score(GREY[..., None]).seeds)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.moveaxis(COLOR, -1, 0), r"shape \(3, 100, 200\) is one image with the channels first"),
        (np.moveaxis(COLOR, -1, 0)[None], "image 0 is an array of shape .* put the channels last"),
        (COLOR / 255, "image 0 is an array of float64, whose range is not known; give uint8"),
        (torch.zeros(3, 9, 9), "image 0 is of type Tensor; give encoded bytes, a path"),
        (io.BytesIO(b"png"), "an open file is not an image; give its path"),
        (None, "NoneType is not an image; give a path"),
        (7, "int is not an image"),
    ],
)
def test_what_is_neither_an_image_nor_several_is_one_sentence(detector, images, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        detector.score(images)
    assert "\n" not in str(raised.value)


def test_an_iterator_is_taken_a_batch_at_a_time(detector, monkeypatch) -> None:
    taken, batches = [], []
    original = Detector.score_pixels
    monkeypatch.setattr(
        Detector,
        "score_pixels",
        lambda self, pixels: batches.append((len(taken), len(pixels))) or original(self, pixels),
    )
    scores = detector.score((taken.append(k) or GREY for k in range(7)), batch_size=3)
    assert batches == [(3, 3), (6, 3), (7, 1)]
    assert len(scores) == 7


def test_a_frame_of_a_file_is_named_after_its_path(detector, tmp_path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    images = [tmp_path / "two.tif#frame=2", second]
    assert np.array_equal(*detector.pixels(images))
    scores = detector.score(images)
    assert scores.names == [f"{tmp_path}/two.tif#frame=2", "1"]
    with pytest.raises(DecodeError, match="2 frames; choose one with #frame"):
        detector.score(tmp_path / "two.tif")
    first.save(tmp_path / "odd.png#frame=1", "PNG")
    assert len(detector.score(tmp_path / "odd.png#frame=1")) == 1, "a file that is called so"
    with pytest.raises(UserError, match=r"there is no image .*none.png; "):
        detector.score(tmp_path / "none.png#frame=1")


def test_a_detector_says_what_it_is(detector) -> None:
    assert detector.categories == detector.catalog.category_names
    assert detector.signs == detector.catalog.sign_names
    assert "6 categories (calcinosis, " in repr(detector)
    assert "2 shots, seeds 0, 1, 2; phantom on cpu>" in repr(detector)
