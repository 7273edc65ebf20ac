"""VidTwin: a video autoencoder with a structure and a dynamics latent (arXiv 2412.17726)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.autoencoders.vae import AutoencoderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from autoencoder.ablations import PLACE_CHANNELS, DynamicsQFormerEncoder, SpaceInHidden, TemporalConvolution
from autoencoder.common.chatter import silence_empty_casts
from autoencoder.common.errors import UserError
from autoencoder.common.whole import ReadWhole
from autoencoder.dynamics import DynamicsDecoder, DynamicsEncoder
from autoencoder.latents import Generators, VidTwinLatents, VidTwinPosterior
from autoencoder.structure import QFormer, StructureDecoder, StructureEncoder, halved
from autoencoder.transformer import Decoder, Encoder, initialize_backbone, initialize_branch

silence_empty_casts()

PARTS = ("both", "structure", "dynamics")
READERS = {
    "structure_reader": ("qformer", "convolution", "space_in_hidden"),
    "dynamics_reader": ("average", "qformer"),
}


@dataclass
class EncoderOutput(BaseOutput):
    """`latent_dist`: the posterior over both latents."""

    latent_dist: VidTwinPosterior


@dataclass
class DecoderOutput(BaseOutput):
    """`sample`: video (B, 3, F, H, W), about [-1, 1], not clamped."""

    sample: torch.Tensor


class AutoencoderOutput(NamedTuple):
    """Output of `AutoencoderVidTwin.forward`.

    Attributes:
        sample: the reconstruction (B, 3, F, H, W), about [-1, 1], not clamped.
        latent_dist: the posterior over both latents.
    """

    sample: torch.Tensor
    latent_dist: VidTwinPosterior


class AutoencoderVidTwin(ReadWhole, ModelMixin, ConfigMixin, AttentionMixin, AutoencoderMixin):
    """Video autoencoder that splits a clip into a structure and a dynamics latent.

    After `enable_slicing()` the clips of a batch go through one by one, in the memory of one, with the same results.

    Args:
        num_frames: frames F of a clip.
        sample_size: height and width of a clip, in pixels; a multiple of `patch_size`.
        patch_size: side of a patch, in pixels; every frame is patched by itself.
        hidden_size: width of the backbone.
        num_layers: blocks of the encoder, and of the decoder.
        num_attention_heads: heads of the backbone.
        structure_queries: queries n_q of the Q-Former, the time length of the structure latent.
        structure_channels: channels d_S of the structure latent.
        structure_downsamples: times that the structure branch halves the grid.
        structure_conv_channels: channels after the first convolution of the structure branch; a halving doubles them.
        dynamics_channels: channels d_D of the dynamics latent; 0 leaves it out (the paper's ablation (a)).
        dynamics_downsamples: times that the dynamics branch halves the grid before it averages.
        qformer_hidden_size: width of the Q-Former.
        qformer_num_layers: layers of the Q-Former.
        qformer_num_attention_heads: heads of the Q-Former.
        qformer_intermediate_size: hidden width of the Q-Former's feed-forward.
        qformer_dropout: dropout of the Q-Former in training, on its attention too.
        qformer_initializer_range: standard deviation of the initial weights of the Q-Former's linear layers. A narrow
            model needs more than the paper's 0.02 for its structure latent to depend on the clip at all.
        structure_reader: "qformer", or for the paper's ablations "convolution" (c) or "space_in_hidden" (d).
        dynamics_reader: "average", or for the paper's ablation (b) "qformer".
        patch_overlap: pixels around a patch that the encoder reads with it; the paper's patches do not overlap.

    Raises:
        UserError: if a size is not positive or sizes do not divide as they must.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SpatialTemporalBlock", "QFormerLayer"]
    _repeated_blocks = ["SpatialTemporalBlock"]

    @register_to_config
    def __init__(
        self,
        num_frames: int = 16,
        sample_size: int = 224,
        patch_size: int = 16,
        hidden_size: int = 768,
        num_layers: int = 16,
        num_attention_heads: int = 12,
        structure_queries: int = 16,
        structure_channels: int = 4,
        structure_downsamples: int = 1,
        structure_conv_channels: int = 128,
        dynamics_channels: int = 8,
        dynamics_downsamples: int = 1,
        qformer_hidden_size: int = 64,
        qformer_num_layers: int = 6,
        qformer_num_attention_heads: int = 8,
        qformer_intermediate_size: int = 768,
        qformer_dropout: float = 0.1,
        qformer_initializer_range: float = 0.02,
        structure_reader: str = "qformer",
        dynamics_reader: str = "average",
        patch_overlap: int = 0,
    ):
        super().__init__()
        self._check_config()
        self.use_slicing = False
        grid_size = sample_size // patch_size
        backbone = (num_frames, grid_size, patch_size, hidden_size, num_layers, num_attention_heads)
        self.encoder = Encoder(*backbone, patch_overlap=patch_overlap)
        self.decoder = Decoder(*backbone)
        initialize_backbone(self)
        places = (hidden_size, grid_size)
        self.structure_encoder = StructureEncoder(
            self._structure_reader(*places),
            qformer_hidden_size,
            grid_size,
            structure_channels,
            structure_downsamples,
            structure_conv_channels,
        )
        self.structure_decoder = StructureDecoder(
            num_frames,
            structure_queries,
            grid_size,
            hidden_size,
            structure_channels,
            structure_downsamples,
            structure_conv_channels,
            qformer_hidden_size,
        )
        branches = [self.structure_encoder, self.structure_decoder]
        if dynamics_channels:
            self.dynamics_encoder = self._dynamics_encoder(*places)
            self.dynamics_decoder = DynamicsDecoder(grid_size, hidden_size, dynamics_channels, dynamics_downsamples)
            branches += [self.dynamics_encoder, self.dynamics_decoder]
        for branch in branches:
            initialize_branch(branch, but=QFormer)

    def _structure_reader(self, dim: int, grid_size: int) -> nn.Module:
        config = self.config
        if config.structure_reader == "convolution":
            width = config.qformer_hidden_size
            return TemporalConvolution(config.num_frames, config.structure_queries, dim, width)
        if config.structure_reader == "space_in_hidden":
            qformer = self._qformer(config.structure_queries, PLACE_CHANNELS * grid_size**2)
            return SpaceInHidden(qformer, grid_size**2, dim)
        return self._qformer(config.structure_queries, dim)

    def _dynamics_encoder(self, dim: int, grid_size: int) -> nn.Module:
        config = self.config
        if config.dynamics_reader == "qformer":
            return DynamicsQFormerEncoder(self._qformer(sum(self.dynamics_axes), dim), config.dynamics_channels)
        return DynamicsEncoder(grid_size, dim, config.dynamics_channels, config.dynamics_downsamples)

    def _qformer(self, num_queries: int, context_dim: int) -> QFormer:
        config = self.config
        return QFormer(
            num_queries,
            config.qformer_hidden_size,
            context_dim,
            config.qformer_num_layers,
            config.qformer_num_attention_heads,
            config.qformer_intermediate_size,
            config.qformer_dropout,
            config.qformer_initializer_range,
        )

    def _check_config(self) -> None:
        for name, choices in READERS.items():
            if self.config[name] not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {self.config[name]!r}")
        may_be_zero = (
            "structure_downsamples",
            "dynamics_channels",
            "dynamics_downsamples",
            "qformer_dropout",
            "patch_overlap",
        )
        for name, value in self.config.items():
            if not (name.startswith("_") or name in READERS) and (
                value < 0 or (value == 0 and name not in may_be_zero)
            ):
                raise UserError(f"{name} must be {'at least 0' if name in may_be_zero else 'positive'}, got {value}")
        if self.config.qformer_dropout >= 1:
            raise UserError(f"qformer_dropout must be below 1, got {self.config.qformer_dropout}")
        if self.config.sample_size % self.config.patch_size:
            raise UserError(
                f"sample_size={self.config.sample_size} is not a multiple of patch_size={self.config.patch_size}"
            )

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """(3, F, H, W) of a clip."""
        return 3, self.config.num_frames, self.config.sample_size, self.config.sample_size

    @property
    def parts(self) -> tuple[str, ...]:
        """The values of `part` that `decode` takes; without a dynamics latent, not "dynamics"."""
        return PARTS if self.config.dynamics_channels else PARTS[:2]

    @property
    def structure_shape(self) -> tuple[int, int, int, int]:
        """(d_S, n_q, h_S, w_S) of a clip's structure latent."""
        side = halved(self.config.sample_size // self.config.patch_size, self.config.structure_downsamples)
        return self.config.structure_channels, self.config.structure_queries, side, side

    @property
    def dynamics_axes(self) -> tuple[int, int]:
        """(w_D, h_D): positions of the dynamics latent along x and along y."""
        side = halved(self.config.sample_size // self.config.patch_size, self.config.dynamics_downsamples)
        return side, side

    @property
    def dynamics_shape(self) -> tuple[int, int, int]:
        """(d_D, F, w_D + h_D) of a clip's dynamics latent."""
        return self.config.dynamics_channels, self.config.num_frames, sum(self.dynamics_axes)

    @property
    def num_latent_scalars(self) -> int:
        """Numbers in the two latents of a clip."""
        return torch.Size(self.structure_shape).numel() + torch.Size(self.dynamics_shape).numel()

    @property
    def compression_rate(self) -> float:
        """Latent scalars over input scalars 3 F H W."""
        return self.num_latent_scalars / torch.Size(self.video_shape).numel()

    @apply_forward_hook
    def encode(self, video: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[VidTwinPosterior]:
        """Encode clips.

        Args:
            video: float (B, 3, F, H, W) in [-1, 1].
            return_dict: whether to return an `EncoderOutput` rather than a plain tuple.

        Returns:
            `.latent_dist`, a `VidTwinPosterior`.

        Raises:
            ValueError: if the clip has another shape than the model was built for.
        """
        _check_shape("video", video, ("B", *self.video_shape))
        if self.use_slicing and len(video) > 1:
            moments = map(torch.cat, zip(*(self._moments(clip) for clip in video.split(1)), strict=True))
        else:
            moments = self._moments(video)
        posterior = VidTwinPosterior(*moments)
        return EncoderOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _moments(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, F, H, W) -> (B, 2 d_S, n_q, h_S, w_S), (B, 2 d_D, F, w_D + h_D)."""
        features = self.encoder(video)  # (B, F, h w, C)
        return self.structure_encoder(features), self._dynamics_moments(features)

    def _dynamics_moments(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, h w, C) -> (B, 2 d_D, F, w_D + h_D)."""
        if not self.config.dynamics_channels:
            return features.new_empty(len(features), *self.dynamics_shape)
        return self.dynamics_encoder(features)

    @apply_forward_hook
    def decode(
        self, latents: VidTwinLatents, part: str = "both", return_dict: bool = True
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents; nothing else is needed.

        Args:
            latents: as `encode` returns them.
            part: "both", or "structure" or "dynamics" to leave the other one out.
            return_dict: whether to return a `DecoderOutput` rather than a plain tuple.

        Returns:
            `.sample`, video (B, 3, F, H, W), about [-1, 1].

        Raises:
            ValueError: if a latent has another shape than the model's.
            UserError: if `part` is unknown, or the model has no such latent.
        """
        if part not in PARTS:
            raise UserError(f"part={part!r} is none of {', '.join(PARTS)}")
        _check_shape("latents.structure", latents.structure, ("B", *self.structure_shape))
        _check_shape("latents.dynamics", latents.dynamics, ("B", *self.dynamics_shape))
        if part == "dynamics" and not self.config.dynamics_channels:
            raise UserError("part='dynamics': this model has no dynamics latent")
        if self.use_slicing and len(latents) > 1:
            video = torch.cat([self._video(latents[index], part) for index in range(len(latents))])
        else:
            video = self._video(latents, part)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def _video(self, latents: VidTwinLatents, part: str) -> torch.Tensor:
        """As `decode`: (B, 3, F, H, W)."""
        features = 0  # (B, F, h w, C)
        if part != "dynamics":
            features = features + self.structure_decoder(latents.structure)
        if part != "structure" and self.config.dynamics_channels:
            features = features + self.dynamics_decoder(latents.dynamics)
        return self.decoder(features)

    def enable_tiling(self) -> None:
        """Not supported: the latents describe a whole frame.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "AutoencoderVidTwin has no tiling: its latents describe a whole frame of one size, and a part of a frame "
            "has none; enable_slicing() saves memory on a batch"
        )

    def forward(
        self,
        video: torch.Tensor,
        sample_posterior: bool = False,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> AutoencoderOutput | tuple[torch.Tensor, VidTwinPosterior]:
        """Encode and decode.

        Args:
            video: float (B, 3, F, H, W) in [-1, 1].
            sample_posterior: draw the latents (training) rather than take their means.
            generator: for the draw; a list holds one per clip.
            return_dict: whether to return an `AutoencoderOutput` rather than a plain tuple.

        Returns:
            `.sample`, the reconstruction (B, 3, F, H, W), and `.latent_dist`, the posterior; both unpack as a tuple.
        """
        posterior = self.encode(video).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        output = AutoencoderOutput(sample=self.decode(latents).sample, latent_dist=posterior)
        return output if return_dict else tuple(output)

    @classmethod
    def from_original(cls, path: str | Path, **overrides: Any) -> "AutoencoderVidTwin":
        """Read a checkpoint of the published reference implementation, strictly.

        Args:
            path: its `.ckpt` or `.safetensors` file.
            overrides: config values that cannot be read from the tensors, such as `num_attention_heads`.

        Raises:
            MissingFileError: if there is no such file.
            UserError: if the file or a tensor in it does not fit; the message names them.
        """
        from autoencoder.original import load_original

        return load_original(cls, path, overrides)


def _check_shape(name: str, tensor: torch.Tensor, expected: tuple) -> None:
    if tensor.ndim != len(expected) or tuple(tensor.shape[1:]) != expected[1:]:
        shape = ", ".join(map(str, expected))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, this model takes ({shape})")
