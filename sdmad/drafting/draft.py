"""Draft a sign catalog with a language model.

    request = parse_request("chest X-ray", "effusion,nodule", signs_per_category=5)
    catalog = draft_catalog(request, Endpoint("some-model"), attempts=3)
    text = render_draft(catalog, request, "some-model", date.today())

The prompt is `prompt.md` in this folder. An answer is accepted if it is a valid catalog
(`sdmad.inputs.catalog`), has exactly the requested categories and keeps the rules of the prompt.
Otherwise the model gets the problem and answers again, a limited number of times.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date
from itertools import combinations
from pathlib import Path

import jinja2
import yaml
from openai.types.chat import ChatCompletionMessageParam

from sdmad.drafting.endpoint import Answer, Endpoint
from sdmad.drafting.request import DraftRequest
from sdmad.drafting.text import one_line
from sdmad.errors import UserError
from sdmad.inputs.catalog import Catalog
from sdmad.inputs.validation import explain

HERE = Path(__file__).parent
ANSWER_LIMIT = 65_536
MOST_PROMPTS = 4
MOST_WORDS = 12

FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
NEGATION = re.compile(r"\b(?:no|not|never|without|absent|absence|lack|lacks|lacking)\b", re.I)
CORRECTION = (
    "This answer cannot be used: {problem}. Answer again with the whole corrected catalog, "
    "as YAML only, by the same rules."
)


def draft_catalog(
    request: DraftRequest,
    endpoint: Endpoint,
    attempts: int,
    say: Callable[[str], None] = lambda line: None,
) -> Catalog:
    """Ask until an answer is a valid catalog; `say` gets the problem of each invalid answer.

    Raises `UserError` if none of `attempts` answers is valid, and what `Endpoint.ask` raises.
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
            problem = one_line(str(error))
        say(f"answer {attempt} of at most {attempts} cannot be used: {problem}")
        messages += [
            {"role": "assistant", "content": answer.text[:ANSWER_LIMIT] or "(empty)"},
            {"role": "user", "content": CORRECTION.format(problem=problem)},
        ]
    raise UserError(
        f"{endpoint.model} gave no valid catalog in {attempts} attempts (last problem: {problem}); "
        "try again or use another model"
    )


def render_prompt(request: DraftRequest) -> str:
    """The prompt for a request, from the template `prompt.md`."""
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
    """The catalog in an answer, with or without code fences.

    Raises `ValueError` with the problems, in words for the model and the user.
    """
    if answer.cut_off:
        raise ValueError("it was cut off at the token limit; write fewer signs and prompts")
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
                yield f"the prompt {prompt!r} is listed under both {other} and {name}"
            if not prompt.isprintable():
                yield f"the prompt {prompt!r} is not one line of plain text"
            if len(prompt.split()) > MOST_WORDS:
                yield f"the prompt {prompt!r} has more than {MOST_WORDS} words"
            if NEGATION.search(prompt):
                yield f"the prompt {prompt!r} is a negation"


def render_draft(catalog: Catalog, request: DraftRequest, model: str, day: date) -> str:
    """The YAML file of a draft, with categories in the order of the request.

    Citations of the model are left out, because they may be invented. `sources` names the model.
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
        "# It must be reviewed by a reader of the speciality before use. Delete signs that are\n"
        "# wrong or not visible, add missing ones, and give each category its source. Then\n"
        "# replace this header and `sources`. docs/signs.md says what to check.\n"
    )
    body = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    return header + body
