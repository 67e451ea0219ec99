"""What benchmarks/store.py measures: our lake beside the ways in which people keep activations today."""
