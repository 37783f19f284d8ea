"""An archive that changes between runs: what both commands say, and what the tables then hold.

The runs read the archive in this process, without Ray and without a detector.
"""

import importlib
import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sdmad.archive import decode, naming, parquets
from sdmad.commands.score import score
from sdmad.commands.verify import verify
from sdmad.scoring import run
from sdmad.scoring.plan import read_plan
from sdmad.scoring.tables import all_units, done_units
from tests.archive.test_dicom import dataset, saved
from tests.helpers import Ended, encoded, run_command, write_tar
from tests.scoring import helpers
from tests.scoring.helpers import TINY, animation, record, tables

REMOVE = "  the score job removes these rows with --prune"


@dataclass(frozen=True)
class Place:
    """An archive, and the output of its runs."""

    archive: Path
    output: Path

    def score(self, *options: str) -> Ended:
        places = ("--archive", self.archive, "--output", self.output, "--detector", "d")
        return run_command(score, *places, *options)

    def verify(self, *options: str) -> tuple[int, list[str]]:
        """The exit code, and the lines after the counts."""
        places = ("--archive", self.archive, "--scores", self.output)
        ended = run_command(verify, *places, *options)
        return ended.returncode, ended.stdout.splitlines()[1:]

    def rows(self) -> list[str]:
        """The names in the tables."""
        found = [row for kind in ("scores", "failures") for row in self._rows(kind)]
        return sorted("/".join(filter(None, (row["archive"], row["member"]))) for row in found)

    def _rows(self, kind: str) -> list[dict]:
        return tables(str(self.output), kind).to_pylist()

    def changes(self) -> list[dict]:
        """What run.json records of changes, without the ids and times of runs."""
        kept = []
        for entry in record(self.output)["changes"]:
            assert entry.pop("run")
            assert entry.pop("time")
            kept.append(entry)
        return kept


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    """Two shards and three loose images, scored."""
    detector = SimpleNamespace(
        catalog=SimpleNamespace(category_names=["one"], digest="c"),
        provenance=SimpleNamespace(backbone="none"),
        backbone=SimpleNamespace(fingerprint="0"),
        num_seeds=1,
        seeds=[0],
        digest="d",
        spec=TINY,
    )

    def stream(plan, source, columns, config, output, metadata, tally, record) -> None:
        for unit in plan.todo:
            helpers.commit(output, unit)
            tally.units += 1

    monkeypatch.setattr(run.Detector, "load", lambda *_, **__: detector)
    monkeypatch.setattr(run, "_stream", stream)
    made = Place(tmp_path / "archive", tmp_path / "scores")
    for k in range(2):
        write_tar(made.archive / f"s{k}.tar", {f"{k}.png": encoded(k), f"{k}x.png": b"no image"})
    for name in ("a.png", "b.png", "c.png"):
        (made.archive / name).write_bytes(encoded())
    assert made.score().returncode == 0
    assert made.verify() == (0, [])
    return made


SHARDS = ["s0.tar/0.png", "s0.tar/0x.png", "s1.tar/1.png", "s1.tar/1x.png"]
LOOSE = ["a.png", "b.png", "c.png"]


def test_a_renamed_shard(place) -> None:
    (place.archive / "s0.tar").rename(place.archive / "t0.tar")
    gone = "  no longer in the archive, but in the tables: s0.tar (2 rows)"
    assert place.verify() == (1, ["  not scored yet: t0.tar (2 images)", gone, REMOVE])
    ended = place.score()
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[:2] == [
        "notice: no longer in the archive, but with rows in the tables: s0.tar; "
        "--prune removes these rows",
        "notice: s0.tar seems to be called t0.tar now",
    ]
    renamed = ["t0.tar/0.png", "t0.tar/0x.png"]
    assert place.rows() == sorted(LOOSE + SHARDS + renamed)
    twice = "  renamed, so that its images are in the tables twice: s0.tar is called t0.tar now"
    assert place.verify() == (1, [gone, twice, REMOVE])
    assert (record(place.output)["objects_gone"], place.changes()) == (1, [])
    ended = place.score("--prune")
    assert ended.stderr.splitlines()[:2] == [
        "notice: no longer in the archive; removing the rows of: s0.tar",
        "notice: s0.tar seems to be called t0.tar now",
    ]
    assert place.rows() == sorted(LOOSE + SHARDS[2:] + renamed)
    assert place.verify() == (0, [])
    assert record(place.output)["objects_gone"] == 0
    assert place.changes() == [{"pruned": ["s0.tar"]}]


