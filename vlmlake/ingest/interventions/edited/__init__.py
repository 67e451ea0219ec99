"""The model run with edits: whole, or from the first block on that they change."""
