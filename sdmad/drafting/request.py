"""Check what the user asks for: modality, categories and output file."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from sdmad import storage
from sdmad.drafting.text import one_line
from sdmad.errors import UserError
from sdmad.inputs.catalog import Name


@dataclass(frozen=True)
class DraftRequest:
    """The contents of the catalog to draft; `parse_request` checks them."""

    modality: str
    categories: tuple[str, ...]
    signs_per_category: int

    @property
    def name(self) -> str:
        """The name of the catalog, derived from the modality."""
        words = _slug(self.modality)
        return (words if words[:1].isalpha() else f"draft_{words}".rstrip("_"))[:64]


def parse_request(modality: str, categories: str, signs_per_category: int) -> DraftRequest:
    """A request from what the user typed; `categories` are names separated by commas.

    Raises `UserError` if the modality is empty, or if a category is not a valid name, is given
    twice or is `normal`.
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
                f"the category {name!r} is not a valid name; use lower-case letters, digits and "
                f"underscores, as in {_slug(name) or 'pleural_effusion'}, also in the label table"
            ) from None
    if len(set(names)) < len(names):
        raise UserError(f"a category is given twice: {', '.join(names)}")
    if "normal" in names:
        raise UserError("'normal' is not a category; every catalog describes it, so leave it out")
    return DraftRequest(one_line(modality), names, signs_per_category)


def check_output(uri: str, overwrite: bool) -> None:
    """Raise `UserError` if a catalog cannot be written to `uri`, or would replace a file.

    With `overwrite`, replacing a file is allowed.
    """
    remote = storage.is_s3(uri)
    if "/" not in uri.removeprefix("s3://") if remote else Path(uri).is_dir():
        raise UserError(f"the output {uri} is a folder; give the name of a YAML file")
    storage.check_writable(uri if remote else str(Path(uri).parent))
    if not overwrite and storage.exists(uri):
        raise UserError(f"the file {uri} exists already; give another name or --overwrite")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
