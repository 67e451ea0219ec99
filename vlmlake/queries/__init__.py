"""SQL and Polars over the tables and arrays of a lake."""

from vlmlake.queries.catalog import Catalog
from vlmlake.queries.chosen import examples_where
from vlmlake.queries.connect import connect, sql
from vlmlake.queries.meter import Meter, TooMuchError
from vlmlake.queries.narrow import narrowed
from vlmlake.queries.scan import scan
from vlmlake.queries.session import Session
from vlmlake.queries.shelf import shelf
from vlmlake.queries.shelf_answers import run_query

__all__ = [
    "connect",
    "sql",
    "scan",
    "narrowed",
    "Session",
    "Catalog",
    "Meter",
    "TooMuchError",
    "examples_where",
    "shelf",
    "run_query",
]
