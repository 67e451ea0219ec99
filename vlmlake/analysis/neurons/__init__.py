"""Neurons: rankings of coordinates by what they tell of correctness."""
