"""Samples measured: which clips are compared, their distances, and the shares that an oracle confirms."""
