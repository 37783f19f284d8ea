"""docs/operations.md: its queries give the right answers on score tables, its commands exist."""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from sdmad import storage
from sdmad.archive.naming import image_uri
from sdmad.archive.units import WorkUnit
from sdmad.scoring import tables
from sdmad.scoring.plan import make_plan
from sdmad.scoring.tables import ScoreColumns
from tests.cluster.kustomize import render
from tests.helpers import ROOT

PAGE = (ROOT / "docs/operations.md").read_text()
ARCHIVE, OUTPUT = "s3://hospital/chest", "s3://hospital/sdmad/scores"
CATEGORIES = ["effusion", "cardiomegaly"]
LABELS = """archive,member,patient_id,split,labels
a.tar,1.png,p1,test,effusion
a.tar,2.png,p2,test,effusion;cardiomegaly
a.tar,3.png,p3,test,
a.tar,4.png,p4,pool,cardiomegaly
,9.png,p9,test,
"""
# member, anomaly, scores, spreads, findings, uncertain, signs, seeds of the two categories
IMAGES: dict[str, list[tuple[Any, ...]]] = {
    "a.tar": [
        ("1.png", 0.97, (0.95, 0.10), (0.02, 0.01), ["effusion"], [], ["blunted_angle"]),
        ("2.png", 0.96, (0.91, 0.85), (0.03, 0.20), CATEGORIES, ["cardiomegaly"], [
            "blunted_angle", "meniscus", "wide_heart"
        ]),
        ("3.png", 0.05, (0.04, 0.02), (0.01, 0.01), [], [], []),
        ("4.png", 0.80, (0.55, 0.88), (0.30, 0.02), CATEGORIES[1:], ["effusion"], ["wide_heart"]),
    ],
    "": [("9.png", 0.60, (0.50, 0.05), (0.10, 0.01), [], ["effusion"], [])],
}  # fmt: skip
SIGNS = {
    "blunted_angle": ("effusion", 0.30),
    "meniscus": ("effusion", 0.25),
    "wide_heart": ("cardiomegaly", 0.33),
}
FAILURES = {
    "a.tar": [
        ("5.png", "decode", "damaged image: OSError: broken at 17"),
        ("6.png", "decode", "damaged image: SyntaxError: no header"),
    ],
    "": [("8.png", "read", "too large: 2000000000 bytes")],
}


def seeds_of(score: float) -> list[float]:
    return [round(score + step, 2) for step in (-0.04, -0.02, 0.02, 0.04)]


def score_row(shard: str, image: tuple[Any, ...]) -> dict[str, Any]:
    member, anomaly, scores, spreads, findings, uncertain, signs = image
    row = {"uri": uri_of(shard, member), "archive": shard, "member": member}
    row |= {"anomaly_score": anomaly, "findings": findings, "uncertain": uncertain}
    row["signs"] = [{"category": SIGNS[s][0], "sign": s, "similarity": SIGNS[s][1]} for s in signs]
    for category, score, spread in zip(CATEGORIES, scores, spreads, strict=True):
        row |= {f"score_{category}": score, f"spread_{category}": spread}
        row[f"seeds_{category}"] = seeds_of(score)
    return row


def uri_of(shard: str, member: str) -> str:
    whole = shard or member
    return image_uri(f"{ARCHIVE}/{whole}", member if shard else None)


def commit(unit: WorkUnit, metadata: dict[str, str]) -> None:
    columns = ScoreColumns(CATEGORIES, num_seeds=4, per_seed=True)
    rows = [score_row(unit.archive, image) for image in IMAGES[unit.archive]]
    failed = [
        {"uri": uri_of(unit.archive, member), "archive": unit.archive, "member": member}
        | {"stage": stage, "reason": reason}
        for member, stage, reason in FAILURES[unit.archive]
    ]
    schema = tables.empty_failures().schema
    scores = pa.Table.from_pylist(rows, columns.schema)
    tables.commit_unit(OUTPUT, unit.id, scores, pa.Table.from_pylist(failed, schema), metadata)


