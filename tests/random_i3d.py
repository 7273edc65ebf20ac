"""Files in the two forms in which the weights of I3D are published, with other content."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FIXTURES = Path(__file__).parent / "data" / "metrics"
SHAPES = json.loads((FIXTURES / "i3d_keys.json").read_text())


def random_state_dict() -> dict[str, torch.Tensor]:
    """The weights that the expected logits were computed with, of the names and shapes of the published ones."""
    return {name: torch.from_numpy(_random_tensor(index, name)) for index, name in enumerate(sorted(SHAPES))}


def _random_tensor(index: int, name: str) -> np.ndarray:
    generator, shape = np.random.default_rng([20250402, index]), tuple(SHAPES[name])
    if name.endswith("conv3d.weight"):
        values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        values = np.ones(shape)
    elif name.endswith("running_var"):
        values = generator.uniform(0.5, 1.5, shape)
    else:
        values = 0.1 * generator.standard_normal(shape)
    return values.astype(np.float32)


def random_input(frames: int) -> torch.Tensor:
    """The first video, (1, 3, T, 224, 224) in [-1, 1], that the expected logits belong to."""
    values = np.random.default_rng([20250403, frames, 224]).uniform(-1, 1, (2, 3, frames, 224, 224))
    return torch.from_numpy(values[:1].astype(np.float32))


class Archive(nn.Module):
    """Takes what the published TorchScript archive takes; fast, and zero unless it is called as that one should be."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if rescale or resize or not return_features:
            return torch.zeros(x.shape[0], 400)
        return 10 * F.adaptive_avg_pool3d(x, (1, 20, 20)).pow(2).mean(dim=1).flatten(1)


def write_archive(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # TorchScript is deprecated
        torch.jit.script(Archive()).save(str(path))
    return path
