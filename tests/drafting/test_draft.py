import re
from datetime import date

import pytest
import yaml

from sdmad.drafting.draft import (
    ANSWER_LIMIT,
    MOST_PROMPTS,
    MOST_WORDS,
    draft_catalog,
    parse_answer,
    render_draft,
    render_prompt,
)
from sdmad.drafting.endpoint import Answer, Endpoint
from sdmad.drafting.request import DraftRequest, parse_request
from sdmad.errors import UserError
from sdmad.inputs.catalog import load_catalog, parse_catalog
from tests.drafting import GOOD, KEY, Reply, serve
from tests.helpers import ROOT

REQUEST = parse_request("chest X-ray", "effusion, cardiomegaly", 3)
INCOMPLETE = GOOD.replace("normal:\n  signs: [sharp_angles]\n", "")


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_valid_answer_becomes_a_catalog_that_loads(connect, tmp_path) -> None:
    with serve(Reply(GOOD)) as stub:
        catalog = draft_catalog(REQUEST, connect(stub), attempts=3)
    path = tmp_path / "chest.yaml"
    path.write_text(render_draft(catalog, REQUEST, "stub-model", date(2026, 3, 1)))
    loaded = load_catalog(str(path))
    assert loaded.name == "chest_x_ray"
    assert loaded.modality == "chest X-ray"
    assert loaded.category_names == ["effusion", "cardiomegaly"], "in the order of the request"
    assert loaded.membership[:, 0].all(), "blunted_angle is shared"
    assert loaded.signs == catalog.signs
    assert loaded.sources == ["drafted by the language model stub-model, 2026-03-01, not reviewed"]
    assert len(stub.requests) == 1
    assert stub.keys == [f"Bearer {KEY}"]
    assert stub.requests[0]["model"] == "stub-model"


@pytest.mark.parametrize(
    "text",
    [
        f"```yaml\n{GOOD}```",
        f"```\n{GOOD}\n```\n",
        f"Here is the catalog:\n\n```yaml\n{GOOD}```\nAsk me for changes.",
        f"```yaml\n{GOOD}",
        f"First I thought of\n```yaml\nsigns: {{}}\n```\nbut no:\n```yaml\n{GOOD}```",
    ],
    ids=["yaml", "plain", "prose", "not closed", "the last of two"],
)
def test_code_fences_are_accepted(text) -> None:
    assert parse_answer(Answer(text), REQUEST) == parse_answer(Answer(GOOD), REQUEST)


def test_the_problem_is_sent_to_the_model(connect) -> None:
    heard: list[str] = []
    with serve(Reply(INCOMPLETE), Reply(GOOD)) as stub:
        draft_catalog(REQUEST, connect(stub), attempts=3, say=heard.append)
    first, second = (request["messages"] for request in stub.requests)
    assert second[:1] == first
    assert second[1] == {"role": "assistant", "content": INCOMPLETE}
    assert second[2]["role"] == "user"
    assert "the key 'normal' is missing" in second[2]["content"]
    assert len(heard) == 1
    assert "the key 'normal' is missing" in heard[0]


