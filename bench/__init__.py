"""Benchmarks of the server. Every figure is a ratio to a baseline that ran in turns on the same machine."""
