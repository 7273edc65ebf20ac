"""The work of the benchmarks; the command of each, which only parses its settings, is in the folder above."""
