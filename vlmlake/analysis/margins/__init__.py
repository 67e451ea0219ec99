"""Margins: how far the gold answer is ahead of all other tokens at every layer, read by the logit lens."""
