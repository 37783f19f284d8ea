"""Read a CSV or Parquet table as text, and refuse what is damaged or ambiguous.

CSV must have commas or tabs between fields, and the same number of fields in every line. It is read
as UTF-8, or as UTF-16 or UTF-32 if it begins with a byte order mark. Empty lines are skipped. Names
of columns are compared without case; spaces and hyphens in them count as `_`.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from sdmad import storage
from sdmad.errors import UserError
from sdmad.storage import parquet
from sdmad.words import meant

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is a zip file, perhaps a spreadsheet (.xlsx)"),
    (b"\xd0\xcf\x11\xe0", "is a spreadsheet (.xls)"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"(\xb5/\xfd", "is compressed with zstd"),
)


@dataclass(frozen=True)
class TextTable:
    """The wanted columns of a table, as text without spaces around it.

    `columns` has the values of each column that exists; a missing value is empty. `places` says
    where each row is: "line 7" of a CSV file, "row 6" of a Parquet file (from 1). `header` has the
    names of all columns as they are written.
    """

    what: str
    columns: dict[str, list[str]]
    places: list[str]
    header: list[str]

    def __len__(self) -> int:
        return len(self.places)

    def error(self, row: int, problem: str) -> UserError:
        """The exception for a problem in one row."""
        return UserError(f"{self.what}, {self.places[row]}: {problem}")

    def require(self, name: str) -> None:
        """Raise `UserError` if there is no column `name`."""
        if name in self.columns:
            return
        near = meant(name, map(column_name, self.header))
        hint = f" ({near})" if near else ""
        raise UserError(
            f"{self.what} has no column {name!r}{hint}; it has {', '.join(self.header)}"
        )


def read_table(uri: str, kind: str, wanted: tuple[str, ...]) -> TextTable:
    """The columns called `wanted` of a table; `kind` is what the file is, as in "label table".

    Raises `UserError` if the file is missing, cannot be parsed, or has a wanted column twice.
    """
    content = storage.read_file(uri, kind)
    what = f"the {kind} {uri}"
    if content.startswith(b"PAR1") or uri.lower().endswith(".parquet"):
        return _from_parquet(content, what, wanted)
    return _from_csv(_text(content, what), what, wanted)


def column_name(name: str) -> str:
    """A column's name as it is compared: in lower case, with `_` for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _positions(header: list[str], wanted: tuple[str, ...], what: str) -> dict[str, int]:
    names = [column_name(name) for name in header]
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{what} has {names.count(name)} columns {name!r}; keep one")
    return {name: names.index(name) for name in wanted if name in names}


def _text(content: bytes, what: str) -> str:
    for start, problem in _OTHER_FORMATS:
        if content.startswith(start):
            raise UserError(f"{what} {problem}; save it as CSV in UTF-8, or as Parquet")
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{what}, line {line}: byte 0x{content[error.start]:02x} is not "
            f"{encoding.removesuffix('-sig').upper()}; save it as CSV in UTF-8"
        ) from None
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise UserError(
            f"{what}, line {line}: there is a NUL character; save it as CSV in UTF-8 "
            "(UTF-16 needs a byte order mark)"
        )
    return text


def _from_csv(text: str, what: str, wanted: tuple[str, ...]) -> TextTable:
    records = _records(text, what)
    first, header = next(records, (0, []))
    if not header:
        raise UserError(f"{what} is empty; its first line must name the columns")
    header = [name.strip() for name in header]
    if header[0].startswith("#"):
        raise UserError(
            f"{what}, line {first}: {header[0][:40]!r} is not a list of columns; "
            "remove comment lines"
        )
    where = _positions(header, wanted, what)
    values: dict[str, list[str]] = {name: [] for name in where}
    places = []
    for line, fields in records:
        _check_fields(fields, header, what, line)
        for name, position in where.items():
            value = fields[position].strip()
            if "\n" in value or "\r" in value:
                raise UserError(
                    f"{what}, line {line}: {name} contains a line break; check the quotation marks"
                )
            values[name].append(value)
        places.append(f"line {line}")
    if places and text.rstrip(" ").endswith((",", "\t", ";")):
        raise UserError(
            f"{what}, {places[-1]}: the file ends after a separator, without a line break, and may "
            "be cut off; complete the line, or end it with a line break if it is complete"
        )
    return TextTable(what, values, places, header)


def _records(text: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line and the fields of each record; records without text are
    skipped."""
    head = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    tabs = "\t" in head and "," not in head
    if ";" in head and "," not in head and not tabs:
        raise UserError(
            f"{what} has semicolons between its fields; save it with commas, "
            "because ; separates the categories of an image"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    line = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{what}, line {line}: {error}; check the quotation marks") from None


def _check_fields(fields: list[str], header: list[str], what: str, line: int) -> None:
    if len(fields) == len(header):
        for name, field in zip(header, fields, strict=True):
            if not name and field.strip():
                raise UserError(
                    f"{what}, line {line}: {field.strip()[:40]!r} is in a column without a name"
                )
        return
    if fields[0].lstrip().startswith("#"):
        hint = "remove comment lines"
    elif any("\n" in field or "\r" in field for field in fields):
        hint = "check the quotation marks"
    elif len(fields) < len(header):
        hint = "the line is cut off or a comma is missing"
    elif not any(field.strip() for field in fields[len(header) :]):
        hint = "remove the commas at its end"
    else:
        hint = 'put values that contain commas in quotation marks ("...")'
    raise UserError(
        f"{what}, line {line}: the number of fields is {len(fields)}, "
        f"but the first line names {len(header)} columns; {hint}"
    )


def _from_parquet(content: bytes, what: str, wanted: tuple[str, ...]) -> TextTable:
    try:
        table = parquet.decode(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{what} cannot be read as Parquet: {error}") from None
    header = table.column_names
    columns = {}
    for name, position in _positions(header, wanted, what).items():
        try:
            values = table.column(position).to_pylist()
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{what}, column {name!r}: {error}") from None
        columns[name] = [
            _plain(value, f"{what}, row {k + 1}: {name}") for k, value in enumerate(values)
        ]
    places = [f"row {k + 1}" for k in range(table.num_rows)]
    return TextTable(what, columns, places, header)


def _plain(value: object, where: str) -> str:
    """A value of a Parquet column as text; a list joined with `;`."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        return ";".join(filter(None, (_plain(part, where) for part in value)))
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8 text; store it as a string") from None
    if isinstance(value, bool):
        raise UserError(f"{where} is {value}; store it as a string")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        raise UserError(f"{where} is a struct; store it as a string")
    return str(value)
