import json

import pytest
import typer
from typer.testing import CliRunner

from sdmad.commands.plan import plan
from sdmad.scoring.capacity import Archive, Cluster, Pace, estimate

ARCHIVE = Archive(images=10_000_000, bytes_per_image=250_000, images_per_object=1000)
PACE = Pace(read=0.001, decode=0.005, model=0.002, driver=0.00001, commit=0.05)
CLUSTER = Cluster(cores=60, detectors=4, gigabits=10, dollars=6, start_minutes=6)


def test_the_part_that_needs_most_hours_is_the_limit() -> None:
    found = estimate(ARCHIVE, PACE, CLUSTER)
    assert found.hours_alone["readers"] == pytest.approx(1e7 * 0.006 / 60 / 3600)
    assert found.hours_alone["detectors"] == pytest.approx(1e7 * 0.002 / 4 / 3600)
    assert found.hours_alone["network"] == pytest.approx(1e7 * 250_000 * 8 / 1e10 / 3600)
    assert found.hours_alone["driver"] == pytest.approx((1e7 * 0.00001 + 1e4 * 0.05) / 3600)
    assert found.limit == "detectors"
    assert found.hours == pytest.approx(found.hours_alone["detectors"] + 0.1)
    assert found.node_dollars == pytest.approx(6 * found.hours)
    assert found.images_per_second == pytest.approx(1e7 / 3600 / found.hours)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({"detectors": 64}, "network"), ({"detectors": 64, "gigabits": 100}, "readers")],
)
def test_a_larger_cluster_moves_the_limit(changes, limit) -> None:
    assert estimate(ARCHIVE, PACE, CLUSTER.model_copy(update=changes)).limit == limit


def test_requests_and_bytes() -> None:
    found = estimate(ARCHIVE, PACE, CLUSTER)
    # A shard of 250 MB is read in 60 blocks of 4 MiB.
    assert found.get_requests == 10_000 * 60
    assert found.put_requests == 2 * 10_000
    assert found.list_requests == 10
    assert found.gigabytes == 2500
    assert found.request_dollars == pytest.approx(0.6e6 * 4e-7 + 20_010 * 5e-6)


def test_loose_objects_are_read_one_by_one_in_units_of_256() -> None:
    loose = Archive(images=256_000, bytes_per_image=1e5, images_per_object=1)
    found = estimate(loose, PACE, CLUSTER)
    assert found.get_requests == 256_000
    assert found.put_requests == 2 * 1000


def record(**changes: object) -> dict[str, object]:
    seconds = {"list": 1.0, "read": 2.0, "decode": 4.0, "model": 8.0, "write": 0.5}
    made = {"images": 900, "failures": 100, "units_scored": 5, "driver_cpu_seconds": 0.2}
    return made | {"stage_seconds": seconds} | changes


def test_the_pace_of_a_run_is_busy_time_per_image_and_per_unit() -> None:
    assert Pace.of_run(record()) == Pace(
        read=0.002, decode=0.004, model=0.008, driver=0.0002, commit=0.1
    )


@pytest.mark.parametrize("changes", [{"images": 0, "failures": 0}, {"stage_seconds": None}])
def test_an_unfinished_run_has_no_pace(changes) -> None:
    with pytest.raises(ValueError, match="not finished"):
        Pace.of_run(record(**changes))


def run(*arguments: str) -> tuple[str, BaseException | None]:
    app = typer.Typer()
    app.command()(plan)
    asked = ["--images", "1e7", "--kilobytes", "250", "--cores", "60", "--detectors", "4"]
    result = CliRunner().invoke(app, [*asked, *arguments])
    return result.output, result.exception


@pytest.fixture
def record_uri(tmp_path) -> str:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record()))
    return str(path)


def test_the_command_prints_limit_hours_and_cost(record_uri) -> None:
    output, error = run("--gigabits", "10", "--run", record_uri, "--dollars", "6")
    assert error is None
    assert "detectors  alone" in output
    assert output.count("<- the limit") == 1
    assert "600,000 GET" in output
    # 10 million images at 8 ms on four detectors: 20,000 s.
    assert "5.64 including 5 minutes" in output
    assert "34 $ for nodes" in output


def test_without_a_price_only_requests_are_costed() -> None:
    output, _ = run("--gigabits", "10", *PACED)
    assert "$ for nodes" not in output
    assert "0.34 $ for requests" in output


def test_given_milliseconds_replace_those_of_the_run(record_uri) -> None:
    output, _ = run("--gigabits", "10", "--run", record_uri, "--model-ms", "0.1")
    assert "read 2 ms, decode 4 ms, model 0.1 ms" in output


def test_the_pace_of_the_driver_can_be_given(record_uri) -> None:
    given = ["--driver-ms", "0.5", "--commit-ms", "7"]
    output, _ = run("--gigabits", "10", "--run", record_uri, *given)
    assert "driver 0.5 ms, and 7 ms per work unit" in output


PACED = ["--read-ms", "1", "--decode-ms", "1", "--model-ms", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gigabits", "1"], "give --run, or --read-ms"),
        (["--gigabits", "0", *PACED], "gigabits: Input should be greater than 0"),
        (["--gigabits", "1", *PACED, "--read-ms", "0"], "read: Input should be greater than 0"),
        (["--gigabits", "1", "--run", "nowhere.json"], "there is no run.json"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message) -> None:
    _, error = run(*arguments)
    assert message in str(error)