@pytest.fixture(scope="module")
def hospital(s3: str) -> Iterator[dict[str, str]]:
    """An archive of three shards and a loose image, scored but for two shards; the ids of these
    by name."""
    boto3.client("s3").create_bucket(Bucket="hospital")
    for name, size in (("a.tar", 700), ("c.tar", 400), ("d.tar", 900), ("9.png", 50)):
        storage.write_bytes(f"{ARCHIVE}/{name}", b"x" * size)
    storage.write_bytes(f"{ARCHIVE}/labels.csv", LABELS.encode())
    metadata = {"archive": ARCHIVE, "detector": "d1", "per_seed": "true"}
    metadata |= {"catalog": "c1", "code_version": "0.1.0"}
    plan = make_plan(ARCHIVE, OUTPUT, metadata)
    left = {}
    for unit in plan.units:
        if unit.archive in IMAGES:
            commit(unit, metadata)
        else:
            left[unit.archive] = unit.id
    assert len(plan.units) == 4
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # They may have another endpoint.
    yield left
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def database(hospital) -> Iterator[Any]:
    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("s3"))
        yield connection


def section(title: str) -> str:
    """What stands below a heading, up to the next one."""
    [found] = re.findall(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", PAGE, re.M | re.S)
    return found


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def execute(example: str, names: dict[str, Any]) -> None:
    """Run a block of the page; what it defines is in `names`."""
    exec(example, names)  # noqa: S102 - the page is ours


def queries() -> dict[str, str]:
    """The queries for DuckDB by the words that introduce them."""
    pairs = re.findall(r"^([^\n]+):\n\n```sql\n(.*?)^```", section("DuckDB"), re.M | re.S)
    assert len(pairs) == len(code(section("DuckDB"), "sql")), "each query has its introduction"
    return {words.split(";")[0]: query for words, query in pairs}


def rounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(round(v, 2) if isinstance(v, float) else v for v in row) for row in rows]


ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "How often each category was found": [("effusion", 2), ("cardiomegaly", 2)],
    "The signs that carry the findings": [
        ("cardiomegaly", "wide_heart", 2, 0.33),
        ("effusion", "blunted_angle", 2, 0.30),
        ("effusion", "meniscus", 1, 0.25),
    ],
    "What a reader should look at first, widest spread over the seeds on top": [
        ("4.png", 0.55, 0.30, 0.51, 0.59),
        ("9.png", 0.50, 0.10, 0.46, 0.54),
    ],
    "Scores beside labels": [(False, 2, 0.27), (True, 2, 0.93)],
    "Why images have no scores": [("decode", "damaged image", 2), ("read", "too large", 1)],
    "Which units are left, largest first": [],  # With ids, which the test fills in.
    "What the tables were made with": [
        ("sdmad.catalog", "c1"),
        ("sdmad.code_version", "0.1.0"),
        ("sdmad.detector", "d1"),
    ],
    "Many small files into one, for people who query often": [(5,)],
}


