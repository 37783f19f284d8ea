"""Tables by group, from hand-made score tables and group tables, without Ray."""

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad.commands.aggregate import aggregate
from sdmad.errors import UserError
from sdmad.inputs.groups import load_groups
from sdmad.scoring import tables
from sdmad.scoring.groups.pooling import Pooling
from sdmad.scoring.groups.run import aggregate_scores
from sdmad.scoring.plan import encode_plan, open_plan
from sdmad.scoring.tables import commit_unit, empty_failures
from tests.docs.pages import code
from tests.evaluation.test_measure import CATEGORIES, write_run
from tests.helpers import run_command

SCORES = np.array(
    [[0.9, 0.1], [0.7, 0.2], [0.1, 0.1], [0.2, 0.6], [0.3, 0.4], [0.05, 0.05]], np.float32
)


@pytest.fixture
def run(tmp_path) -> str:
    """Images 0.png to 5.png of a.tar in two units, with findings; 6.png failed."""
    output = write_run(tmp_path / "run", SCORES[..., None])
    for unit in tables.done_units(output):
        table = tables.read_part(output, "scores", unit)
        found = [
            [c for c in CATEGORIES if row[f"score_{c}"] > 0.5]
            for row in table.select([f"score_{c}" for c in CATEGORIES]).to_pylist()
        ]
        place = table.schema.get_field_index("findings")
        named = pa.array(found, table.schema.field("findings").type)
        table = table.set_column(place, table.schema.field("findings"), named)
        row = dict.fromkeys(empty_failures().schema.names, "x")
        row |= {"archive": "a.tar", "member": f"{6 + int(unit[0])}.png"}
        failed = pa.Table.from_pylist([row], empty_failures().schema)
        commit_unit(output, unit, table, failed, {})
    return output


def group_table(folder: Path, rows: list[tuple[str, str]], shard: str = "a.tar") -> str:
    lines = ["archive,member,study_id", *(f"{shard},{name},{group}" for name, group in rows)]
    path = folder / "groups.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


STUDIES = [("0.png", "s1"), ("2.png", "s1"), ("3.png", "s2"), ("4.png", "s2"), ("1.png", "s2")]
STUDIES += [("6.png", "s3"), ("99.png", "s4"), ("7.png", "s1"), ("5.png", "")]


def test_each_group_is_one_row_with_its_findings_and_images(tmp_path, run) -> None:
    groups = group_table(tmp_path, STUDIES)
    found = aggregate_scores(run, groups, "Study-ID", Pooling())
    rows = {row["study_id"]: row for row in found.table.to_pylist()}
    assert list(rows) == ["s1", "s2", "s3", "s4"]
    counts = {name: (r["images"], r["failed"], r["unknown"]) for name, r in rows.items()}
    assert counts == {"s1": (2, 1, 0), "s2": (3, 0, 0), "s3": (0, 1, 0), "s4": (0, 0, 1)}
    assert rows["s1"]["score_one"] == pytest.approx(0.9)
    assert rows["s2"]["score_two"] == pytest.approx(0.6)
    assert rows["s2"]["findings"] == ["one", "two"]
    assert [(c["category"], c["uri"]) for c in rows["s2"]["carriers"]] == [
        ("one", "u1"),
        ("two", "u3"),
    ]
    assert rows["s3"]["anomaly_score"] is None
    assert rows["s3"]["findings"] == rows["s3"]["carriers"] == []
    assert found.empty == ["s3", "s4"]
    assert found.findings == {"one": 2, "two": 1}
    unknown, failed, without = found.notices
    assert unknown == f"no row in {run} for 1 image of {groups}"
    assert unknown.named.startswith(f"{unknown}: a.tar/99.png")
    assert failed == f"no score but a failure in {run} for 2 images of {groups}"
    assert failed.named == f"{failed}: a.tar/6.png, a.tar/7.png"
    assert without == f"no group in {groups} for 1 scored image"
    assert without.named == f"{without}: a.tar/5.png"


