"""What the gate of SD-MAD is worth to other methods, from the outputs of `sdmad compare`.

    python benchmarks/gate_for_rivals.py runs/compare

`runs/compare` holds the outputs of the commands in docs/results.md, in folders named as there. Each
rival's logits of categories are decided as those of SD-MAD (`sdmad.method.calibration.decided`),
with SD-MAD's logit of any anomaly on the same support and the gate of the default configuration.

Prints a table for each archive and 1, 4 and 16 shots: metrics without -> with the gate, means over
seeds, per cent. Marks compare with SD-MAD on the same supports: `!` the rival is better with the
gate, `=` not distinguishable; p values are corrected for all marks of the archive. The last table
is that of docs/results.md, at 4 shots.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from sdmad.comparison.cell import metrics
from sdmad.comparison.config import SD_MAD, CompareConfig
from sdmad.comparison.pages import MARKS
from sdmad.comparison.run import cell_uri, stored_name
from sdmad.comparison.scores import read_scores, read_test
from sdmad.comparison.summary import summarise_methods
from sdmad.evaluation.measure import HEADLINES
from sdmad.fitting.config import parse_numbers
from sdmad.method.calibration import decided
from sdmad.method.learner import LearnerConfig

ARCHIVES = {"odir": "fundus", "busi": "ultrasound", "phantoms": "phantoms"}
SHOTS = (1, 4, 16)
SHOWN = {
    key: name
    for key, name in HEADLINES.items()
    if key[0] != "anomaly detection" and key[1] != "one_minus_hamming_loss"
}
IN_DOCS = {
    "sd_mad": "**SD-MAD**",
    **{name: name for name in ("clap", "lp_plus_plus", "gda", "mvfa", "tip_adapter")},
    **{name: name for name in ("zero_shot_names", "zero_shot_signs")},
}
LEAST = 1e-7
WITHOUT, WITH = "without", "with"


def gated(scores: np.ndarray, anomaly: np.ndarray, gate: float) -> np.ndarray:
    """Scores (N, C) of a rival behind the gate of anomaly scores (N,) of SD-MAD."""
    known = np.column_stack([scores, anomaly]).astype(float)
    heads = torch.logit(torch.from_numpy(known), eps=LEAST)
    logits, _ = decided(heads, gate, None, torch.ones(heads.shape[-1]))
    return torch.sigmoid(logits).numpy()


def measured(output: str) -> pd.DataFrame:
    """Metrics without and with the gate: a row for each method, `gate`, shots, seed and metric."""
    record = json.loads((Path(output) / "run.json").read_text())
    config = CompareConfig.model_validate(record["config"])
    truth, _ = read_test(output)
    gate, rows = LearnerConfig().gate, []
    for shots in (k for k in SHOTS if k in config.shots):
        for seed in parse_numbers(config.seeds, "seeds"):
            found = {
                name: read_scores(cell_uri(output, stored_name(config, name), shots, seed))
                for name in config.methods
            }
            of_any = found[SD_MAD][1]
            for method, (scores, anomaly) in found.items():
                ways = {WITHOUT: scores, WITH: gated(scores, of_any, gate)}
                # SD-MAD has its gate already.
                for way, values in {WITH: scores}.items() if method == SD_MAD else ways.items():
                    rows += [
                        (method, way, shots, seed, *key, value)
                        for key, value in metrics(truth, values, anomaly).items()
                        if key in SHOWN
                    ]
    return pd.DataFrame(
        rows, columns=["method", "gate", "shots", "seed", "protocol", "metric", "value"]
    )


def summarised(found: pd.DataFrame) -> pd.DataFrame:
    """Means without the gate as `before`, beside what `summarise_methods` makes of those with it,
    indexed by (shots, method, protocol, metric)."""
    keys = ["shots", "method", "protocol", "metric"]
    table = summarise_methods(found[found.gate == WITH], SD_MAD).set_index(keys).sort_index()
    return table.assign(before=found[found.gate == WITHOUT].groupby(keys).value.mean())


def shown(row: pd.Series) -> str:
    """A cell of a table; SD-MAD has no value without the gate."""
    text = f"{100 * row['mean']:.1f}"
    if not np.isnan(row["before"]):
        text = f"{100 * row['before']:.1f} -> {text}"
    return f"{text} {MARKS[row['verdict']] if row['verdict'] else ''}".strip()


def tables(found: pd.DataFrame) -> str:
    """Markdown: a table of one archive for each number of shots."""
    parts = []
    for shots, table in found.groupby("shots"):
        parts += [
            f"{shots} {'shot' if shots == 1 else 'shots'}, without -> with the gate:\n",
            f"| method | {' | '.join(SHOWN.values())} |",
            "|---" * (len(SHOWN) + 1) + "|",
        ]
        for method in sorted(set(table.index.get_level_values("method"))):
            cells = [shown(table.loc[shots, method, *key]) for key in SHOWN]
            parts.append(f"| {method} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def overview(of_archives: dict[str, pd.DataFrame]) -> str:
    """Markdown: Hamming score and macro F1 of some methods at 4 shots, on all archives."""
    two = {key: name for key, name in SHOWN.items() if key[1] in ("hamming_score", "macro_f1")}
    heads = [f"{ARCHIVES[name]}: {metric}" for name in of_archives for metric in two.values()]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method, label in IN_DOCS.items():
        cells = [shown(t.loc[4, method, *key]) for t in of_archives.values() for key in two]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    runs: Annotated[Path, typer.Argument(help="Folder with the outputs of comparisons.")],
) -> None:
    """Print what the gate is worth to other methods."""
    found = {
        name: summarised(measured(str(runs / name)))
        for name in ARCHIVES
        if (runs / name / "run.json").is_file()
    }
    for name, table in found.items():
        print(f"## {ARCHIVES[name]}\n\n{tables(table)}")
    print(overview(found))


if __name__ == "__main__":
    typer.run(main)
