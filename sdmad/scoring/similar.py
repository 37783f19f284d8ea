"""Search in activations: the images most like a query, and pairs of images that are nearly equal.

    search = Search.open("s3://bucket/odir-activations")
    search.nearest(search.of_texts(["cotton wool spots"]), top=50)
    search.duplicates(0.98)

Similarity is the cosine of frozen embeddings. Every image is compared, without an index. Memory
does not grow with their number.
"""

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdmad import storage
from sdmad.activations import Stored, from_arrow
from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.backbones.loading import Backbone, load_backbone
from sdmad.errors import UserError
from sdmad.scoring import tables
from sdmad.scoring.plan import read_plan
from sdmad.scoring.stored import check_complete

THREADS = 8
ROWS = 1024
BLOCK = 1 << 16
"""Images whose embeddings are in memory while all others pass: 128 MiB of 512 numbers."""
MOST_PAIRS = 10_000_000

Found = tuple[float, str]
"""A cosine and the URI of an image."""


@dataclass(frozen=True)
class Search:
    """Activations, the ids of their units and the backbone they were made with."""

    activations: str
    stored: Stored
    units: list[str]
    backbone: Backbone

    @staticmethod
    def open(activations: str, place: str | None = None) -> "Search":
        """`place` is where the weights of the backbone are now, if they have moved.

        Raises `UserError` if there are no activations, if they are incomplete, or if the backbone
        is not the one they were made with.
        """
        units, metadata = read_plan(activations, tables.ACTIVATIONS)
        stored = Stored.of(metadata, activations)
        check_complete(activations, units)
        config = stored.backbone
        if place is not None:
            config = stored.identity.moved(config, place)
        backbone = load_backbone(config)
        if difference := stored.identity.difference(backbone.identity):
            raise UserError(
                f"the activations {activations} were made with another backbone than {config}: "
                f"{difference}; give the backbone they were made with"
            )
        return Search(activations, stored, [unit.id for unit in units], backbone)

    def of_texts(self, texts: list[str]) -> np.ndarray:
        """Unit embeddings (Q, E) of texts."""
        return self.backbone.embed_texts(texts).cpu().numpy()

    def of_images(self, uris: list[str]) -> np.ndarray:
        """Unit embeddings (Q, E) of image files; `UserError` for one that cannot be decoded."""
        pixels = []
        for uri in uris:
            content = storage.read_file(storage.resolve(uri), "image")
            try:
                pixels.append(decode(content, self.stored.spec))
            except DecodeError as error:
                raise UserError(f"the image {uri} cannot be used: {error}") from None
        return self.backbone.embed_images(np.stack(pixels)).cpu().numpy()

    def nearest(self, query: np.ndarray, top: int) -> list[Found]:
        """The `top` images with the largest cosine with a query (E,), the largest first.

        Images with equal cosines are in the order of their URIs.
        """

        def of_unit(unit: str) -> list[Found]:
            best: list[Found] = []
            for uris, embeddings in self.batches(unit):
                cosines = embeddings @ query
                few = np.argsort(-cosines, kind="stable")[: top + 1]
                if len(few) > top:  # Equal cosines at the end are told apart by their URIs.
                    few = np.flatnonzero(cosines >= cosines[few[top - 1]])
                best = _first(best + [(float(cosines[k]), uris[k].as_py()) for k in few], top)
            return best

        best: list[Found] = []
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(of_unit, self.units):
                best = _first(best + found, top)
        return best

    def duplicates(self, above: float) -> pa.Table:
        """Pairs of images with a cosine of at least `above`: columns uri, other, cosine.

        The time grows with the square of the number of images. Raises `UserError` if there are more
        than `MOST_PAIRS`.
        """
        pairs: list[tuple[str, str, float]] = []
        for block_start, block_uris, block in self._blocks():
            start = 0
            for uris, embeddings in self._all():
                stop = start + len(uris)
                if stop > block_start:
                    # Images of the block that stand before the last row: (rows, columns).
                    cosines = embeddings @ block[: stop - block_start].T
                    for row, column in np.argwhere(cosines >= above):
                        # Each pair once: the row stands behind the image of the block.
                        if start + row > block_start + column:
                            cosine = float(cosines[row, column])
                            pairs.append((block_uris[column], uris[row].as_py(), cosine))
                if len(pairs) > MOST_PAIRS:
                    raise UserError(
                        f"more than {MOST_PAIRS:,} pairs have a cosine of {above:g} or more; give "
                        "a larger one"
                    )
                start = stop
        pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
        columns = list(zip(*pairs, strict=True)) if pairs else [(), (), ()]
        kinds = (pa.string(), pa.string(), pa.float32())
        arrays = [pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
        return pa.table(arrays, names=["uri", "other", "cosine"])

    def embeddings(self, uris: list[str]) -> np.ndarray:
        """Unit embeddings (N, E) of images by their URIs; NaN for an image that is not there.

        The names of all images are read, and the vectors of these alone.
        """
        wanted = pa.array(uris, pa.string())
        found: dict[str, np.ndarray] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for some in pool.map(lambda unit: dict(self._some(unit, wanted)), self.units):
                found |= some
        width = next(iter(found.values())).shape[-1] if found else 1
        return np.array([found.get(uri, np.full(width, np.nan)) for uri in uris]).reshape(-1, width)

    def _some(self, unit: str, wanted: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
        """The URIs and unit embeddings of those images of a unit that are wanted."""
        layout, tower = self.stored.layout, self.backbone.image
        with self._open(unit) as file:
            for group in range(file.num_row_groups):
                uris = file.read_row_group(group, ["uri"])["uri"].combine_chunks()
                rows = pc.indices_nonzero(pc.is_in(uris, wanted))
                if not len(rows):
                    continue
                columns = file.read_row_group(group, layout.embedding_columns).take(rows)
                found = layout.embeddings(
                    from_arrow(columns.combine_chunks()), tower, self.backbone.device
                )
                yield from zip(uris.take(rows).to_pylist(), found.cpu().numpy(), strict=True)

    def _blocks(self) -> Iterator[tuple[int, list[str], np.ndarray]]:
        """Blocks of images: the position of the first, URIs, and embeddings (n, E)."""
        position, names, parts = 0, [], []
        for uris, embeddings in self._all():
            names += uris.to_pylist()
            parts.append(embeddings)
            if len(names) >= BLOCK:
                yield position, names, np.concatenate(parts)
                position, names, parts = position + len(names), [], []
        if names:
            yield position, names, np.concatenate(parts)

    def _all(self) -> Iterator[tuple[pa.Array, np.ndarray]]:
        for unit in self.units:
            yield from self.batches(unit)

    def batches(self, unit: str) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """URIs and unit embeddings (n, E) of a unit, `ROWS` at a time."""
        layout, tower = self.stored.layout, self.backbone.image
        columns = ["uri", *layout.embedding_columns]
        with self._open(unit) as file:
            for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
                found = layout.embeddings(from_arrow(batch), tower, self.backbone.device)
                yield batch["uri"], found.cpu().numpy()

    @contextmanager
    def _open(self, unit: str) -> Iterator[pq.ParquetFile]:
        """The table of a unit; `UserError` if it is missing or damaged."""
        uri = storage.join(self.activations, tables.ACTIVATIONS, tables.part_name(unit))
        with (
            tables.readable(self.activations, tables.ACTIVATIONS, unit),
            storage.open_read(uri, 1 << 20) as stream,
        ):
            yield pq.ParquetFile(stream)


def _first(found: list[Found], top: int) -> list[Found]:
    return heapq.nsmallest(top, found, key=lambda one: (-one[0], one[1]))
