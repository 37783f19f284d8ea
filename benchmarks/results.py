"""Write the pages of docs/results, and the tables of docs/results.md and README.md.

    python benchmarks/results.py runs/compare

`runs/compare` holds the outputs of the commands in docs/results.md, in folders named as there.
Pages and tables of outputs that are not there stay as they are; sentences are always left alone.
"""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
import typer

from sdmad.comparison.calibration import QUANTITIES
from sdmad.comparison.pages import MARKS
from sdmad.evaluation.measure import HEADLINES

DOCS = Path(__file__).parent.parent / "docs"
ODIR = "--archive ODIR --labels ODIR/labels.csv --backbone FOLDER"
BUSI = "--archive BUSI --labels BUSI/labels.csv --backbone FOLDER"


class Source(NamedTuple):
    """One page: its title, the options of its command, and the figures that it shows, by file."""

    title: str
    options: str
    figures: tuple[tuple[str, str], ...] = ()


SOURCES = {
    "phantoms": Source("Phantoms", "phantoms.yaml", (("shots", "phantoms-shots"),)),
    "odir": Source("Fundus photographs", f"odir.yaml {ODIR}", (("shots", "odir-shots"),)),
    "busi": Source(
        "Breast ultrasound",
        f"breast_ultrasound.yaml {BUSI} --seeds 0:16",
        (("shots", "busi-shots"),),
    ),
    "ablation": Source(
        "Ablation on phantoms", "ablation.yaml --bootstrap 0", (("lambda", "ablation-lambda"),)
    ),
    "ablation-fundus": Source(
        "Ablation on fundus photographs", f"ablation_odir.yaml --bootstrap 0 {ODIR}"
    ),
    "ablation-ultrasound": Source(
        "Ablation on breast ultrasound", f"ablation_ultrasound.yaml --bootstrap 0 {BUSI}"
    ),
    "adapters-fundus": Source(
        "Adapters at 16 shots on fundus photographs", f"adapters_odir.yaml --bootstrap 0 {ODIR}"
    ),
}
SIX = [key for key in HEADLINES if key[1] not in ("average_precision", "one_minus_hamming_loss")]
THREE = [key for key in SIX if key[1] in ("auroc", "macro_others", "hamming_score")]
AUROCS = SIX[:3]
MARGIN = 0.03
ARCHIVES = {"odir": "fundus", "busi": "ultrasound", "phantoms": "phantoms"}
ABLATIONS = ("ablation-fundus", "ablation-ultrasound", "ablation")
PARTS = {
    "sd_mad": "**SD-MAD**",
    "no category names": "without category names",
    "no probe": "without the patch probe",
    "no frozen evidence": "without frozen signs",
    "no adapted evidence": "without adapted signs",
    "lambda=1.0": "adapters that do nothing (lambda = 1)",
    "two blocks": "two adapted blocks",
    "no gate": "without the gate",
    "selection none": "without sign selection",
    "wrong signs": "a quarter of the signs wrong",
    "wrong signs, selection none": "the same, no selection",
    "half wrong": "half of the signs wrong",
    "half wrong, selection none": "the same, no selection",
}
IN_README = {
    "sd_mad": "**SD-MAD**",
    "lp_plus_plus": "LP++, linear probe with texts",
    "gda": "GDA, without training",
    "zero_shot_names": "zero-shot, category names",
    "zero_shot_signs": "zero-shot, signs without names",
}


