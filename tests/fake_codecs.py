"""Autoencoders of moving shapes whose separation is known: perfect, or with everything in one latent."""

from types import SimpleNamespace

import numpy as np
import torch

from autoencoder.common.pictures import to_uint8
from autoencoder.data import to_video
from autoencoder.data.shapes import SHAPES, Content, Motion, Shapes, render
from autoencoder.latents import VidTwinLatents

NAMES = tuple(SHAPES)


class PerfectCodec:
    """Structure is the parameters of the content, (B, 8, 1, 1, 1); dynamics the centroid's path, (B, 2, T, 1).

    It knows the clips of some data sets by their pixels, and encodes no others.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, *data_sets: Shapes, count: int):
        self.size = data_sets[0].size
        self.config = SimpleNamespace(num_frames=data_sets[0].num_frames, sample_size=self.size)
        self.known = {
            data.clip(index).numpy().tobytes(): (data.content(index), data.motion(index))
            for data in data_sets
            for index in range(count)
        }

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        found = [self.known[clip.numpy().tobytes()] for clip in to_uint8(video)]
        structure = [[NAMES.index(c.shape), c.area, *c.background, *c.colour] for c, _ in found]
        paths = np.stack([motion.path.T for _, motion in found])  # (B, 2, T)
        latents = VidTwinLatents(
            torch.tensor(structure, dtype=torch.float32)[..., None, None, None],
            torch.tensor(paths, dtype=torch.float32)[..., None],
        )
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: VidTwinLatents, part: str = "both") -> SimpleNamespace:
        clips = []
        for numbers, path in zip(latents.structure.flatten(1).double(), latents.dynamics.squeeze(-1), strict=True):
            shape, area, *colours = numbers.tolist()
            content = Content(NAMES[round(shape)], area, np.array(colours[:3]), np.array(colours[3:]))
            clips.append(render(content, Motion("", path.T.double().numpy()), self.size))
        return SimpleNamespace(sample=to_video(torch.stack(clips)))


class DynamicsCodec:
    """Dynamics is the clip itself, (B, 3 H W, T, 1); structure is nothing but zeros."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, size: int):
        self.size = size

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        dynamics = video.permute(0, 1, 3, 4, 2).flatten(1, 3)[..., None]
        latents = VidTwinLatents(torch.zeros(len(video), 1, 1, 1, 1), dynamics)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: VidTwinLatents, part: str = "both") -> SimpleNamespace:
        video = latents.dynamics.squeeze(-1).unflatten(1, (3, self.size, self.size))  # (B, 3, H, W, T)
        return SimpleNamespace(sample=video.permute(0, 1, 4, 2, 3))
