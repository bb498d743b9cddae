"""Benchmarks and the makers of the tables in the documentation."""
