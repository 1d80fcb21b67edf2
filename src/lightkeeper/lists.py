"""Lists of files as people have them: NDJSON, CSV and Parquet become the lines that `Client.register` takes.

In CSV and Parquet each row is a file: the columns `lfn`, `size`, `sha256`, `adler32` and `storage` are what they say,
every other one is a metadata key, and an empty cell is no value.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

from lightkeeper.domain.catalog import MetaKey, MetaValue, Vocabulary
from lightkeeper.domain.errors import Invalid, NotFound, nearest
from lightkeeper.domain.names import printable
from lightkeeper.domain.values import from_text

OF_FILE = ("lfn", "size", "sha256", "adler32", "storage")
FORMATS = ("ndjson", "csv", "parquet")
ENDINGS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}
ROWS = 10_000

Progress = Callable[[int], None]
"""Is told the bytes of the list that were read, or rows of a Parquet file."""


def read(path: Path, vocabulary: Vocabulary, format_: str | None, progress: Progress) -> Iterator[Any]:
    """The lines of the list at `path`, whose format is that of its ending unless it is given. Raises Invalid for what
    is no list, naming line and column."""
    format_ = format_ or ENDINGS.get(path.suffix.lower())
    if format_ is None:
        raise Invalid(f"what {path} is cannot be told by its ending", hint=f"--format {'|'.join(FORMATS)}")
    if format_ not in FORMATS:
        raise Invalid(f"'{printable(format_)}' is no format of lists", hint=nearest(format_, FORMATS))
    if not path.is_file():
        raise NotFound(f"there is no list {path}")
    match format_:
        case "csv":
            return _csv(path, vocabulary, progress)
        case "parquet":
            return _parquet(path, vocabulary, progress)
        case _:
            return _ndjson(path, progress)


def _ndjson(path: Path, progress: Progress) -> Iterator[bytes]:
    """The lines as they are: the server reads them."""
    with path.open("rb") as file:
        for line in file:
            progress(len(line))
            yield line.rstrip(b"\r\n")


def _csv(path: Path, vocabulary: Vocabulary, progress: Progress) -> Iterator[dict[str, Any] | bytes]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(_counted(file, progress), strict=True)
        try:
            columns = next(rows, [])
            _check_columns(columns, vocabulary, str(path))
            told = 0
            for cells in rows:
                if not cells:
                    continue
                yield from repeat(b"", rows.line_num - 1 - told)  # so that the server counts lines as the list does
                told = rows.line_num
                if len(cells) != len(columns):
                    raise Invalid(
                        f"{path}, line {rows.line_num}: {len(cells)} cells for {len(columns)} columns",
                        hint="texts with commas stand in double quotes",
                    )
                yield _file(dict(zip(columns, cells, strict=True)), vocabulary)
        except UnicodeDecodeError as error:
            raise Invalid(f"{path}, after line {rows.line_num}: this is not UTF-8: {error.reason}") from error
        except csv.Error as error:
            raise Invalid(f"{path}, line {rows.line_num}: this is no CSV: {error}") from error


def _counted(lines: Iterable[str], progress: Progress) -> Iterator[str]:
    for line in lines:
        progress(len(line))
        yield line


def _file(cells: Mapping[str, str], vocabulary: Vocabulary) -> dict[str, Any]:
    file: dict[str, Any] = {name: cells[name] for name in OF_FILE if cells.get(name)}
    if "size" in file and file["size"].isascii() and file["size"].isdigit():
        file["size"] = int(file["size"])
    file["meta"] = {
        name: _value(vocabulary.key(name), text) for name, text in cells.items() if name not in OF_FILE and text
    }
    return file


def _value(key: MetaKey, text: str) -> MetaValue:
    """What the text says; the text itself when that is no value of the key: the server refuses the line then, and takes
    the others."""
    with suppress(Invalid):
        return from_text(key, text)
    return text


def _parquet(path: Path, vocabulary: Vocabulary, progress: Progress) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise NotFound("reading Parquet needs pyarrow", hint="pip install 'lightkeeper[parquet]'") from error
    try:
        with ParquetFile(path) as table:
            _check_columns(table.schema_arrow.names, vocabulary, str(path))
            for batch in table.iter_batches(ROWS):
                for row in batch.to_pylist():
                    for name in ("lfn", "sha256", "adler32", "storage"):
                        if not isinstance(row.get(name), str | None):
                            raise Invalid(f"{path}: column '{name}' holds no text", hint=_TEXTS)
                    meta = {name: cell for name, cell in row.items() if name not in OF_FILE and cell is not None}
                    yield {name: row[name] for name in OF_FILE if row.get(name) is not None} | {"meta": meta}
                progress(batch.num_rows)
    except ArrowException as error:
        raise Invalid(f"{path} is no Parquet file that can be read: {printable(str(error))}") from error


_TEXTS = "checksums are texts of hexadecimal digits"


def _check_columns(columns: Iterable[str], vocabulary: Vocabulary, path: str) -> None:
    columns = list(columns)
    if "lfn" not in columns:
        raise Invalid(
            f"{path}: there is no column 'lfn' among {', '.join(map(printable, columns)) or 'no columns'}",
            hint=f"columns are {', '.join(OF_FILE)} and metadata keys",
        )
    for name in columns:
        if columns.count(name) > 1:
            raise Invalid(f"{path}: column '{printable(name)}' is there twice")
        if name not in OF_FILE:
            vocabulary.key(name)
