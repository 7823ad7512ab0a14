"""A made-up fleet of servers that behaves like a real one."""

from data.synthetic.writer import (
    COLUMNS,
    FleetSpec,
    GenerationFacts,
    Incident,
    Restart,
    generate,
    write_fleet,
)

__all__ = [
    "COLUMNS",
    "FleetSpec",
    "GenerationFacts",
    "Incident",
    "Restart",
    "generate",
    "write_fleet",
]
