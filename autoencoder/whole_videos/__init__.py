"""Videos of any length: reading and writing them frame by frame, their clips, their latents as files."""
