"""Compare SD-MAD with CLIP-based baselines or with variants of itself.

sdmad compare --config configs/comparisons/phantoms.yaml --output runs/compare
"""

from typing import Annotated

import typer

from sdmad.commands.options import (
    ConfiguredActivations,
    ConfiguredArchive,
    ConfiguredBackbone,
    ConfiguredLabels,
    Seeds,
    Shots,
    configuration_changes,
)
from sdmad.runtime.cli import say


def compare(
    config: Annotated[
        str, typer.Option(help="YAML configuration, path or s3:// URI; keys: docs/comparison.md.")
    ],
    output: Annotated[str, typer.Option(help="Where to write the results: path or s3:// URI.")],
    seeds: Seeds = None,
    shots: Shots = None,
    archive: ConfiguredArchive = None,
    labels: ConfiguredLabels = None,
    backbone: ConfiguredBackbone = None,
    activations: ConfiguredActivations = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, e.g. sd_mad,gda; variants are those of the configuration. "
            "Default: as configured."
        ),
    ] = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            help="Bootstrap replicates over seeds and test patients; 0 leaves them out. "
            "Default: as configured, or 1000."
        ),
    ] = None,
) -> None:
    """Compare SD-MAD with CLIP-based baselines or with variants of itself.

    All methods use the same supports. Results that are already there are not
    computed again. Writes results.parquet, differences.parquet, comparison.md and
    plots.
    """
    from sdmad import storage
    from sdmad.comparison import bootstrap as two_level
    from sdmad.comparison.calibration import calibration
    from sdmad.comparison.config import CompareConfig
    from sdmad.comparison.pages import write_pages
    from sdmad.comparison.run import compare
    from sdmad.comparison.scores import read_test
    from sdmad.fitting.config import load_config
    from sdmad.inputs.catalog import load_catalog

    changes = configuration_changes(seeds, shots, archive, labels, backbone, activations)
    names = None if methods is None else [name.strip() for name in methods.split(",")]
    changes |= {"bootstrap": bootstrap, "methods": names}
    settings = load_config(config, changes, CompareConfig)
    settings = settings.for_catalog(load_catalog(settings.catalog))
    target = storage.resolve(output)
    results = compare(settings, target)
    replicates = two_level.bootstrap(settings, target)
    calibrated = calibration(settings, target)
    tested = read_test(target)
    say(write_pages(results, settings, target, replicates, calibrated, tested))
    say(f"wrote {target}/results.parquet and, with the tables above, {target}/comparison.md")
