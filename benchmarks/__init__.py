"""Benchmarks of speed, memory and quality: python -m benchmarks.X."""