def test_objects_that_vanished_after_they_were_scored(place, monkeypatch) -> None:
    (place.archive / "s1.tar").unlink()
    (place.archive / "b.png").unlink()
    gone = [f"  no longer in the archive, but in the tables: {n}" for n in ("b.png (1 row)",)]
    gone += ["  no longer in the archive, but in the tables: s1.tar (2 rows)", REMOVE]
    assert place.verify() == (0, gone)
    assert "with rows in the tables: b.png, s1.tar; --prune" in place.score().stderr
    assert place.rows() == sorted(LOOSE + SHARDS)
    assert (place.verify(), place.changes()) == ((0, gone), [])

    def read_again(*_: object) -> None:
        raise AssertionError("finished units are not read again")

    monkeypatch.setattr(helpers, "commit", read_again)
    ended = place.score("--prune")
    assert ended.stderr.splitlines()[0] == (
        "notice: no longer in the archive; removing the rows of: b.png, s1.tar"
    )
    assert place.rows() == sorted(["a.png", "c.png", *SHARDS[:2]])
    assert all_units(str(place.output)) == {unit.id for unit in read_plan(str(place.output))[0]}
    assert place.verify() == (0, [])
    assert place.changes() == [{"pruned": ["b.png", "s1.tar"]}]
    assert place.score("--prune").returncode == 0
    assert place.changes() == [{"pruned": ["b.png", "s1.tar"]}], "nothing more to record"


def unscored(place: Place) -> None:
    """Make all units ones that are planned and not scored."""
    for part in place.output.glob("*/part-*.parquet"):
        part.unlink()


def test_objects_that_vanished_before_they_were_scored(place) -> None:
    unscored(place)
    (place.archive / "s0.tar").unlink()
    (place.archive / "b.png").unlink()
    assert place.verify()[0] == 1
    ended = place.score()
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: {place.archive}/b.png was planned and has disappeared before it was scored (1 "
        "other object too); put it back, go on without it or with its new content with "
        "--accept-changes, or score to another output\n"
    )
    assert place.score("--prune").returncode == 2, "nothing of them was scored"
    assert not done_units(str(place.output))
    ended = place.score("--accept-changes")
    assert ended.stderr.splitlines()[0] == (
        "notice: no longer in the archive, and never scored: b.png, s0.tar"
    )
    assert place.rows() == sorted(["a.png", "c.png", *SHARDS[2:]])
    assert place.verify() == (0, [])
    assert place.changes() == [{"left": ["b.png", "s0.tar"]}]


def test_changed_objects(place) -> None:
    write_tar(place.archive / "s1.tar", {"1.png": encoded(9), "new.png": encoded()})
    (place.archive / "c.png").write_bytes(b"no image any more")
    changed = [f"  changed since it was planned: {name}" for name in ("c.png", "s1.tar")]
    again = "  the score job scores these again with --accept-changes"
    assert place.verify() == (1, [*changed, again])
    assert place.verify("--names-only") == (1, [*changed, again])
    for options in ((), ("--prune",)):
        ended = place.score(*options)
        assert ended.returncode == 2
        assert f"error: {place.archive}/c.png has changed since it was planned" in ended.stderr
    assert place.rows() == sorted(LOOSE + SHARDS)
    ended = place.score("--accept-changes")
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[0] == "notice: changed, and scored again: c.png, s1.tar"
    assert place.rows() == sorted(LOOSE + SHARDS[:2] + ["s1.tar/1.png", "s1.tar/new.png"])
    failed = tables(str(place.output), "failures")["member"].to_pylist()
    assert sorted(failed) == ["0x.png", "c.png"]
    assert place.verify() == (0, [])
    assert place.changes() == [{"changed": ["c.png", "s1.tar"]}]