def main(
    runs: Annotated[Path, typer.Argument(help="Folder with the outputs of comparisons.")],
) -> None:
    found = {name: runs / name for name in SOURCES if (runs / name / "comparison.md").is_file()}
    if not found:
        print(
            f"no output of a comparison in {runs}; docs/results.md has the commands",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    for name, output in found.items():
        write_page(name, output)
    tables = {name: summary(output) for name, output in found.items()}
    page = DOCS / "results.md"
    text = page.read_text()
    for name in ARCHIVES.keys() & tables.keys():
        text = with_archive(text, SOURCES[name].title, tables[name])
    of_archives = {name: output for name, output in found.items() if name in ARCHIVES}
    text = with_rows(text, "| | shots | calibration error", calibration_rows, of_archives)
    text = with_rows(text, "| | shots | supports", support_rows, of_archives)
    text = with_groups(text, "| | fundus: anomaly", PARTS, ABLATIONS, tables, deviation=False)
    page.write_text(text)
    readme = DOCS.parent / "README.md"
    text = readme.read_text()
    archives = ("odir", "phantoms")
    header = "| method | fundus: anomaly"
    readme.write_text(with_groups(text, header, IN_README, archives, tables, mark=False))
    print(f"written from {', '.join(found)}")


def write_page(name: str, output: Path) -> None:
    """docs/results/<name>.md: the comparison's own page under a title and its command."""
    source = SOURCES[name]
    what = (
        "every metric" if name == "adapters-fundus" else "every method, number of shots and metric"
    )
    command = f"sdmad compare --config configs/comparisons/{source.options}"
    head = (
        f"# {source.title}: {what}\n\nWritten by `{command} --output runs/compare/{name}`.\n"
        "[results.md](../results.md) says what follows from it.\n\n"
    )
    # Without its own title and facts, which name folders.
    page = (output / "comparison.md").read_text().split("\n\n", 2)[2]
    (DOCS / "results" / f"{name}.md").write_text(head + page)
    for figure, stem in source.figures:
        shutil.copyfile(output / f"{figure}.svg", DOCS / "results" / f"{stem}.svg")
    shutil.copyfile(output / "results.parquet", DOCS / "results" / f"{name}.parquet")


def summary(output: Path) -> pd.DataFrame:
    """The differences over seeds, indexed by (shots, method, protocol, metric)."""
    table = pd.read_parquet(output / "differences.parquet")
    table = table[table.over == "seeds"]
    return table.set_index(["shots", "method", "protocol", "metric"]).sort_index()


def shown(row: pd.Series, deviation: bool = True, mark: bool = True) -> str:
    text = f"{100 * row['mean']:.1f}"
    text += f" ± {100 * row['std']:.1f}" if deviation else ""
    sign = MARKS[row["verdict"]] if mark and row["verdict"] else ""
    return f"{text} {sign}".strip()


def with_archive(text: str, heading: str, table: pd.DataFrame) -> str:
    """`text` with new tables in the section of an archive, one for each number of shots there."""
    start = text.index(f"\n## {heading}\n")
    end = text.index("\n## ", start + 1)
    section = text[start:end]
    pieces = re.split(r"(?m)^(?=\| method \|)", section)
    for k in range(1, len(pieces)):
        shots = int(re.findall(r"[Aa]t (\d+) shots?", pieces[k - 1].rstrip().split("\n")[-1])[-1])
        rows = [
            "| "
            + " | ".join([bold(method), *(shown(table.loc[shots, method, *key]) for key in SIX)])
            + " |"
            for method in sorted(set(table.loc[shots].index.get_level_values("method")))
        ]
        pieces[k] = replaced(pieces[k], "| method |", rows)
    return text[:start] + "".join(pieces) + text[end:]


def bold(method: str) -> str:
    return f"**{method}**" if method == "sd_mad" else method


def with_rows(
    text: str, header: str, rows_of: Callable[[Path], list[list[str]]], outputs: dict[str, Path]
) -> str:
    """`text` with new rows in a table that has rows for each archive; the first cell names it."""
    old = block(text, header)[2:]
    rows = []
    for name, label in ARCHIVES.items():
        if name in outputs:
            rows += [f"| {label} | {' | '.join(cells)} |" for cells in rows_of(outputs[name])]
        else:
            rows += [row for row in old if row.startswith(f"| {label} |")]
    return replaced(text, header, rows)


def calibration_rows(output: Path) -> list[list[str]]:
    """Calibration errors and coverage of SD-MAD, a row for each number of shots."""
    table = pd.read_parquet(output / "calibration.parquet")
    rows = []
    for shots, group in table[table.method == "sd_mad"].groupby("shots"):
        values = {q: 100 * v.value for q, v in group.groupby("quantity")}
        cells = [
            f"{values[q].mean():.1f}"
            if "chance" in q
            else f"{values[q].mean():.1f} ± {values[q].std():.1f}"
            for q in QUANTITIES
        ]
        rows.append([str(shots), *cells])
    return rows


def support_rows(output: Path) -> list[list[str]]:
    """On how many supports SD-MAD is below zero-shot signs by more than `MARGIN`, and by how much
    at most, a row for each number of shots."""
    table = pd.read_parquet(output / "results.parquet").set_index(["method", "protocol", "metric"])
    rows = []
    for shots, group in table.groupby("shots"):
        cells, supports = [], 0
        for key in AUROCS:
            ours, theirs = (
                group.loc[(method, *key)].set_index("seed").value
                for method in ("sd_mad", "zero_shot_signs")
            )
            change = ours - theirs
            supports = len(change)
            cells.append(f"{int((change < -MARGIN).sum())} ({100 * change.min():+.1f})")
        rows.append([str(shots), str(supports), *cells])
    return rows


def with_groups(
    text: str,
    header: str,
    labels: dict[str, str],
    archives: tuple[str, ...],
    tables: dict[str, pd.DataFrame],
    **how: bool,
) -> str:
    """`text` with new numbers at 4 shots in a table that has three columns for each archive."""
    rows = []
    for (method, label), old in zip(labels.items(), block(text, header)[2:], strict=True):
        cells = [cell.strip() for cell in old.strip("|").split("|")][1:]
        for k, name in enumerate(archives):
            if name in tables:
                new = [shown(tables[name].loc[4, method, *key], **how) for key in THREE]
                cells[3 * k : 3 * k + 3] = new
        rows.append("| " + " | ".join([label, *cells]) + " |")
    return replaced(text, header, rows)


def block(text: str, header: str) -> list[str]:
    """The lines of the table whose first line starts with `header`."""
    lines = text.split("\n")
    first = next(k for k, line in enumerate(lines) if line.startswith(header))
    last = next(
        k for k in range(first, len(lines) + 1) if k == len(lines) or not lines[k].startswith("|")
    )
    return lines[first:last]


def replaced(text: str, header: str, rows: list[str]) -> str:
    """`text` with `rows` below the first two lines of that table."""
    old = block(text, header)
    return text.replace("\n".join(old), "\n".join([*old[:2], *rows]), 1)


if __name__ == "__main__":
    typer.run(main)