@pytest.mark.parametrize(
    ("failure", "listed"),
    [
        (("a.tar", "v.nii.gz"), ("a.tar", "v.nii.gz#frame=2")),
        (("", "x/scan.dcm"), ("", "./x/scan.dcm#frame=1")),
        (("b.tar", ""), ("b.tar", "9.png")),
        (("b.tar", ""), ("./b.tar", "v.nii#frame=1")),
    ],
)
def test_frames_of_failed_files_and_images_of_failed_shards_are_failed(
    tmp_path, run, failure, listed
) -> None:
    unit = min(tables.done_units(run))
    row = dict.fromkeys(empty_failures().schema.names, "x")
    row |= dict(zip(("archive", "member"), failure, strict=True))
    failed = pa.Table.from_pylist([row], empty_failures().schema)
    commit_unit(run, unit, tables.read_part(run, "scores", unit), failed, {})
    path = tmp_path / "groups.csv"
    names = [("a.tar", "0.png"), listed, ("c.tar", "9.png"), ("a.tar", "w.nii#frame=1")]
    path.write_text("archive,member,g\n" + "".join(f"{a},{m},g\n" for a, m in names))
    [found] = aggregate_scores(run, str(path), "g", Pooling()).table.to_pylist()
    assert (found["images"], found["failed"], found["unknown"]) == (1, 1, 2)


def test_findings_of_other_poolings_follow_their_scores(tmp_path, run) -> None:
    groups = group_table(tmp_path, [("3.png", "s"), ("4.png", "s"), ("1.png", "s")])
    (row,) = aggregate_scores(run, groups, "study_id", Pooling("noisy-or")).table.to_pylist()
    assert row["score_two"] == pytest.approx(1 - 0.4 * 0.6 * 0.8)
    assert row["findings"] == ["one", "two"]
    assert [c["uri"] for c in row["carriers"] if c["category"] == "two"] == ["u3", "u4", "u1"]
    (row,) = aggregate_scores(run, groups, "study_id", Pooling("mean-top", 2)).table.to_pylist()
    assert row["score_two"] == pytest.approx(0.5)
    assert row["findings"] == []


def test_findings_use_the_thresholds_of_a_decision_file(tmp_path, run) -> None:
    groups = group_table(tmp_path, [("3.png", "s"), ("4.png", "s"), ("1.png", "s")])
    before = aggregate_scores(run, groups, "study_id", Pooling("mean-top", 2))
    metadata, units = open_plan(run)
    decided = metadata | {"decision": "d1", "thresholds": "0.6;0.45"}
    Path(run, "plan.parquet").write_bytes(encode_plan(list(units), decided))
    after = aggregate_scores(run, groups, "study_id", Pooling("mean-top", 2))
    assert (before.table["findings"].to_pylist(), after.table["findings"].to_pylist()) == (
        [[]],
        [["two"]],
    )
    assert after.metadata["decision"] == "d1"
    fingerprints = {found.metadata["scores_fingerprint"] for found in (before, after)}
    assert len(fingerprints) == 2