def test_changed_objects_of_a_manifest(place, tmp_path) -> None:
    manifest = place.archive / "list.csv"
    manifest.write_text("uri\ns0.tar\na.png\nb.png\n")
    listed = Place(manifest, tmp_path / "other")
    assert listed.score().returncode == 0
    assert listed.verify() == (0, [])
    write_tar(place.archive / "s0.tar", {"0.png": encoded(9)})
    (place.archive / "b.png").write_bytes(encoded(4, (9, 9)))
    assert listed.verify() == (
        1,
        [
            "  changed since it was planned: b.png",
            "  changed since it was planned: s0.tar",
            "  the score job scores these again with --accept-changes",
        ],
    )
    assert listed.score("--accept-changes").returncode == 0
    assert listed.verify() == (0, [])
    assert listed.rows() == ["a.png", "b.png", "s0.tar/0.png"]


def test_both_options_together_and_one_run_after_another(place) -> None:
    (place.archive / "s0.tar").unlink()
    (place.archive / "c.png").write_bytes(encoded(3, (9, 9)))
    (place.archive / "a.png").rename(place.archive / "d.png")
    assert place.score("--prune").returncode == 2
    assert place.score("--accept-changes", "--prune").returncode == 0
    assert place.rows() == sorted(["b.png", "c.png", "d.png", *SHARDS[2:]])
    assert place.verify() == (0, [])
    (place.archive / "b.png").unlink()
    assert place.score("--prune").returncode == 0
    assert place.changes() == [
        {"pruned": ["a.png", "s0.tar"], "changed": ["c.png"]},
        {"pruned": ["b.png"]},
    ]
    assert place.rows() == sorted(["c.png", "d.png", *SHARDS[2:]])


def test_a_shard_in_parts_goes_and_changes_as_a_whole(place, monkeypatch) -> None:
    monkeypatch.setattr(parquets, "PART_ROWS", 1)
    for name in ("p", "q"):
        table = pd.DataFrame({"path": [f"{k}.png" for k in range(3)], "image": [encoded()] * 3})
        table.to_parquet(place.archive / f"{name}.parquet", row_group_size=1)
    assert place.score().returncode == 0
    assert place.verify() == (0, [])
    (place.archive / "p.parquet").rename(place.archive / "r.parquet")
    table.iloc[:2].to_parquet(place.archive / "q.parquet", row_group_size=1)
    assert place.score("--accept-changes", "--prune").returncode == 0
    expected = [f"r.parquet/{k}.png" for k in range(3)] + [f"q.parquet/{k}.png" for k in range(2)]
    assert place.rows() == sorted(LOOSE + SHARDS + expected)
    assert place.verify() == (0, [])
    assert place.changes() == [{"pruned": ["p.parquet"], "changed": ["q.parquet"]}]


def test_tables_that_a_broken_off_clean_up_leaves(place, monkeypatch) -> None:
    """They are not in the plan: verification reports them, and --prune removes them."""
    (place.archive / "s0.tar").unlink()
    (place.archive / "b.png").unlink()

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("sdmad.scoring.tables.remove_units", killed)
        with pytest.raises(KilledError):
            place.score("--prune")
    code, shown = place.verify()
    assert code == 1
    assert shown == [
        *("  doubled: a.png", "  doubled: c.png"),
        *("  not of this archive: b.png",),
        *(f"  not of this archive: {name}" for name in SHARDS[:2]),
    ]
    ended = place.score("--prune")
    assert "removing the tables of 2 work units that are in no plan" in ended.stderr
    assert place.rows() == sorted(["a.png", "c.png", *SHARDS[2:]])
    assert place.verify() == (0, [])


def damaged_plan(place: Place) -> bytes:
    """A plan with a whole footer and damaged pages."""
    content = bytearray((place.output / "plan.parquet").read_bytes())
    column = pq.read_metadata(place.output / "plan.parquet").row_group(0).column(0)
    size = column.total_compressed_size
    content[4 : 4 + size] = b"\xff" * size
    return bytes(content)


