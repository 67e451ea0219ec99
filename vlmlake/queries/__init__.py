"""SQL over the tables of a lake."""

from vlmlake.queries.chosen import examples_where
from vlmlake.queries.connect import connect, sql

__all__ = ["connect", "sql", "examples_where"]
