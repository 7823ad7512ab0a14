"""Open a CSV file, a Parquet file or a folder of them, and hand out the rows chunk by chunk.

Both formats become Arrow record batches, so every rule after this file is written once. A CSV cell
stays text here (an empty one is null): whether it is a number is for `data.reading.clean` to say.
"""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

Kind = Literal["number", "text", "time", "other"]

SUFFIXES = (".csv", ".csv.gz", ".parquet")
CHUNK_ROWS = 1 << 16  # a few MB with ten columns; longer chunks are no faster
CSV_BLOCK_BYTES = 1 << 23
MAX_RAGGED = (
    1_000  # more rows than this with too many or too few fields: not a comma-separated table
)
ENCODING_REMEDY = "save it as UTF-8"
PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name


class Chunk(NamedTuple):
    """Some consecutive rows of one file."""

    file: "TableFile"
    batch: pa.RecordBatch
    first_row: int
    """Rows of the file handed out before."""
    done: float
    """Share of the file read, 0 to 1."""

    def column(self, name: str) -> pa.Array:
        """Return a column; all null where the file has none of that name."""
        if name in self.batch.schema.names:
            return self.batch.column(name)
        rows = self.batch.num_rows
        if name in self.file.partition:
            indices = pa.array(np.zeros(rows, np.int32))
            return pa.DictionaryArray.from_arrays(indices, [self.file.partition[name]])
        return pa.nulls(rows)

    def place(self, row: int) -> str:
        """Say where a row of this chunk stands, for a person looking into the file."""
        return self.file.place(self.first_row + row)


