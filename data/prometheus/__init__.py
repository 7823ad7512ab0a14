"""Metrics from a Prometheus: a table for training, and the newest ticks for the live service."""

from data.prometheus.client import Client, Endpoint, connect
from data.prometheus.fetch import Fetcher, Row
from data.prometheus.ingest import Ingested, ingest
from data.prometheus.queries import NODE_EXPORTER, Queries, read_queries

__all__ = [
    "NODE_EXPORTER",
    "Client",
    "Endpoint",
    "Fetcher",
    "Ingested",
    "Queries",
    "Row",
    "connect",
    "ingest",
    "read_queries",
]