@pytest.mark.parametrize("kind", ["text", "empty", "table", "columns", "damaged"])
def test_a_foreign_plan_is_one_sentence(place, kind) -> None:
    path = place.output / "plan.parquet"
    if kind == "table":
        pd.DataFrame({"x": [1]}).to_parquet(path)
    elif kind == "columns":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    elif kind == "damaged":
        path.write_bytes(damaged_plan(place))
    else:
        path.write_bytes(b"my own notes" * (kind == "text"))
    before = path.read_bytes()
    what = "is damaged; restore it" if kind == "damaged" else "is not the plan of a scoring run"
    places = (verify, "--archive", place.archive, "--scores", place.output)
    for ended in (place.score(), place.score("--prune"), run_command(*places)):
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error: {path} {what}")
        assert len(ended.stderr.splitlines()) == 1
        assert not ended.stdout
    assert path.read_bytes() == before
    assert place.rows() == sorted(LOOSE + SHARDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"job": "train_seeds"}), "holds the results of another job (train_seeds)"),
        (json.dumps({"seconds": 3}), "holds the results of another job (unknown)"),
        (json.dumps([1, 2]), "is not the record of a run"),
        ("notes", "is not the record of a run"),
        ("", "is not the record of a run"),
    ],
)
def test_a_record_of_another_job_is_one_sentence(place, content, message) -> None:
    path = place.output / "run.json"
    path.write_text(content)
    for options in ((), ("--prune",), ("--accept-changes",)):
        ended = place.score(*options)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert path.read_text() == content


def test_another_archive_is_refused(place, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(encoded())
    ended = Place(tmp_path / "other", place.output).score("--prune")
    assert ended.returncode == 2
    assert "holds scores with archive" in ended.stderr
    assert place.rows() == sorted(LOOSE + SHARDS)


def test_a_scorer_with_a_wrong_filter_is_caught(place, monkeypatch) -> None:
    """Its plan and its tables lack what it leaves out; verification names that."""
    members = {"x.webp": encoded(format="WEBP"), "y.png": encoded()}
    write_tar(place.archive / "w.tar", members)
    (place.archive / "z.webp").write_bytes(members["x.webp"])
    right = naming.is_sidecar
    monkeypatch.setattr(
        naming, "is_sidecar", lambda name: right(name) or name.lower().endswith(".webp")
    )
    assert place.score().returncode == 0
    assert place.verify() == (1, ["  lost: w.tar/x.webp", "  not scored yet: z.webp (1 image)"])


def test_a_scorer_that_drops_every_second_frame_is_caught(place, monkeypatch) -> None:
    films = {f"film.{form.lower()}": animation(form) for form in ("GIF", "PNG", "WEBP", "TIFF")}
    films["scan.dcm"] = saved(dataset(np.zeros((3, 8, 8), np.uint16)))
    write_tar(place.archive / "films.tar", films)
    (place.archive / "loose.gif").write_bytes(films["film.gif"])
    all_frames = decode.frames

    def every_second(content: bytes, *options: object):
        return (f for k, f in enumerate(all_frames(content, *options)) if k % 2 == 0)

    monkeypatch.setattr(decode, "frames", every_second)
    assert place.score().returncode == 0
    code, shown = place.verify()
    assert code == 1
    assert shown == [
        "  lost: loose.gif#frame=2",
        *(f"  lost: films.tar/{name}#frame=2" for name in sorted(films)),
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [("tars", "_is_link"), ("zips", "_is_image"), ("parquets", "_is_list")],
)
def test_a_reader_without_a_kind_of_member_is_caught(place, monkeypatch, module, name) -> None:
    write_tar(place.archive / "l.tar", {"a.png": encoded()})
    with tarfile.open(place.archive / "l.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    with zipfile.ZipFile(place.archive / "l.zip", "w") as archive:
        archive.writestr("z.png", encoded())
    pd.DataFrame({"image": [np.frombuffer(encoded(), np.uint8)]}).to_parquet(
        place.archive / "l.parquet"
    )
    monkeypatch.setattr(importlib.import_module(f"sdmad.archive.{module}"), name, lambda _: False)
    assert place.score().returncode == 0
    assert (
        place.verify()
        == {
            "tars": (1, ["  lost: l.tar/link.png"]),
            "zips": (1, ["  lost: l.zip/z.png"]),
            "parquets": (1, ["  lost: l.parquet/row=0"]),
        }[module]
    )