@dataclass(frozen=True)
class TableFile:
    """One file: where it is, and what columns it has."""

    path: Path
    kinds: Mapping[str, Kind]
    """Every column, in the order of the file."""
    partition: Mapping[str, str] = field(default_factory=dict)
    """Columns written as folders, `server_name=vm1/`; only a key column is looked for here."""
    num_bytes: int = 1
    ragged: list[str] = field(default_factory=list, compare=False)
    """Lines of a CSV file with too many or too few fields, found while reading."""

    @property
    def is_csv(self) -> bool:
        """Whether lines can be counted."""
        return self.path.name.endswith((".csv", ".csv.gz"))

    def chunks(self, columns: Collection[str], text: Collection[str] = ()) -> Iterator[Chunk]:
        """Yield the rows of the file, in order, with the columns it has of those named.

        Args:
            columns: names of the columns wanted.
            text: those of them that hold few different words, read as dictionaries.

        Raises:
            ValueError: the file is damaged, or no UTF-8.
        """
        names = [name for name in self.kinds if name in columns]
        first = 0
        try:
            batches = self._csv_batches(names) if self.is_csv else self._parquet(names, text)
            for batch, done in batches:
                yield Chunk(self, batch, first, done)
                first += batch.num_rows
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from error

    def place(self, row: int) -> str:
        """Say where a row stands: a line of a CSV file, a row of a Parquet file, both from 1."""
        if not self.is_csv:
            return f"{self.path}, row {row + 1}"
        if not self.ragged:
            return f"{self.path}, line {row + 2}"
        return f"{self.path}, line {self._line(row, ragged=False)}"

    def ragged_place(self, index: int) -> str:
        """Say on which line `ragged[index]` stands."""
        return f"{self.path}, line {self._line(index, ragged=True)}"

    def _line(self, index: int, ragged: bool) -> int:
        """Count through the file to the line of its index-th (ragged) row: Arrow does not say."""
        lines = set(self.ragged)
        with _open_text(self.path) as stream:
            for number, line in enumerate(stream, start=1):
                if number > 1 and (line.rstrip("\r\n") in lines) == ragged:
                    index -= 1
                    if index < 0:
                        return number
        raise ValueError(f"{self.path} changed while it was being read; read a finished copy")

    def _parquet(
        self, names: list[str], text: Collection[str]
    ) -> Iterator[tuple[pa.RecordBatch, float]]:
        dictionaries = [name for name in names if name in text and self.kinds[name] == "text"]
        with pq.ParquetFile(self.path, read_dictionary=dictionaries) as file:
            rows = 0
            for batch in file.iter_batches(CHUNK_ROWS, columns=names):
                rows += batch.num_rows
                yield batch, rows / file.metadata.num_rows

    def _csv_batches(self, names: list[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
        self.ragged.clear()

        def note_ragged(row: pa_csv.InvalidRow) -> str:
            self.ragged.append(row.text)
            return "skip" if len(self.ragged) <= MAX_RAGGED else "error"

        header, anything = _header(self.path)  # the names as written, spaces included
        if not anything:
            return  # Arrow refuses a file without a line after the header
        strings = {name: pa.string() for name in header}
        with ExitStack() as stack:
            raw = stack.enter_context(pa.OSFile(str(self.path)))
            stream = raw
            if self.path.suffix == ".gz":
                stream = stack.enter_context(pa.CompressedInputStream(raw, "gzip"))
            reader = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(
                    ignore_empty_lines=False, invalid_row_handler=note_ragged
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=strings,
                    include_columns=[name for name in header if name.strip() in names],
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            stack.enter_context(reader)
            for batch in reader:
                yield batch.rename_columns(names), min(1.0, raw.tell() / self.num_bytes)

    def _unreadable(self, error: Exception) -> ValueError:
        if len(self.ragged) > MAX_RAGGED:
            reason = (
                f"more than {MAX_RAGGED:,} lines have not the {len(self.kinds)} fields of the "
                "header; expected fields separated by commas"
            )
        elif "UTF8" in str(error):
            reason = f"it is not UTF-8 text; {ENCODING_REMEDY}"
        else:
            reason = f"{str(error).splitlines()[0]}; write the file again"
        return ValueError(f"cannot read {self.path}: {reason}")


def open_table(path: str | Path) -> tuple[TableFile, ...]:
    """Look at a table's headers: one CSV or Parquet file, or a folder of either.

    Files in a folder that are no tables, and all whose name starts with "." or "_", are left alone.

    Raises:
        ValueError: nothing there, no table, both formats in one folder, a file that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    if not path.is_dir():
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path} is not a table; expected a name ending in {_one_of()}")
        return (_open_file(path, {}),)
    inside = [(found, found.relative_to(path).parts) for found in sorted(path.rglob("*"))]
    found = [
        (file, parts)
        for file, parts in inside
        if file.name.endswith(SUFFIXES)
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in parts)
    ]
    if not found:
        raise ValueError(f"folder {path} holds no table; expected files ending in {_one_of()}")
    if len({file.suffix == ".parquet" for file, _ in found}) > 1:
        raise ValueError(f"folder {path} holds both CSV and Parquet files; keep one of the two")
    return tuple(_open_file(file, _partition(parts[:-1])) for file, parts in found)


def place_of(files: Sequence[TableFile]) -> str:
    """Return the path of a table: its file, or the folder all its files are in."""
    return os.path.commonpath([file.path for file in files])


def _one_of() -> str:
    return ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]


def _partition(folders: tuple[str, ...]) -> dict[str, str]:
    """Read `name=value` folders, the way partitioned Parquet is written."""
    matches = (re.fullmatch(r"([^=]+)=(.*)", folder) for folder in folders)
    return {unquote(match[1]): unquote(match[2]) for match in matches if match}


def _open_file(path: Path, partition: dict[str, str]) -> TableFile:
    kinds: list[tuple[str, Kind]]
    if path.suffix == ".parquet":
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"cannot read {path}: not a Parquet file, or a damaged one; write it again"
            ) from error
        columns = (column for column in schema if not PANDAS_INDEX.fullmatch(column.name))
        kinds = [(column.name, _kind(column.type)) for column in columns]
    else:
        kinds = [(name.strip(), "text") for name in _header(path)[0]]
    names = [name for name, _ in kinds]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path} names column {repeated[0]!r} twice; give each column its name")
    return TableFile(path, dict(kinds), partition, num_bytes=max(1, path.stat().st_size))


def _kind(type_: pa.DataType) -> Kind:
    kinds = pa.types
    if kinds.is_dictionary(type_):
        return _kind(type_.value_type)
    if kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_string_view(type_):
        return "text"
    if kinds.is_timestamp(type_) or kinds.is_date(type_):
        return "time"
    numeric = (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_boolean)
    return "number" if kinds.is_null(type_) or any(test(type_) for test in numeric) else "other"


def _open_text(path: Path, errors: str = "replace") -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="")
    return path.open(encoding="utf-8-sig", errors=errors, newline="")


def _header(path: Path) -> tuple[list[str], bool]:
    """Return the first line of a CSV file, split, and whether there is another."""
    try:
        with _open_text(path, errors="strict") as stream:
            return next(csv.reader(stream)), bool(stream.read(1))
    except StopIteration:
        raise ValueError(f"{path} is empty; expected a header line") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: it is not UTF-8 text; {ENCODING_REMEDY}") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {error}; write the file again") from error
