"""What benchmarks/queries.py measures: statements over a lake beside the plain ways to the same answers."""
