"""Draft a sign catalog with a language model, for review by an expert.

sdmad write-signs --modality "chest X-ray" --categories "effusion,cardiomegaly,nodule" \\
        --output chest.yaml
"""

from typing import Annotated

import typer

from sdmad.runtime.cli import say


def write_signs(
    modality: Annotated[str, typer.Option(help="Kind of image, e.g. chest X-ray.")],
    categories: Annotated[
        str, typer.Option(help="Anomaly categories as in the label table, separated by commas.")
    ],
    output: Annotated[str, typer.Option(help="YAML file to write: path or s3:// URI.")],
    model: Annotated[
        str | None, typer.Option(help="Name of the language model.", envvar="OPENAI_MODEL")
    ] = None,
    signs_per_category: Annotated[
        int, typer.Option(help="Most signs for each category and for normal.", min=1, max=20)
    ] = 6,
    attempts: Annotated[
        int, typer.Option(help="Most answers to ask for until one is valid.", min=1, max=10)
    ] = 3,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 300.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it exists.")
    ] = False,
) -> None:
    """Draft a sign catalog with a language model, for review by an expert.

    Needs OPENAI_API_KEY; OPENAI_BASE_URL selects another OpenAI-compatible
    endpoint. An expert must review the catalog before use.
    """
    from datetime import UTC, datetime

    from sdmad.runtime.cli import require_extra

    require_extra("openai", extra="drafting")

    from sdmad import storage
    from sdmad.drafting.draft import draft_catalog, render_draft
    from sdmad.drafting.endpoint import Endpoint
    from sdmad.drafting.request import check_output, parse_request
    from sdmad.words import counted

    request = parse_request(modality, categories, signs_per_category)
    endpoint = Endpoint(model, timeout)
    target = storage.resolve(output)
    check_output(target, overwrite)
    say(f"asking {endpoint.model} for the signs of {', '.join(request.categories)}")
    catalog = draft_catalog(request, endpoint, attempts, say)
    today = datetime.now(UTC).date()
    storage.write_bytes(target, render_draft(catalog, request, endpoint.model, today).encode())
    signs = counted(len(catalog.signs), "sign")
    say(f"wrote {signs} to {target}; review them first (docs/signs.md)")
