"""Probes: logistic regressions of correctness on what the model held, scored out of fold."""
