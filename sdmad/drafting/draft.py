"""Sign catalogs drafted by a language model behind any OpenAI-compatible endpoint.

The prompt is `prompt.md` beside this file. An answer counts only as a valid `sdmad.inputs.catalog`
that holds exactly the categories asked for and keeps the rules of the prompt; what is wrong with it
goes back to the model, a finite number of times.

    request = parse_request("chest X-ray", "effusion,nodule", signs_per_category=5)
    catalog = draft_catalog(request, Endpoint("some-model"), attempts=3)
    text = render_draft(catalog, request, "some-model", date.today())
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import openai
import yaml
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter

from sdmad import storage
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog, Name
from sdmad.inputs.validation import explain

HERE = Path(__file__).parent
ANSWER_LIMIT = 65_536
SENTENCE_LIMIT = 600
MOST_PROMPTS = 4
MOST_WORDS = 12
CONNECT_SECONDS = 10.0

FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
NEGATION = re.compile(r"\b(?:no|not|never|without|absent|absence|lack|lacks|lacking)\b", re.I)
CORRECTION = (
    "This answer cannot be used: {problem}. Answer again with the whole corrected catalog, "
    "as YAML only, by the same rules."
)


@dataclass(frozen=True)
class DraftRequest:
    """What a catalog is wanted for; `parse_request` makes one."""

    modality: str
    categories: tuple[str, ...]
    signs_per_category: int

    @property
    def name(self) -> str:
        """A catalog name made from the modality."""
        words = _slug(self.modality)
        return (words if words[:1].isalpha() else f"draft_{words}".rstrip("_"))[:64]


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and whether it ran into its limit of tokens."""

    text: str
    cut_off: bool = False


def parse_request(modality: str, categories: str, signs_per_category: int) -> DraftRequest:
    """A request from what the user typed; `categories` are names separated by commas.

    Raises `UserError` when the modality is empty or a category is no name, doubled or `normal`.
    """
    names = tuple(part.strip() for part in categories.split(",") if part.strip())
    if not modality.strip():
        raise UserError("the modality is empty; name the kind of image, e.g. chest X-ray")
    if not names:
        raise UserError("there are no categories; give names separated by commas")
    for name in names:
        try:
            TypeAdapter(Name).validate_python(name)
        except ValueError:
            raise UserError(
                f"the category {name!r} is not a name: lower case letters, digits and underscores, "
                f"as in {_slug(name) or 'pleural_effusion'}; the label table uses the same name"
            ) from None
    if len(set(names)) < len(names):
        raise UserError(f"a category is given twice: {', '.join(names)}")
    if "normal" in names:
        raise UserError("'normal' is not a category; every catalog describes it, leave it out")
    return DraftRequest(_sentence(modality), names, signs_per_category)


def check_output(uri: str, overwrite: bool) -> None:
    """Raise `UserError` unless a catalog can be written to `uri`.

    An existing file is an obstacle unless `overwrite`.
    """
    remote = storage.is_s3(uri)
    if "/" not in uri.removeprefix("s3://") if remote else Path(uri).is_dir():
        raise UserError(f"the output {uri} is a folder; give the name of a YAML file")
    storage.check_writable(uri if remote else str(Path(uri).parent))
    if not overwrite and storage.exists(uri):
        raise UserError(f"there is a file {uri} already; give another name or --overwrite")


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, by `OPENAI_API_KEY` and `OPENAI_BASE_URL`.

    `timeout` is in seconds, for one request; the client library repeats a failed one twice.
    Raises `UserError` when there is no key, no model, or the address is none.
    """

    def __init__(self, model: str | None, timeout: float = 300.0) -> None:
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        base = os.environ.get("OPENAI_BASE_URL", "").strip() or None
        if not self.key:
            raise UserError(
                "there is no API key; set OPENAI_API_KEY (to any word, if the endpoint needs none)"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("OPENAI_API_KEY has characters that no key has; set it again")
        if not model:
            raise UserError("there is no model; give --model or set OPENAI_MODEL")
        if base and not _is_address(base):
            raise UserError("OPENAI_BASE_URL is no address; it begins with http:// or https://")
        self.model = _sentence(model)
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

        Raises `UserError` when the endpoint cannot be reached, is late, refuses, or answers in
        another protocol.
        """
        try:
            completion = self.client.chat.completions.create(model=self.model, messages=messages)
            choice = completion.choices[0]
            text = (choice.message.content or "").encode("utf-8", "replace").decode()
            return Answer(text, choice.finish_reason == "length")
        except openai.APITimeoutError:
            raise UserError(
                f"{self.address} did not answer within {self.timeout:g} s; "
                "try again, or give more time with --timeout"
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
                f"{self.address} has no chat completions; "
                "check OPENAI_BASE_URL, which usually ends in /v1"
            )
        said = f": {_sentence(str(message).replace(self.key, '***'))}" if message else ""
        if status == 429:
            return f"{self.address} takes no more requests now; wait or check the quota{said}"
        return f"{self.address} fails with HTTP {status}{said}"


