"""Videos of any length: frame-by-frame files, overlapping clips, latents as files, evaluation."""