def test_the_command_writes_a_table_that_says_where_it_comes_from(tmp_path, run) -> None:
    groups = group_table(tmp_path, STUDIES)
    places = ("--scores", run, "--groups", groups, "--by", "study_id")
    result = run_command(aggregate, *places, "--output", tmp_path / "studies")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "4 groups by study_id, 5 images with scores, by maximum",
        "2 groups without images",
        "groups with findings: one 2, two 1",
        f"wrote {tmp_path}/studies/groups.parquet",
    ]
    assert result.stderr.count("notice: ") == 3
    assert not re.search(r"\bs\d\b|\.png", result.stdout + result.stderr)
    named = run_command(aggregate, *places, "--output", tmp_path / "studies", "--names")
    assert "2 groups without images: s3, s4" in named.stdout
    assert "a.tar/99.png" in named.stderr
    metadata = pq.read_schema(tmp_path / "studies/groups.parquet").metadata
    assert metadata[b"sdmad.scores"] == run.encode()
    assert metadata[b"sdmad.detector"] == b"d"
    assert (metadata[b"sdmad.by"], metadata[b"sdmad.how"]) == (b"study_id", b"maximum")
    assert len(metadata[b"sdmad.scores_fingerprint"]) == 16
    record = json.loads((tmp_path / "studies/run.json").read_text())
    assert (record["job"], record["groups_without_images"]) == ("aggregate", 2)
    assert ".png" not in json.dumps(record["notices"])
    (query,) = code("docs/groups.md", "sql")
    table = f"{tmp_path}/studies/groups.parquet"
    query = query.replace("s3://hospital/sdmad/studies/groups.parquet", table)
    found = duckdb.sql(query.replace("effusion", "one")).fetchall()
    rounded = [(study, images, round(score, 2), uris) for study, images, score, uris in found]
    assert rounded == [("s1", 2, 0.9, ["u0"]), ("s2", 3, 0.7, ["u1"])]
    again = run_command(aggregate, *places, "--output", run)
    assert (again.returncode, "choose another output" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("shard", "member", "message"),
    [
        (
            "b.tar",
            "0.png",
            "no image of .* has a score in .* the table names b.tar/0.png .is a.tar/0.png",
        ),
        ("./a.tar", "0.PNG", r"names ./a.tar/0.PNG \(is a.tar/0.png meant by ./a.tar/0.PNG\?\)"),
    ],
)
def test_a_table_of_another_archive_is_refused_with_names_of_both(
    tmp_path, run, shard, member, message
) -> None:
    groups = group_table(tmp_path, [(member, "s")], shard)
    with pytest.raises(UserError, match=message):
        aggregate_scores(run, groups, "study_id", Pooling())


def test_names_match_as_those_of_labels_do(tmp_path, run) -> None:
    groups = group_table(tmp_path, [("./0.png", "s")], "./a.tar")
    assert aggregate_scores(run, groups, "study_id", Pooling()).images == 1


def test_two_images_of_one_row_are_refused(tmp_path, run) -> None:
    unit = min(tables.done_units(run))
    table = tables.read_part(run, "scores", unit)
    commit_unit(run, unit, pa.concat_tables([table, table]), empty_failures(), {})
    groups = group_table(tmp_path, [(f"{k}.png", "s") for k in range(6)])
    with pytest.raises(UserError, match=r"has two scores for a.tar/3.png"):
        aggregate_scores(run, groups, "study_id", Pooling())


def test_an_unfinished_run_is_told(tmp_path, run) -> None:
    groups = group_table(tmp_path, [(f"{k}.png", "s") for k in range(6)])
    unit = min(tables.done_units(run))
    tables.remove_units(run, [unit])
    found = aggregate_scores(run, groups, "study_id", Pooling())
    assert "is not finished: 1 work unit without scores" in found.notices[0]
    assert found.table["unknown"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("study", "has no column 'study' .is 'study_id' meant"),
        ("images", "has no column 'images'"),
    ],
)
def test_a_missing_column_is_named(tmp_path, run, by, message) -> None:
    with pytest.raises(UserError, match=message):
        aggregate_scores(run, group_table(tmp_path, STUDIES), by, Pooling())


def test_groups_keep_the_order_of_the_file_and_one_text(tmp_path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("uri,Study ID\n/x/a.tar#1.png,M\u00fc\n/x/a.tar#2.png,b\n/x/0.png,Mu\u0308\n")
    found = load_groups(str(path), "study id", "/x")
    assert found.groups == ["M\u00fc", "b"]
    assert found.names == [("a.tar", "1.png"), ("a.tar", "2.png"), ("", "0.png")]
    assert found.of_image.tolist() == [0, 1, 0]
