"""Model families: one file each, and the one way to load a model."""

from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.families.loading import FAMILIES, load_family

__all__ = ["FAMILIES", "Family", "ImageInputs", "Prompt", "load_family"]
