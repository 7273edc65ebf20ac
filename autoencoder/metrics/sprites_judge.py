"""The judge of sprites: a small classifier that reads the action and the attributes of a character from a clip.

The benchmark of sequential disentanglement (Li and Mandt, "Disentangled Sequential Autoencoder", 2018; its scores as
in Bai et al., "Contrastively Disentangled Sequential Variational Autoencoder", 2021) trains such a judge on the
training clips and lets it tell what decoded clips show.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.common.device import resolve_device, to_device
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.whole import ReadWhole
from autoencoder.data.clips import to_video

SIDE = 32  # pixels; larger frames are averaged down to it
CLIPS_AT_A_TIME = 64
RECORD = "judge.json"


class Readings(NamedTuple):
    """What the judge reads in B clips, as logits or as probabilities.

    Attributes:
        action: (B, A).
        attributes: (B, attributes, values).
    """

    action: torch.Tensor
    attributes: torch.Tensor


class SpritesJudge(ReadWhole, ModelMixin, ConfigMixin):
    """A convolutional network on every frame, one convolution over time, and the maximum over time.

    Args:
        num_actions: classes of the action.
        num_attributes: attributes of a character.
        num_values: values of every attribute.
        width: channels of the first convolution; each of the next two doubles them.
    """

    @register_to_config
    def __init__(self, num_actions: int = 9, num_attributes: int = 4, num_values: int = 6, width: int = 16):
        super().__init__()
        dim = 4 * width
        self.frames = nn.Sequential(_halving(3, width), _halving(width, 2 * width), _halving(2 * width, dim))
        self.places = nn.Sequential(
            nn.Flatten(), nn.Linear(dim * (SIDE // 8) ** 2, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()
        )
        self.time = nn.Sequential(
            nn.Conv1d(dim, dim, kernel_size=3, padding=1, bias=False), nn.BatchNorm1d(dim), nn.ReLU()
        )
        self.action = nn.Linear(dim, num_actions)
        self.attributes = nn.Linear(dim, num_attributes * num_values)

    def forward(self, video: torch.Tensor) -> Readings:
        """Classify clips.

        Args:
            video: float (B, 3, T, H, W) in [-1, 1], H and W at least 32.

        Returns:
            Logits.

        Raises:
            UserError: if the frames are smaller.
        """
        if min(video.shape[-2:]) < SIDE:
            raise UserError(
                f"the judge of sprites reads frames of {SIDE} x {SIDE} or more, got {video.shape[-2]} x "
                f"{video.shape[-1]}"
            )
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames, size=(SIDE, SIDE), mode="area")  # (B T, 3, 32, 32)
        places = self.places(self.frames(frames))  # (B T, D)
        sequence = rearrange(places, "(b t) d -> b d t", b=len(video))
        clips = self.time(sequence).amax(dim=2)  # (B, D)
        attributes = self.attributes(clips).unflatten(1, (self.config.num_attributes, self.config.num_values))
        return Readings(self.action(clips), attributes)

    @torch.no_grad()
    def read(self, clips: torch.Tensor) -> Readings:
        """Judge clips, some at a time, in eval mode.

        Args:
            clips: uint8 (B, T, H, W, 3), on any device.

        Returns:
            Probabilities, float64 on the CPU.

        Raises:
            UserError: as `forward`.
        """
        self.eval()
        parts = []
        for part in clips.split(CLIPS_AT_A_TIME):
            logits = self(to_video(to_device(part, self.device)).to(self.dtype))
            parts.append([values.double().softmax(dim=-1).cpu() for values in logits])
        return Readings(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _halving(channels_in: int, channels_out: int) -> nn.Sequential:
    """(B, channels_in, H, W) -> (B, channels_out, H / 2, W / 2)."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def save_judge(judge: SpritesJudge, folder: str | Path, record: dict[str, Any]) -> None:
    """Write a judge as a folder.

    Args:
        judge: trained.
        folder: gets the weights, the config, and judge.json.
        record: what judge.json is to say, as a dict that JSON can hold: at least `test_clips`, the fingerprint of the
            clips that its accuracy was measured on.
    """
    judge.save_pretrained(folder)
    with atomic_path(Path(folder) / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def load_judge(folder: str | Path, device: str = "auto") -> tuple[SpritesJudge, dict[str, Any]]:
    """Read what `save_judge` wrote.

    Returns:
        The judge in eval mode, on the device, and its record.

    Raises:
        MissingFileError: if the folder holds no judge.
        UserError: if there is no such device.
    """
    record = Path(folder) / RECORD
    if not record.is_file():
        raise MissingFileError(
            f"{folder} holds no judge of sprites, for there is no {RECORD}: train one by `python -m "
            "benchmarks.sprites_judge --data-root FILE --out DIR`"
        )
    judge = SpritesJudge.from_pretrained(folder).eval().to(resolve_device(device))
    return judge, json.loads(record.read_text())