def test_attempts_are_limited_and_the_error_has_the_last_problem(connect) -> None:
    with (
        serve(Reply(GOOD.upper()), Reply(INCOMPLETE)) as stub,
        pytest.raises(UserError, match=r"stub-model gave .* in 3 attempts.*'normal' is missing"),
    ):
        draft_catalog(REQUEST, connect(stub), attempts=3)
    assert len(stub.requests) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a mapping"),
        ("I cannot help with that.", "not a mapping"),
        ("signs: [a, b", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("day: 2026-99-99", "not valid YAML"),
        ("[" * 20_000, "not valid YAML"),
        ("# " + "x" * ANSWER_LIMIT + "\n" + GOOD, "longer than 65536 characters"),
        (GOOD + "treatment: rest\n", "unknown key 'treatment'"),
        (changed("[sharp_angles]", "[sharp]"), "normal lists the sign 'sharp'"),
        (changed("  effusion:", "  pleural_effusion:"), "the category effusion is missing"),
        (changed("  effusion:", "  pleural_effusion:"), "pleural_effusion was not asked for"),
        (
            changed(
                "[blunted_angle, dense_base]", "[blunted_angle, dense_base, large_heart, a]"
            ).replace("signs:\n  bl", "signs:\n  a: {prompts: [an a]}\n  bl", 1),
            "effusion lists more than 3 signs",
        ),
        (
            changed("[sharp_angles]", "[sharp_angles, dense_base]"),
            "normal and effusion share the sign dense_base",
        ),
        (
            changed("[large_heart, blunted_angle]", "[dense_base, blunted_angle]").replace(
                "[sharp_angles]", "[sharp_angles, large_heart]"
            ),
            "cardiomegaly and effusion list the same signs",
        ),
        (changed("showing {}", "showing {} {0}"), "has braces besides {}"),
        (changed("[sharp costophrenic angles]", "[a, b, c, d, e]"), "more than 4 prompts"),
        (
            changed("[sharp costophrenic angles]", "[A blunted costophrenic angle]"),
            "is listed under both blunted_angle and sharp_angles",
        ),
        (changed("[sharp cost", '["\\e[31m", sharp cost'), "is not one line of plain text"),
        (changed("a chest radiograph", '"a\\x85chest').replace("{}", '{}"'), "plain text"),
        (changed("sharp costophrenic", "very " * 12 + "sharp"), "more than 12 words"),
        (changed("sharp costophrenic angles", "lungs without effusion"), "is a negation"),
        (changed("sharp costophrenic angles", "No effusion"), "is a negation"),
    ],
)
def test_invalid_answers_are_refused_with_the_problem(text, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_answer(Answer(text), REQUEST)


def test_an_answer_that_was_cut_off_is_requested_again(connect) -> None:
    with serve(Reply(GOOD, finish_reason="length"), Reply(GOOD)) as stub:
        draft_catalog(REQUEST, connect(stub), attempts=2)
    assert "cut off at the token limit" in stub.requests[1]["messages"][-1]["content"]


def test_an_empty_answer_is_requested_again(connect) -> None:
    with serve(Reply(None), Reply(GOOD)) as stub:
        draft_catalog(REQUEST, connect(stub), attempts=2)
    assert stub.requests[1]["messages"][1]["content"], "endpoints refuse empty messages"


def test_citations_of_the_model_are_left_out() -> None:
    text = GOOD.replace("signs: [sharp_angles]", "signs: [sharp_angles]\n  source: Smith 1999")
    catalog = parse_answer(Answer("sources: [Jones 2001]\n" + text), REQUEST)
    draft = render_draft(catalog, REQUEST, "m", date(2026, 3, 1))
    assert "Smith" not in draft
    assert "Jones" not in draft


def test_the_header_says_what_a_draft_is() -> None:
    catalog = parse_answer(Answer(GOOD), REQUEST)
    draft = render_draft(catalog, REQUEST, "stub-model", date(2026, 3, 1))
    header = [line for line in draft.splitlines() if line.startswith("#")]
    for part in ("chest X-ray", "stub-model", "2026-03-01", "language model", "must be reviewed"):
        assert part in " ".join(header)


def test_line_breaks_in_options_cannot_add_keys_to_the_file(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint("m\nevil: 1")
    request = parse_request("chest\nevil: 1\u2028evil: 2", "effusion,cardiomegaly", 3)
    catalog = parse_answer(Answer(GOOD), request)
    draft = render_draft(catalog, request, endpoint.model, date(2026, 3, 1))
    assert "evil" not in yaml.safe_load(draft)


def test_the_prompt_states_the_rules_that_answers_are_checked_for() -> None:
    prompt = render_prompt(REQUEST)
    for part in (
        "    chest X-ray\n",
        "- effusion\n- cardiomegaly\n",
        "at most 3 signs",
        f"{MOST_PROMPTS} at most for each sign",
        f"At most {MOST_WORDS} words",
        "visible",
        "several categories show",
        "Normal has signs",
        "No negations",
        "No treatment, no patient history",
    ):
        assert part in prompt


def test_the_example_in_the_prompt_is_a_valid_answer() -> None:
    request = DraftRequest("knee radiograph", ("osteoarthritis", "fracture"), 3)
    catalog = parse_answer(Answer(render_prompt(request)), request)
    assert catalog.membership.sum(axis=0).max() == 2, "a sign is shared"


def test_the_catalog_in_the_documentation_is_valid() -> None:
    page = (ROOT / "docs/signs.md").read_text()
    example = next(block for block in page.split("\n\n") if block.startswith("    name:"))
    parse_catalog(yaml.safe_load(example), "docs/signs.md")


def test_characters_that_cannot_be_encoded_are_replaced(connect) -> None:
    with serve(Reply("a: \ud800"), Reply(GOOD)) as stub:
        draft_catalog(REQUEST, connect(stub), attempts=2)
    assert stub.requests[1]["messages"][1]["content"] == "a: ?"
