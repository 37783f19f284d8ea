"""Ask a language model through an OpenAI-compatible endpoint."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionMessageParam

from sdmad.drafting.text import one_line
from sdmad.errors import UserError

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """The text of the model; `cut_off` if it reached its token limit."""

    text: str
    cut_off: bool = False


class Endpoint:
    """A model at the endpoint in `OPENAI_BASE_URL`, with the key in `OPENAI_API_KEY`.

    `timeout` is in seconds per request; the client library retries a failed request twice. Raises
    `UserError` if there is no key or no model, or if the address is not a URL.
    """

    def __init__(self, model: str | None, timeout: float = 300.0) -> None:
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        base = os.environ.get("OPENAI_BASE_URL", "").strip() or None
        if not self.key:
            raise UserError(
                "there is no API key; set OPENAI_API_KEY (to any word if the endpoint needs none)"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError(
                "OPENAI_API_KEY has characters other than printable ASCII; set it again"
            )
        if not model:
            raise UserError("there is no model; give --model or set OPENAI_MODEL")
        if base and not _is_address(base):
            raise UserError("OPENAI_BASE_URL is not a URL; it must begin with http:// or https://")
        self.model = one_line(model)
        self.timeout = timeout
        self.client = openai.OpenAI(
            api_key=self.key,
            base_url=base,
            timeout=openai.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
        )
        url = self.client.base_url
        self.address = f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"

    def ask(self, messages: list[ChatCompletionMessageParam]) -> Answer:
        """The model's answer to a conversation.

        Raises `UserError` if the endpoint cannot be reached, does not answer in time, refuses the
        request, or answers in another protocol.
        """
        try:
            completion = self.client.chat.completions.create(model=self.model, messages=messages)
            choice = completion.choices[0]
            text = (choice.message.content or "").encode("utf-8", "replace").decode()
            return Answer(text, choice.finish_reason == "length")
        except openai.APITimeoutError:
            raise UserError(
                f"{self.address} did not answer within {self.timeout:g} s; "
                "try again, or allow more time with --timeout"
            ) from None
        except openai.APIConnectionError:
            raise UserError(
                f"{self.address} cannot be reached; check OPENAI_BASE_URL and the network"
            ) from None
        except openai.APIStatusError as error:
            raise UserError(self._refusal(error)) from None
        except (openai.OpenAIError, ValueError, AttributeError, IndexError, TypeError):
            raise UserError(
                f"{self.address} does not answer like an OpenAI-compatible endpoint; "
                "check OPENAI_BASE_URL, which usually ends in /v1"
            ) from None

    def _refusal(self, error: openai.APIStatusError) -> str:
        status, body = error.status_code, error.body
        message = body.get("message") if isinstance(body, dict) else None
        if status in (401, 403):
            return (
                f"{self.address} refuses the key for the model {self.model!r} (HTTP {status}); "
                "check OPENAI_API_KEY and its permissions"
            )
        if status == 404 and message:
            return f"{self.address} has no model {self.model!r}; check --model or OPENAI_MODEL"
        if status == 404:
            return (
                f"{self.address} has no chat completions API; "
                "check OPENAI_BASE_URL, which usually ends in /v1"
            )
        said = f": {one_line(str(message).replace(self.key, '***'))}" if message else ""
        if status == 429:
            return f"{self.address} accepts no more requests now; wait or check the quota{said}"
        return f"{self.address} fails with HTTP {status}{said}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
