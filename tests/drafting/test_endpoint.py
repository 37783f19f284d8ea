import pytest

from sdmad.drafting.endpoint import Endpoint
from sdmad.errors import UserError
from tests.drafting import GOOD, KEY, Reply, refusal, serve


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OPENAI_API_KEY", None, "there is no API key; set OPENAI_API_KEY"),
        ("OPENAI_API_KEY", "sk-ü", "OPENAI_API_KEY has characters"),
        ("OPENAI_API_KEY", "sk-a\nb", "OPENAI_API_KEY has characters"),
        ("OPENAI_BASE_URL", "localhost:8000/v1", "OPENAI_BASE_URL is not a URL"),
        ("OPENAI_BASE_URL", "http://[", "OPENAI_BASE_URL is not a URL"),
        ("OPENAI_BASE_URL", "http://host:99999/v1", "OPENAI_BASE_URL is not a URL"),
    ],
)
def test_invalid_keys_and_addresses_are_refused(monkeypatch, name, value, message) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        Endpoint("m")
    assert value is None or value not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refusal(401, f"wrong key {KEY}"), "refuses the key for the model 'stub-model'"),
        (refusal(403, f"not with {KEY}"), "refuses the key.*HTTP 403"),
        (refusal(404, "no such model"), "has no model 'stub-model'"),
        (Reply(status=404, body={"detail": "Not Found"}), "has no chat completions"),
        (refusal(400, f"{KEY} sent\x1b[31m\na bad field"), r"HTTP 400: \*\*\* sent \[31m a bad"),
        (refusal(429, "quota is used up"), "no more requests now.*quota is used up"),
        (refusal(500, "out of memory"), "HTTP 500: out of memory"),
        (Reply(status=502, body=b"<html>"), "fails with HTTP 502$"),
        (Reply(body=b"<html>a portal</html>"), "does not answer like an OpenAI-compatible"),
        (Reply(body={"choices": []}), "does not answer like an OpenAI-compatible"),
        (Reply(body={"error": "no"}), "does not answer like an OpenAI-compatible"),
        (Reply(body={"choices": [{"message": {"content": 7}}]}), "does not answer like"),
    ],
)
def test_error_messages_do_not_contain_the_key(connect, reply, message) -> None:
    with serve(reply) as stub, pytest.raises(UserError, match=message) as caught:
        connect(stub).ask([{"role": "user", "content": "hello"}])
    assert KEY not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_request_to_a_busy_endpoint_is_repeated(connect) -> None:
    with serve(refusal(503, "busy"), Reply(GOOD)) as stub:
        answer = connect(stub).ask([{"role": "user", "content": "hello"}])
    assert answer.text == GOOD


def test_the_displayed_address_has_no_password(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:hunter2@host:8443/v1?token=hunter2")
    assert Endpoint("m").address == "https://host:8443/v1/"
