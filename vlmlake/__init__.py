"""vlmlake: run a vision-language model once, keep what happened inside it, answer later questions from the store."""

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.lake import Lake, open_lake
from vlmlake.store_schema.run import Run

__version__ = "0.1.0"

__all__ = ["open_lake", "Lake", "Run", "VlmlakeError", "__version__"]
