"""Benchmarks: ratios from interleaved runs. Never part of the tests."""
