"""docs/queries.md and the query of README.md give the right answers on score tables."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import boto3
import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad import storage
from sdmad.archive.naming import image_uri
from sdmad.archive.units import WorkUnit
from sdmad.scoring import tables
from sdmad.scoring.plan import make_plan
from sdmad.scoring.tables import ScoreColumns
from tests.docs.pages import code, first_column

PAGE = "docs/queries.md"
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
    row |= {"anomaly_score": anomaly, "anomaly_logit": 0.0, "anomaly_seeds": seeds_of(anomaly)}
    row |= {"findings": findings, "uncertain": uncertain, "evidence": []}
    row["signs"] = [{"category": SIGNS[s][0], "sign": s, "similarity": SIGNS[s][1]} for s in signs]
    for category, score, spread in zip(CATEGORIES, scores, spreads, strict=True):
        row |= {f"score_{category}": score, f"spread_{category}": spread, f"logit_{category}": 0.0}
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
    """An archive of three shards and a loose image; two shards are left, here by name and unit."""
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
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another endpoint
    yield left
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def database(hospital) -> Iterator[Any]:
    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("s3"))
        yield connection


def execute(example: str, names: dict[str, Any]) -> None:
    """Run a block of the page; what it defines is in `names`."""
    exec(example, names)  # noqa: S102 - the page is ours


def rounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(round(v, 2) if isinstance(v, float) else v for v in row) for row in rows]


def test_duckdb_gives_the_right_answers(database, hospital, tmp_path, monkeypatch) -> None:
    """Every query of the page, in its order."""
    monkeypatch.chdir(tmp_path)
    answers = {
        "images by category": [("effusion", 2), ("cardiomegaly", 2)],
        "signs behind findings": [
            ("cardiomegaly", "wide_heart", 2, 0.33),
            ("effusion", "blunted_angle", 2, 0.30),
            ("effusion", "meniscus", 1, 0.25),
        ],
        "uncertain, widest spread first": [
            ("4.png", 0.55, 0.30, 0.51, 0.59),
            ("9.png", 0.50, 0.10, 0.46, 0.54),
        ],
        "scores by label": [(False, 2, 0.27), (True, 2, 0.93)],
        "failures by reason": [("decode", "damaged image", 2), ("read", "too large", 1)],
        "units left, largest first": [
            (hospital["d.tar"], "tar", f"{ARCHIVE}/d.tar", 900),
            (hospital["c.tar"], "tar", f"{ARCHIVE}/c.tar", 400),
        ],
        "provenance": [
            ("sdmad.catalog", "c1"),
            ("sdmad.code_version", "0.1.0"),
            ("sdmad.detector", "d1"),
        ],
        "images copied to one file": [(5,)],
    }
    for (name, answer), query in zip(answers.items(), code(PAGE, "sql", "DuckDB"), strict=True):
        found = rounded(database.execute(query).fetchall())
        if name == "images by category":  # equal counts, in any order
            found, answer = sorted(found), sorted(answer)
        assert found == answer, name
    merged = pq.read_table(tmp_path / "scores.parquet")
    assert sorted(merged["member"].to_pylist()) == ["1.png", "2.png", "3.png", "4.png", "9.png"]


@pytest.mark.usefixtures("hospital")
def test_duckdb_reads_through_s3fs() -> None:
    [example] = code(PAGE, "python", "DuckDB")
    names: dict[str, Any] = {}
    try:
        execute(example, names)
    finally:
        duckdb.unregister_filesystem("s3")
    assert names["best"]["uri"].tolist() == [uri_of("a.tar", f"{k}.png") for k in (1, 2, 4)]
    assert np.allclose(names["best"]["anomaly_score"], [0.97, 0.96, 0.80])


@pytest.mark.usefixtures("hospital")
def test_the_examples_for_pandas_give_the_right_answers() -> None:
    names: dict[str, Any] = {}
    for example in code(PAGE, "python", "pandas"):
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
    found = re.findall(pattern, "\n".join(code(PAGE, "sql", "Athena")), re.S)
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
    [example] = code(PAGE, "python", "Athena")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        execute(example, {})
    columns = re.findall(r"^  (\w+) (\S+?),?$", shown.getvalue(), re.M)
    assert dict(columns) == external_tables()["sdmad_scores"][0]


def test_the_columns_described_are_those_of_the_tables() -> None:
    named = {name for cell in first_column(PAGE) for name in re.findall(r"`(\w+)`", cell)}
    schema = ScoreColumns(CATEGORIES, num_seeds=4, per_seed=True).schema
    assert named == {name for name in schema.names if not name.endswith("cardiomegaly")}
