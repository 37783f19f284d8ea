import pytest

from sdmad import storage
from sdmad.errors import UserError
from sdmad.scoring.plan import make_plan, read_plan
from sdmad.scoring.tables import commit_unit, empty_failures
from tests.helpers import encoded, write_tar


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for k in range(3):
        write_tar(folder / f"s{k}.tar", {"1.png": encoded(k)})
    return str(folder), str(tmp_path / "out")


def metadata(archive: str) -> dict[str, str]:
    return {"archive": archive, "detector": "d1", "per_seed": "false"}


def commit(output: str, unit: str) -> None:
    commit_unit(output, unit, empty_failures(), empty_failures(), {})


def test_a_plan_is_kept_and_finished_units_are_skipped(place) -> None:
    archive, output = place
    first = make_plan(archive, output, metadata(archive))
    assert [u.archive for u in first.todo] == ["s0.tar", "s1.tar", "s2.tar"]
    commit(output, first.units[1].id)
    second = make_plan(archive, output, metadata(archive))
    assert second.units == first.units
    assert [u.archive for u in second.todo] == ["s0.tar", "s2.tar"]


def test_new_shards_are_added_at_the_end(place, tmp_path) -> None:
    archive, output = place
    first = make_plan(archive, output, metadata(archive))
    for unit in first.units:
        commit(output, unit.id)
    write_tar(tmp_path / "archive" / "a-new.tar", {"1.png": encoded()})
    second = make_plan(archive, output, metadata(archive))
    assert second.units[:3] == first.units
    assert [u.archive for u in second.todo] == ["a-new.tar"]
    assert read_plan(output)[0] == second.units


def test_new_loose_objects_become_new_units_and_leave_old_units_unchanged(tmp_path) -> None:
    archive, output = str(tmp_path / "archive"), str(tmp_path / "out")
    for name in ("b", "d"):
        storage.write_bytes(f"{archive}/{name}.png", encoded())
    first = make_plan(archive, output, metadata(archive))
    commit(output, first.units[0].id)
    for name in ("a", "c"):
        storage.write_bytes(f"{archive}/{name}.png", encoded())
    second = make_plan(archive, output, metadata(archive))
    assert [[storage.name(e.uri) for e in u.objects] for u in second.todo] == [["a.png", "c.png"]]


def test_a_changed_object_is_refused(place, tmp_path) -> None:
    archive, output = place
    make_plan(archive, output, metadata(archive))
    write_tar(tmp_path / "archive" / "s1.tar", {"1.png": encoded(), "2.png": encoded()})
    with pytest.raises(UserError, match=r"s1.tar has changed since it was planned"):
        make_plan(archive, output, metadata(archive))


def test_a_missing_object_is_refused_unless_it_was_scored(place, tmp_path) -> None:
    archive, output = place
    plan = make_plan(archive, output, metadata(archive))
    commit(output, plan.units[0].id)
    (tmp_path / "archive" / "s0.tar").unlink()
    assert len(make_plan(archive, output, metadata(archive)).todo) == 2
    (tmp_path / "archive" / "s1.tar").unlink()
    with pytest.raises(UserError, match="disappeared before it was scored"):
        make_plan(archive, output, metadata(archive))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("detector", "d2", "holds scores with detector d1, but this run has d2"),
        ("per_seed", "true", "per-seed false"),
        ("archive", "/elsewhere", "choose another output, or the same archive"),
    ],
)
def test_an_output_belongs_to_one_archive_and_one_detector(place, key, value, message) -> None:
    archive, output = place
    make_plan(archive, output, metadata(archive))
    with pytest.raises(UserError, match=message):
        make_plan(archive, output, metadata(archive) | {key: value})


def test_an_archive_without_images_is_refused(tmp_path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "readme.txt").write_text("nothing here")
    with pytest.raises(UserError, match="there are no images"):
        make_plan(str(tmp_path / "archive"), str(tmp_path / "out"), metadata("x"))


@pytest.mark.parametrize("where", ["local", "s3"])
def test_two_runs_that_start_together_share_one_plan(where, s3, tmp_path, monkeypatch) -> None:
    """The slower run, with the older listing, adopts the units of the faster run."""
    base = str(tmp_path) if where == "local" else f"{s3}/race-{tmp_path.name}"
    archive, output = f"{base}/a", f"{base}/out"
    identity = metadata(archive)
    storage.write_bytes(f"{archive}/2.png", b"2")
    original, faster = storage.replace, []

    def overtaken(uri: str, content: bytes, before: object) -> bool:
        if not faster:
            faster.append(None)
            storage.write_bytes(f"{archive}/1.png", b"1")
            faster[0] = make_plan(archive, output, identity)
        return original(uri, content, before)

    monkeypatch.setattr(storage, "replace", overtaken)
    slower = make_plan(archive, output, identity)
    assert slower.units == faster[0].units
    assert [len(unit.objects) for unit in slower.units] == [2]
