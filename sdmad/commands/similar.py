"""Find the images most like an image or a text, or images that are nearly equal.

sdmad similar --activations s3://bucket/odir-activations --text "cotton wool spots" --top 20
sdmad similar --activations s3://bucket/odir-activations --duplicates-above 0.98
"""

from typing import Annotated

import typer

from sdmad.runtime.cli import say


def similar(
    activations: Annotated[
        str, typer.Option(help="Activations (the --output of encode): path or s3:// URI.")
    ],
    image: Annotated[
        str | None, typer.Option(help="Image to compare with: path or s3:// URI.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text to compare with.")] = None,
    duplicates_above: Annotated[
        float | None,
        typer.Option(help="Instead: all pairs of images with at least this cosine.", min=0, max=1),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of images to list.", min=1)] = 50,
    output: Annotated[
        str | None, typer.Option(help="Parquet file to write the whole table to.")
    ] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="Checkpoint of the backbone. Default: as encoded.")
    ] = None,
) -> None:
    """Find the images most like an image or a text, or that are nearly equal.

    Similarity is the cosine of frozen embeddings; all images are compared.
    """
    import pyarrow as pa

    from sdmad import storage
    from sdmad.errors import UserError
    from sdmad.scoring.similar import Search
    from sdmad.storage import parquet
    from sdmad.words import counted

    if [image, text, duplicates_above].count(None) != 2:
        raise UserError("give one of --image, --text and --duplicates-above")
    search = Search.open(storage.resolve(activations), backbone_weights)
    if duplicates_above is not None:
        table = search.duplicates(duplicates_above)
    else:
        [query] = search.of_texts([text]) if text is not None else search.of_images([str(image)])
        found = search.nearest(query, top)
        table = pa.table(
            {
                "uri": pa.array([uri for _, uri in found], pa.string()),
                "cosine": pa.array([cosine for cosine, _ in found], pa.float32()),
            }
        )
    for row in table.slice(0, top).to_pylist():
        names = [row["uri"], *([row["other"]] if "other" in row else [])]
        say(f"{row['cosine']:z.4f}  {'  '.join(names)}")
    if duplicates_above is not None:
        pairs = counted(table.num_rows, "pair")
        say(f"{pairs} with a cosine of {duplicates_above:g} or more")
    if output is not None:
        target = storage.resolve(output)
        storage.write_bytes(target, parquet.encode(table))
        say(f"the table is at {target}")
