"""Benchmarks of the paper and others of its kind, from the files that people have."""
