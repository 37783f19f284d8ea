"""The report page of a real evaluation and of hand-made ones, also in Chromium if installed."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdmad.evaluation.audit import audit
from sdmad.evaluation.measure import measure
from sdmad.report.inspection import Inspection
from sdmad.report.page import write_report
from sdmad.report.run import Evaluated, evaluate_run
from sdmad.report.terminal import print_metrics
from tests.report.made import label_table, scored_test, stored

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(scored, archive, tmp_path_factory) -> Path:
    """Of an evaluation of stored tables, detector and archive."""
    output = tmp_path_factory.mktemp("report")
    scores = stored(scored, str(output / "scores"))
    labels = str(archive / "labels.csv")
    result = evaluate_run(scores, labels, str(output), {"itself": scores})
    return Path(result.report)


class Structure(HTMLParser):
    """Counts elements, collects text and attributes, checks that each element is closed."""

    VOID = frozenset(
        ("meta", "img", "br", "input", "path", "use", "rect", "image", "circle", "line")
    )

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.words: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.attributes += [(k, v) for k, v in attrs if v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)

    def values(self, *names: str) -> list[str]:
        return [v for k, v in self.attributes if k in names]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def rendered(test, inspection: Inspection, folder: Path) -> Structure:
    uri = write_report(test, measure(test), str(folder), {}, inspection)
    return Structure(Path(uri).read_text())


def test_the_page_needs_no_network_and_has_all_sections(page) -> None:
    structure = Structure(page.read_text())
    assert structure.open == []
    sources = structure.values("src", "href", "xlink:href")
    assert all(s.startswith(("data:", "#")) for s in sources), "no network"
    assert "script" not in structure.count
    assert not [k for k, _ in structure.attributes if k.startswith("on")]
    for part in (
        "not a medical device",
        "anomaly detection",
        "category discrimination",
        "multi-label prediction",
        "at 90 % specificity",
        "is chosen on these test images. It shows what the scores could achieve; the detector does "
        "not use it.",
        "Confusion between categories",
        "ECE",
        "Sign audit",
        "Clear cases",
        "Uncertain cases",
        "It shows where the detector looks, not how far the disease extends.",
    ):
        assert part in structure.text
    assert "(0.0 to 0.0) not distinguishable [0.0]" in structure.text, "a run against itself"
    assert "corrected for 8 comparisons (Holm)" in structure.text
    assert structure.count["svg"] > 6, "charts of each category"
    assert structure.count["article"] >= 6


@pytest.mark.parametrize("seeds", [0, 2])
def test_missing_deviations_are_a_dash_with_the_reason(seeds, tmp_path, capsys) -> None:
    """A detector of one seed, or two seeds that were scored with --no-per-seed."""
    truth = np.repeat(np.eye(2, dtype=bool), 20, axis=0)
    test = scored_test(label_table(truth, ["one", "two"]), np.where(truth, 0.9, 0.1)[..., None])
    reason = "its detector has one seed"
    if seeds:
        none = np.zeros((40, 2, 0))
        test = replace(test, seed_names=["0", "1"], seeds=none, anomaly_seeds=none[:, 0])
        reason = "it was scored with --no-per-seed, so the ensemble is all that is measured"
    metrics = measure(test)
    uri = write_report(
        test, metrics, str(tmp_path), {"other": metrics}, Inspection(), reasons=[reason]
    )
    text = Structure(Path(uri).read_text()).text
    assert reason in text
    assert "100.0 ± -" in text
    assert "± 0.0" not in text
    result = Evaluated(test, metrics, {"other": metrics}, uri, [], reasons=[reason])
    print_metrics(result)
    shown = capsys.readouterr().out
    assert "100.0 ± -" in shown
    assert "± 0.0" not in shown
    assert reason in " ".join(shown.split())


def test_a_single_category_has_no_figures_of_other_anomalies(tmp_path) -> None:
    truth = np.arange(40)[:, None] < 20
    test = scored_test(label_table(truth, ["one"]), np.where(truth, 0.9, 0.1)[..., None])
    page = rendered(test, Inspection(), tmp_path)
    assert "AUROC, normal against any anomaly" in page.text
    assert "mean AUROC, category against other anomalies" not in page.text
    assert "any anomaly one" not in page.text
    for several in (
        "all categories",
        "any anomaly 20",
        "normal others",
        "0 with several anomalies",
    ):
        assert several not in page.text, several
    assert "1 category" in page.text
    assert "AUROC against other anomalies - - - multi-label" in page.text, "no interval of nothing"


def test_a_decision_file_does_not_decide_on_any_anomaly(tmp_path) -> None:
    truth = np.repeat([[True, False], [False, True], [False, False]], 20, axis=0)
    test = scored_test(label_table(truth, ["one", "two"]), np.where(truth, 0.9, 0.1)[..., None])
    text = rendered(test, Inspection(), tmp_path).text
    assert "any anomaly 40 100.0 ± - - 100.0 100.0 100.0 p >" in text
    more = {"decision": "d", "decision_uri": "d.json", "thresholds": "0.2;0.3"}
    decided = replace(test, metadata=test.metadata | more)
    assert (
        "any anomaly 40 100.0 ± - - - - 100.0 p >" in rendered(decided, Inspection(), tmp_path).text
    )


def test_identifiers_are_unique_and_links_within_the_page_have_targets(page) -> None:
    structure = Structure(page.read_text())
    names = structure.values("id")
    assert len(names) == len(set(names))
    targets = {h[1:] for h in structure.values("href", "xlink:href") if h.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page.read_text()))
    assert len(targets) > 8
    assert targets <= set(names)


def test_an_evaluation_writes_the_audit_tables_that_the_page_shows(page, catalog) -> None:
    signs = pq.read_table(page.parent / "audit_signs.parquet").to_pandas()
    assert len(signs) == catalog.membership.sum()
    assert signs.test_auroc.notna().any()
    pairs = pq.read_table(page.parent / "audit_pairs.parquet").to_pandas()
    assert len(pq.read_table(page.parent / "audit_categories.parquet")) == 6
    text = Structure(page.read_text()).text
    for row in signs.itertuples():
        weight = f"{100 * row.weight:.1f} ± {100 * row.weight_std:.1f}"
        assert f"{row.sign.replace('_', ' ')} {weight}" in text
    for row in pairs[pairs.shared != ""].itertuples():
        named = f"{row.category}, {row.other}".replace("_", " ")
        assert f"{named} {'yes' if row.apart else 'no'}" in text


def test_the_page_shows_the_maps_of_named_signs(scored, inspected, tmp_path) -> None:
    test, found = scored, inspected
    structure = rendered(test, found, tmp_path)
    located = [s for signs in found.located.values() for s in signs]
    assert len(located) > 5
    assert {s.picture for s in located} < set(structure.values("src"))
    assert all(s.caption in structure.text for s in located)
    assert structure.count["img"] == structure.count["article"] + len(located)
    assert "would have taken too long" not in structure.text
    missing = replace(found, located=dict(list(found.located.items())[:1]))
    assert f"{missing.num_unlocated} images with findings have no maps" in (
        rendered(test, missing, tmp_path).text
    )


def test_advice_is_tagged_and_checks_without_advice_are_listed(scored, detector, tmp_path) -> None:
    test, catalog = scored, detector.catalog
    auc = np.full((3, len(catalog.categories), len(catalog.signs)), 0.9)
    known = rendered(test, Inspection(audit=audit(detector, test.rows, support_auc=auc)), tmp_path)
    assert "signs that fail on the support" in known.text.split("None found:")[1]
    assert "fails on support also listed for" in known.text, "a column of the table of signs"
    assert "test AUROC" not in known.text
    c, s = catalog.category_names.index("fibrosis"), catalog.sign_names.index("streaks")
    auc[:, c, s] = 0.4
    against = Inspection(audit=audit(detector, test.rows, support_auc=auc))
    told = rendered(test, against, tmp_path).text
    advice = "fails on support “streaks” fails on the support of fibrosis in 3 of 3 seeds"
    assert told.index(advice) < told.index("shared signs Every sign"), "ordered by kind"
    blind = replace(against, audit=replace(against.audit, backbone_auroc=0.52))
    shown = rendered(test, blind, tmp_path).text
    assert advice not in shown
    assert shown.count("This backbone hardly sees the signs") == 2, "at the top, and in the audit"
    unknown = rendered(test, Inspection(audit=audit(detector, test.rows)), tmp_path).text
    assert "Signs that fail on the support are not listed" in unknown
    assert "signs that fail on the support" not in unknown.split("None found:")[-1]


def test_markup_in_names_is_escaped(tmp_path) -> None:
    names = ["<script>alert(1)</script>", "a&b"]
    truth = np.random.default_rng(0).random((60, 2)) < 0.4
    table = label_table(truth, names)
    test = scored_test(table, np.where(truth, 0.8, 0.3)[..., None], detector_uri="<img src=x>")
    structure = rendered(test, Inspection(note="Not shown: <b>gone</b>."), tmp_path)
    assert "script" not in structure.count
    assert "b" in structure.count, "from the page itself"
    assert "x" not in structure.values("src")
    assert structure.text.count("alert(1)") >= 4
    assert "Not shown: <b>gone</b>." in structure.text


def test_the_page_shows_the_metrics_of_the_scores(tmp_path) -> None:
    truth = np.zeros((60, 2), bool)
    truth[:20, 0], truth[20:40, 1] = True, True
    # "one" is found in 13 of its 20 images and in 4 of the 40 others. Six more of the others score
    # 0.3: with that threshold 90 % of the others are not found, and 15 of the 20 are.
    scores = np.full((60, 2), 0.1)
    scores[:13, 0], scores[13:15, 0] = 0.9, 0.4
    scores[20:24, 0], scores[24:30, 0] = 0.7, 0.3
    test = scored_test(label_table(truth, ["one", "two"]), scores[..., None])
    text = rendered(test, Inspection(note="Not shown."), tmp_path).text
    # AUROC against normal: 15 of 20 score above all normal images, the others are tied with them.
    assert re.search(r"one 20 87\.5 ± - 79\.[23] ± - 65\.0 90\.0 75\.0 p > 0\.300 -", text)
    assert "normal (20) 0 0 100" in text
    assert "one (20) 65 0 35" in text
    assert "two (20) 20 0 80" in text


def test_scores_at_a_stated_prevalence_are_not_corrected_for_another(tmp_path) -> None:
    truth = np.arange(60)[:, None] < 20
    test = scored_test(label_table(truth, ["one"]), np.where(truth, 0.9, 0.2)[..., None])
    corrected = "corrected for the share of these test images"
    assert corrected in rendered(test, Inspection(note="-"), tmp_path / "half").text
    for key in ("prevalence", "decision"):
        stated = {key: "0.1", "decision_uri": "decision.json"}
        other = replace(test, metadata=test.metadata | stated)
        assert corrected not in rendered(other, Inspection(note="-"), tmp_path / key).text


def browse(*arguments: object) -> str:
    """The standard output of Chromium."""
    command = [CHROMIUM, *FLAGS.split(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, text=True, check=True).stdout


PROBE = """<script>onload = () => {
  parent.postMessage({width: document.documentElement.scrollWidth}, "*");
}</script></body>"""


def test_the_page_begins_with_plain_words_and_states_chance(page, scored) -> None:
    text = Structure(page.read_text()).text
    abnormal = scored.truth.any(axis=1)
    assert f"Of {abnormal.sum()} images with an anomaly, " in text
    assert "Most mistakes: " in text
    assert "Evaluation: phantoms" in text
    assert "Before any fitting, signs of the catalog tell support images of their category" in text
    assert "label table" in text
    assert "2 shots, seeds 0, 1, 2" in text
    assert "phantoms-0001.tar" in text[text.index("Provenance") :]
    assert f"average precision chance {100 * abnormal.mean():.1f}" in text


@needs_browser
@pytest.mark.parametrize("width", [1366, 390])
def test_a_browser_draws_the_page_without_overflow(page, tmp_path, width) -> None:
    opened = page.read_text().replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(opened.replace("</body>", PROBE))
    # In a frame: windows of headless Chromium are never narrower than 500 pixels.
    frame = f'<iframe src="page.html" style="border:0;width:{width}px;height:2000px"></iframe>'
    script = "<script>onmessage = e => { document.title = JSON.stringify(e.data) }</script>"
    (tmp_path / "frame.html").write_text(f'<body style="margin:0">{script}{frame}')
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    window = (profile, f"--window-size={max(width, 500)},2000", "--virtual-time-budget=5000")
    uri = (tmp_path / "frame.html").as_uri()
    measured = json.loads(re.search(r"<title>(.*?)</title>", browse(*window, "--dump-dom", uri))[1])
    assert measured["width"] <= width
    picture = tmp_path / "page.png"
    browse(*window, f"--screenshot={picture}", uri)
    pixels = np.asarray(Image.open(picture).convert("L"))[:, :width]
    assert 0.02 < (pixels < 200).mean() < 0.6, "neither blank nor black"


@needs_browser
def test_folded_sections_are_open_in_print(page, tmp_path) -> None:
    whole = page.read_text()
    without = re.sub(r"(<summary>.*?</summary>).*?(?=</details>)", r"\1", whole, flags=re.S)
    assert len(without) < len(whole)
    sizes = []
    for content in (whole, without):
        (tmp_path / "page.html").write_text(content)
        pdf = tmp_path / "page.pdf"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        browse(profile, f"--print-to-pdf={pdf}", (tmp_path / "page.html").as_uri())
        sizes.append(len(pdf.read_bytes()))
    assert sizes[1] < 0.99 * sizes[0], "the contents of the sections are printed"
