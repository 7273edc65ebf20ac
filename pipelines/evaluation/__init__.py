"""Measuring samples: the clips that are compared, their distances, and the shares that an oracle confirms."""
