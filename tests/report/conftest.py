"""The test split of the archive, scored and inspected once for all tests of the report."""

from pathlib import Path

import pytest

from sdmad import Detector
from sdmad.evaluation.measure import ScoredTest
from sdmad.report.inspection import Inspection, inspect
from tests.report.made import scored_archive


@pytest.fixture(scope="session")
def detector(training_run: Path) -> Detector:
    return Detector.load(str(training_run))


@pytest.fixture(scope="session")
def scored(archive: Path, training_run: Path, detector: Detector) -> ScoredTest:
    return scored_archive(archive, str(training_run), detector)


@pytest.fixture(scope="session")
def inspected(scored: ScoredTest) -> Inspection:
    """With the maps of all examples, which take longest."""
    return inspect(scored)