@pytest.mark.parametrize("words", sorted(queries()))
def test_a_query_for_duckdb_gives_the_right_answer(
    words: str, database, hospital, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = ANSWERS[words]
    if words.startswith("Which units"):
        expected = [
            (hospital[name], "tar", f"{ARCHIVE}/{name}", size)
            for name, size in (("d.tar", 900), ("c.tar", 400))
        ]
    found = rounded(database.execute(queries()[words]).fetchall())
    if words.startswith("How often"):
        found, expected = sorted(found), sorted(expected)
    assert found == expected
    if words.startswith("Many small files"):
        merged = pq.read_table(tmp_path / "scores.parquet")
        assert sorted(merged["member"].to_pylist()) == ["1.png", "2.png", "3.png", "4.png", "9.png"]


def test_every_query_has_an_answer_here() -> None:
    assert set(queries()) == set(ANSWERS)


@pytest.mark.usefixtures("hospital")
def test_duckdb_reads_through_s3fs() -> None:
    [example] = code(section("DuckDB"), "python")
    names: dict[str, Any] = {}
    try:
        execute(example, names)
    finally:
        duckdb.unregister_filesystem("s3")
    assert names["best"]["uri"].tolist() == [uri_of("a.tar", f"{k}.png") for k in (1, 2, 4)]
    assert np.allclose(names["best"]["anomaly_score"], [0.97, 0.96, 0.80])


def test_the_query_of_the_readme_gives_the_right_answer(database) -> None:
    [query] = re.findall(r"(    select .*?;)   -- DuckDB", (ROOT / "README.md").read_text(), re.S)
    found = rounded(database.execute(query).fetchall())
    assert found == [(uri_of("a.tar", "1.png"), 0.97, ["effusion"])]


@pytest.mark.usefixtures("hospital")
def test_the_examples_for_pandas_give_the_right_answers() -> None:
    names: dict[str, Any] = {}
    for example in code(section("pandas"), "python"):
        execute(example, names)
    assert len(names["scores"]) == 5
    assert names["found"].to_dict() == {"effusion": 2, "cardiomegaly": 2}
    assert set(names["likely"]["uri"]) == {uri_of("a.tar", "1.png"), uri_of("a.tar", "2.png")}
    assert len(names["both"]) == 5, "every image has its label, the loose one too"
    assert names["by_label"].to_dict() == pytest.approx({False: 0.27, True: 0.93})
    assert names["seeds"].shape == (5, 4)
    position = names["rows"]["member"].tolist().index("4.png")
    assert np.allclose(names["seeds"][position], seeds_of(0.55))
    signs = names["signs"]
    assert list(signs.columns) == ["member", "category", "sign", "similarity"]
    assert sorted(zip(signs["member"], signs["sign"], strict=True)) == [
        ("1.png", "blunted_angle"),
        ("2.png", "blunted_angle"),
        ("2.png", "meniscus"),
        ("2.png", "wide_heart"),
        ("4.png", "wide_heart"),
    ]
    wide = signs[signs["sign"] == "wide_heart"]
    assert set(wide["category"]) == {"cardiomegaly"}
    assert np.allclose(wide["similarity"], 0.33)
    assert names["kinds"].to_dict() == {("decode", "damaged image"): 2, ("read", "too large"): 1}


def external_tables() -> dict[str, tuple[dict[str, str], str]]:
    """Columns with types, and the location, of each table of Athena's."""
    pattern = r"create external table (\w+) \((.*?)\n\)\nstored as parquet\nlocation '([^']+)';"
    found = re.findall(pattern, "\n".join(code(section("Athena"), "sql")), re.S)
    return {
        table: (dict(re.findall(r"^  (\w+) (\S+?),?$", columns, re.M)), location)
        for table, columns, location in found
    }


def athena_type(kind: pa.DataType) -> str:
    """What Athena calls a type of a Parquet file."""
    if isinstance(kind, pa.ListType | pa.FixedSizeListType):
        return f"array<{athena_type(kind.value_type)}>"
    if isinstance(kind, pa.StructType):
        fields = [
            f"{kind.field(k).name}:{athena_type(kind.field(k).type)}" for k in range(len(kind))
        ]
        return f"struct<{','.join(fields)}>"
    return {pa.string(): "string", pa.float32(): "float"}[kind]


@pytest.mark.usefixtures("hospital")
@pytest.mark.parametrize("kind", ["scores", "failures"])
def test_the_tables_of_athena_have_the_columns_of_the_files(kind: str) -> None:
    columns, location = external_tables()[f"sdmad_{kind}"]
    assert location == f"{OUTPUT}/{kind}/"
    files = list(storage.list_objects(location.rstrip("/")))
    assert len(files) == 2
    for entry in files:
        assert re.search(r"part-[0-9a-f]{16}\.parquet$", entry.uri), "nothing else lies there"
        schema = pq.read_schema(io.BytesIO(storage.read_bytes(entry.uri)))
        assert list(columns.items()) == [(f.name, athena_type(f.type)) for f in schema]


@pytest.mark.usefixtures("hospital")
def test_the_columns_for_athena_are_written_by_the_example() -> None:
    [example] = code(section("Athena"), "python")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        execute(example, {})
    columns = re.findall(r"^  (\w+) (\S+?),?$", shown.getvalue(), re.M)
    assert dict(columns) == external_tables()["sdmad_scores"][0]


def test_the_columns_described_are_those_of_the_tables() -> None:
    described = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section("Query the tables"), re.M)
    named = {name.strip("`") for cell in described for name in cell.split(", ")}
    schema = ScoreColumns(CATEGORIES, num_seeds=4, per_seed=True).schema
    assert named == {name for name in schema.names if not name.endswith("cardiomegaly")}


