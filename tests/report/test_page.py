"""The page of a real evaluation, also in a real browser where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdmad.evaluation.run import evaluate_run
from sdmad.scoring.pipeline import PipelineConfig
from sdmad.scoring.run import score_archive

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def page(ray_cluster, archive, training_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("report")
    scores = str(output / "scores")
    score_archive(str(archive), str(training_run), scores, PipelineConfig(), per_seed=True)
    labels = str(archive / "labels.csv")
    result = evaluate_run(scores, labels, str(output), {"itself": scores})
    return Path(result.report)


class Structure(HTMLParser):
    """Counts elements, collects text, checks that every element is closed."""

    VOID = frozenset(("meta", "img", "br", "path", "use", "rect", "image", "circle", "line"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text.append(data)


def test_the_page_stands_alone_and_says_what_it_must(page) -> None:
    structure = Structure()
    structure.feed(page.read_text())
    assert structure.open == []
    assert all(s.startswith(("data:", "#")) for s in structure.sources), "no network"
    assert "script" not in structure.count
    text = re.sub(r"\s+", " ", " ".join(structure.text))
    assert "not a medical device" in text
    for part in ("anomaly detection", "category discrimination", "multi-label prediction"):
        assert part in text
    assert "tied" in text, "a run is tied with itself"
    assert structure.count["svg"] == 4
    assert structure.count["article"] >= 6


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_drawn_by_a_browser_without_overflow(page, tmp_path, width) -> None:
    picture = tmp_path / "page.png"
    probe = tmp_path / "probe.html"
    # The probe writes the document's scroll width into the title of a copy of the page.
    script = "<script>onload=()=>{document.title='W'+document.documentElement.scrollWidth}</script>"
    probe.write_text(page.read_text().replace("</body>", script + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},2000"]
    run = {"capture_output": True, "timeout": 120, "text": True, "check": True}
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], **run)
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (2000, width)
    assert 0.02 < (pixels < 200).mean() < 0.6, "neither blank nor black"
    dumped = subprocess.run([*command, "--dump-dom", probe.as_uri()], **run).stdout
    measured = int(re.search(r"<title>W(\d+)", dumped)[1])
    assert measured <= max(width, 500) + 1