def draft_catalog(
    request: DraftRequest,
    endpoint: Endpoint,
    attempts: int,
    say: Callable[[str], None] = lambda line: None,
) -> Catalog:
    """Ask until an answer is a valid catalog; `say` hears why an answer was not.

    Raises `UserError` when none of `attempts` answers is valid, and what `Endpoint.ask` raises.
    """
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": render_prompt(request)}
    ]
    problem = ""
    for attempt in range(1, attempts + 1):
        answer = endpoint.ask(messages)
        try:
            return parse_answer(answer, request)
        except ValueError as error:
            problem = _sentence(str(error))
        say(f"answer {attempt} of at most {attempts} cannot be used: {problem}")
        messages += [
            {"role": "assistant", "content": answer.text[:ANSWER_LIMIT] or "(empty)"},
            {"role": "user", "content": CORRECTION.format(problem=problem)},
        ]
    raise UserError(
        f"{endpoint.model} gave no valid catalog in {attempts} attempts (the last one: {problem}); "
        "try again or another model"
    )


def render_prompt(request: DraftRequest) -> str:
    """The text of `prompt.md` for a request."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("prompt.md").render(
        modality=request.modality,
        categories=request.categories,
        signs_per_category=request.signs_per_category,
        most_prompts=MOST_PROMPTS,
        most_words=MOST_WORDS,
    )


def parse_answer(answer: Answer, request: DraftRequest) -> Catalog:
    """The catalog in an answer, code fences or not.

    Raises `ValueError` that tells the model, and people, what is wrong with it.
    """
    if answer.cut_off:
        raise ValueError("it was cut off at the limit of tokens; write fewer signs and prompts")
    if len(answer.text) > ANSWER_LIMIT:
        raise ValueError(f"it is longer than {ANSWER_LIMIT} characters")
    blocks = FENCED.findall(answer.text)
    try:
        content = yaml.safe_load(blocks[-1] if blocks else answer.text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping with the keys templates, signs, categories, normal")
    try:
        catalog = Catalog.model_validate(
            content | {"name": request.name, "modality": request.modality}
        )
    except ValueError as error:
        raise ValueError(explain(error)) from None
    problems = [*_category_problems(catalog, request), *_prompt_problems(catalog)]
    if problems:
        raise ValueError("; ".join(problems))
    return catalog


def _category_problems(catalog: Catalog, request: DraftRequest) -> Iterator[str]:
    listed = {**catalog.categories, "normal": catalog.normal}
    for name in request.categories:
        if name not in listed:
            yield f"the category {name} is missing"
    for name in catalog.categories:
        if name not in request.categories:
            yield f"the category {name} was not asked for"
    for name, category in listed.items():
        if len(category.signs) > request.signs_per_category:
            yield f"{name} lists more than {request.signs_per_category} signs"
    for (one, first), (other, second) in combinations(listed.items(), 2):
        common = set(first.signs) & set(second.signs)
        if other == "normal" and common:
            yield f"normal and {one} share the sign {min(common)}"
        elif set(first.signs) == set(second.signs):
            yield f"{one} and {other} list the same signs"


def _prompt_problems(catalog: Catalog) -> Iterator[str]:
    for template in catalog.templates:
        if set("{}") & set(template.replace("{}", "")):
            yield f"the template {template!r} has braces besides {{}}"
        if not template.isprintable():
            yield f"the template {template!r} is not one line of plain text"
    signs: dict[str, str] = {}
    for name, sign in catalog.signs.items():
        if len(sign.prompts) > MOST_PROMPTS:
            yield f"the sign {name} has more than {MOST_PROMPTS} prompts"
        for prompt in sign.prompts:
            other = signs.setdefault(prompt.lower(), name)
            if other != name:
                yield f"the prompt {prompt!r} stands under {other} and {name}"
            if not prompt.isprintable():
                yield f"the prompt {prompt!r} is not one line of plain text"
            if len(prompt.split()) > MOST_WORDS:
                yield f"the prompt {prompt!r} has more than {MOST_WORDS} words"
            if NEGATION.search(prompt):
                yield f"the prompt {prompt!r} is a negation"


def render_draft(catalog: Catalog, request: DraftRequest, model: str, day: date) -> str:
    """The YAML file of a draft, categories in the order of the request.

    Only the draft's own `sources` is written: a language model's citations may be invented.
    """
    content = {
        "name": catalog.name,
        "modality": catalog.modality,
        "templates": catalog.templates,
        "sources": [f"drafted by the language model {model}, {day}, not reviewed"],
        "signs": {name: {"prompts": sign.prompts} for name, sign in catalog.signs.items()},
        "categories": {
            name: {"signs": catalog.categories[name].signs} for name in request.categories
        },
        "normal": {"signs": catalog.normal.signs},
    }
    header = (
        f"# DRAFT of a sign catalog. Modality: {catalog.modality}\n"
        f"# Drafted by the language model {model} on {day}.\n"
        "# It must be reviewed by a reader of the speciality before use: strike signs that are\n"
        "# wrong or cannot be seen, add what is missing, give each category its source, then\n"
        "# replace this header and `sources`. docs/signs.md says what to check.\n"
    )
    body = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    return header + body


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _sentence(text: str) -> str:
    """One printable line of bounded length, from text that others wrote."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SENTENCE_LIMIT else f"{line[:SENTENCE_LIMIT]} ..."
