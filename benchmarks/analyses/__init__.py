"""What benchmarks/analysis.py measures: the analyses beside the plain way to the same numbers, or beside reading."""
