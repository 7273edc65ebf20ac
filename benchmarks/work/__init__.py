"""What the benchmarks do once they know their settings; the command of each is in the folder above."""
