"""Let a language model draft a sign catalog, for a reader of the speciality to review.

Any OpenAI-compatible endpoint: OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL.

sdmad write-signs --modality "chest X-ray" --categories "effusion,cardiomegaly,nodule" \\
        --output chest.yaml
"""

from typing import Annotated

import typer


def write_signs(
    modality: Annotated[str, typer.Option(help="The kind of image, e.g. chest X-ray.")],
    categories: Annotated[
        str, typer.Option(help="Anomaly categories as in the label table, separated by commas.")
    ],
    output: Annotated[str, typer.Option(help="The YAML file to write, a path or s3:// URI.")],
    model: Annotated[
        str | None, typer.Option(help="The language model.", envvar="OPENAI_MODEL")
    ] = None,
    signs_per_category: Annotated[
        int, typer.Option(help="Most signs of a category, and of normal.", min=1, max=20)
    ] = 6,
    attempts: Annotated[
        int, typer.Option(help="Answers to ask for until one is valid.", min=1, max=10)
    ] = 3,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for one answer, each try.", min=0.1)
    ] = 300.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Draft a sign catalog and write it as YAML; a person must review it before use."""
    from datetime import UTC, datetime

    from sdmad.runtime.cli import require_extra

    require_extra("openai", extra="drafting")

    from sdmad import storage
    from sdmad.drafting.draft import draft_catalog, render_draft
    from sdmad.drafting.endpoint import Endpoint
    from sdmad.drafting.request import check_output, parse_request

    request = parse_request(modality, categories, signs_per_category)
    endpoint = Endpoint(model, timeout)
    target = storage.resolve(output)
    check_output(target, overwrite)
    typer.echo(f"asking {endpoint.model} for signs of {', '.join(request.categories)}")
    catalog = draft_catalog(request, endpoint, attempts, typer.echo)
    today = datetime.now(UTC).date()
    storage.write_bytes(target, render_draft(catalog, request, endpoint.model, today).encode())
    typer.echo(f"drafted {len(catalog.signs)} signs; review {target} before use (docs/signs.md)")
