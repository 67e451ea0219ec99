"""Edits inside the model, and the shortest way to what they change."""
