"""`sdmad write-signs` against a stub endpoint: the file written, and error messages."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest

from sdmad.commands.write_signs import write_signs as command
from sdmad.inputs.catalog import load_catalog
from tests.drafting import GOOD, KEY, Reply, Stub, refusal, serve
from tests.helpers import Ended, run_command, run_job

WANTED = ("--modality", "chest X-ray", "--categories", "effusion,cardiomegaly", "--output")


def write_signs(output: Path, environment: dict[str, str], *options: str) -> Ended:
    """Run the command with the OPENAI_ variables of `environment` only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    with mock.patch.dict(os.environ, kept | environment, clear=True):
        return run_command(command, *WANTED, output, *options)


def expect_error(result: Ended, output: Path, *parts: str) -> None:
    """Expect one sentence, exit code 2, no file written, and the key in no output."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert KEY not in result.stdout + result.stderr
    assert not list(output.parent.iterdir()), "nothing is written"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "chest.yaml"


def test_a_draft_is_written_with_a_header_that_asks_for_review(output) -> None:
    with serve(Reply(f"```yaml\n{GOOD}```")) as stub:
        result = write_signs(output, stub.environment)
    assert result.returncode == 0, result.stderr
    assert "review" in result.stdout
    assert load_catalog(str(output)).category_names == ["effusion", "cardiomegaly"]
    header = "\n".join(line for line in output.read_text().splitlines() if line.startswith("#"))
    today = datetime.now(UTC).date().isoformat()
    for part in ("chest X-ray", "stub-model", today, "language model", "must be reviewed"):
        assert part in header


def test_the_option_takes_precedence_over_the_environment(output) -> None:
    with serve(Reply(GOOD)) as stub:
        write_signs(output, stub.environment, "--model", "another")
    assert stub.requests[0]["model"] == "another"
    assert "another" in output.read_text()


def test_an_invalid_answer_is_corrected_in_the_conversation(output) -> None:
    with serve(Reply("sorry: no"), Reply(GOOD)) as stub:
        result = write_signs(output, stub.environment)
    assert result.returncode == 0, result.stderr
    assert "the key 'signs' is missing" in stub.requests[1]["messages"][-1]["content"]
    assert "the key 'signs' is missing" in result.stdout


def test_answers_that_are_never_valid(output) -> None:
    with serve(Reply(GOOD.replace("  effusion:", "  oedema:"))) as stub:
        result = write_signs(output, stub.environment, "--attempts", "2")
    expect_error(result, output, "2 attempts", "the category effusion is missing", "oedema")
    assert len(stub.requests) == 2


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), ["refuses the key", "401"]),
        (refusal(404, "The model does not exist"), ["has no model 'stub-model'", "--model"]),
    ],
    ids=["unauthorised", "unknown model"],
)
def test_refusals(output, reply, parts) -> None:
    with serve(reply) as stub:
        expect_error(write_signs(output, stub.environment), output, *parts)


def test_an_endpoint_that_answers_too_late(output) -> None:
    with serve(Reply(GOOD, delay=2.0)) as stub:
        result = write_signs(output, stub.environment, "--timeout", "0.3")
    expect_error(result, output, "did not answer within 0.3 s", "--timeout")


def test_an_endpoint_that_is_not_there(output) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = Stub(f"http://127.0.0.1:{probe.getsockname()[1]}/v1")
        result = write_signs(output, nowhere.environment)
    expect_error(result, output, nowhere.url, "cannot be reached", "OPENAI_BASE_URL")


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ("OPENAI_API_KEY", ["there is no API key", "OPENAI_API_KEY"]),
        ("OPENAI_MODEL", ["there is no model", "--model", "OPENAI_MODEL"]),
    ],
)
def test_missing_key_and_model_are_reported(output, missing, parts) -> None:
    with serve(Reply(GOOD)) as stub:
        result = write_signs(output, stub.environment | {missing: ""})
    expect_error(result, output, *parts)
    assert not stub.requests


def test_an_existing_file_is_kept_without_asking_the_model(output) -> None:
    output.write_text("precious")
    with serve(Reply(GOOD)) as stub:
        result = write_signs(output, stub.environment)
        assert result.returncode == 2
        assert "--overwrite" in result.stderr
        assert output.read_text() == "precious"
        assert not stub.requests
        assert write_signs(output, stub.environment, "--overwrite").returncode == 0
    assert load_catalog(str(output)).name == "chest_x_ray"


@pytest.mark.parametrize("reply", [Reply(GOOD), refusal(500, f"failed with {KEY}")])
def test_the_key_stays_out_of_the_librarys_log(output, reply, monkeypatch) -> None:
    """In a process of its own: the library reads OPENAI_LOG when it is imported."""
    with serve(reply) as stub:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OPENAI_LOG", "debug")
        result = run_job("write_signs", *WANTED, output)
    assert stub.keys[0] == f"Bearer {KEY}"
    assert "DEBUG" in result.stderr
    assert KEY not in result.stdout + result.stderr
    assert not output.exists() or KEY not in output.read_text()