def commands() -> list[str]:
    """The indented commands of the page, continued lines as one."""
    lines = "\n".join(re.findall(r"^    (.*)$", PAGE, re.M))
    return lines.replace("\\\n", " ").splitlines()


def test_the_jobs_have_the_options_that_the_page_gives_them() -> None:
    found = [re.search(r"python (?:/opt/sdmad/)?jobs/(\w+)\.py (.*)", line) for line in commands()]
    given = {(match[1], match[2]) for match in found if match and "..." not in match[2]}
    assert {job for job, _ in given} >= {
        "train_seeds",
        "score_archive",
        "verify_scores",
        "evaluate",
    }
    for job, arguments in given:
        app = typer.Typer(add_completion=False)
        app.command()(importlib.import_module(f"jobs.{job}").main)
        typer.main.get_command(app).make_context(job, shlex.split(arguments))


def test_the_parts_that_are_applied_exist() -> None:
    label = "app.kubernetes.io/component"
    manifests = render(ROOT / "cluster/kubernetes/overlays/gpu")
    parts = {m["metadata"]["labels"][label]: m["metadata"]["name"] for m in manifests}
    asked = set(re.findall(rf"{label}=(\w+)", PAGE))
    assert asked == set(parts)
    jobs = re.findall(r"job-name=([\w-]+)|delete\s+rayjob\s+-n\s+sdmad\s+([\w-]+)", PAGE)
    assert {a or b for a, b in jobs} == {parts["training"], parts["scoring"]}


def test_every_statement_of_the_policies_is_explained() -> None:
    table = section("Rights")
    for name in ("iam-policy.json", "iam-launcher-policy.json"):
        policy = json.loads((ROOT / "cluster" / name).read_text())
        for statement in policy["Statement"]:
            assert f"`{statement['Sid']}`" in table


@pytest.mark.skipif(sys.platform != "linux", reason="the page says GNU sed")
def test_the_fourth_step_fills_in_every_file(tmp_path: Path) -> None:
    given = {
        "ARCHIVE": "images",
        "OUTPUT": "results",
        "ACCOUNT": "123456789012",
        "AMI": "ami-1",
        "SG": "sg-1",
        "SUBNET_A": "subnet-1",
        "SUBNET_B": "subnet-2",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    shutil.copy(ROOT / "ray_cluster.yaml", tmp_path)
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    steps = [line for line in commands() if line.startswith("sed ")]
    subprocess.run(
        ["bash", "-euc", "\n".join(steps)], cwd=tmp_path, env=os.environ | given, check=True
    )
    files = [tmp_path / "ray_cluster.yaml", *tmp_path.glob("cluster/*.json")]
    files += (tmp_path / "cluster/kubernetes").rglob("*.yaml")
    for path in files:
        rest = re.sub(r"^#.*$", "", path.read_text(), flags=re.M)
        assert "REPLACE" not in rest, path
        assert "us-east-1" not in rest, path
    cluster = yaml.safe_load((tmp_path / "ray_cluster.yaml").read_text())
    head = cluster["available_node_types"]["head"]["node_config"]
    assert cluster["provider"]["region"] == "eu-central-1"
    assert head["SubnetIds"] == ["subnet-1", "subnet-2"]
    assert (head["ImageId"], head["SecurityGroupIds"]) == ("ami-1", ["sg-1"])
    launcher = (tmp_path / "cluster/iam-launcher-policy.json").read_text()
    assert "arn:aws:ec2:eu-central-1:123456789012:subnet/subnet-2" in launcher
    assert "arn:aws:iam::123456789012:role/sdmad-worker" in launcher
    manifests = str(render(tmp_path / "cluster/kubernetes/overlays/gpu"))
    assert "123456789012.dkr.ecr.eu-central-1.amazonaws.com/sdmad:" in manifests
    assert "arn:aws:iam::123456789012:role/sdmad-pods" in manifests
    assert "--archive s3://images/archive" in manifests


@pytest.mark.parametrize("page", ["docs/operations.md", "cluster/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
