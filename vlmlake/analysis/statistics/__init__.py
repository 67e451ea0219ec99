"""Estimators with their intervals, grouped by image. Each refuses, by name, input on which it would mean nothing."""
