"""From a table of server metrics, whatever state it is in, to a `Fleet`."""

from data.reading.roles import TableSpec, parse_bounds, table_spec
from data.reading.summary import ReadSummary
from data.reading.table import ReadResult, read_fleet

__all__ = [
    "ReadResult",
    "ReadSummary",
    "TableSpec",
    "parse_bounds",
    "read_fleet",
    "table_spec",
]
