"""The parts of benchmarks/interventions.py."""
