"""What things cost, side by side: python -m benchmarks.X."""
