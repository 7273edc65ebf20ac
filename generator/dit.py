"""The diffusion transformer of stage two (adaLN-zero as in DiT, arXiv 2212.09748)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_1d_rotary_pos_embed
from diffusers.utils import BaseOutput
from torch import nn
from torch.nn import functional as F

from autoencoder.common.errors import UserError
from autoencoder.common.whole import ReadWhole
from autoencoder.latents import VidTwinLatents
from autoencoder.transformer import sincos_embedding
from generator.blocks import FEED_FORWARDS, NORMS, QK_NORMS, DiTBlock, FinalLayer, Rotary
from generator.config import KINDS
from generator.scale import LatentScale
from generator.tokens import TokenLayout

NUM_TIME_CHANNELS = 256
# Language models' 10000 would hardly rotate most pairs of a head over the dozen positions along an axis of the latents.
ROTARY_BASE = 100.0


def _by_coordinate(positions: torch.Tensor, dim: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Split the width `dim` over the three coordinates of positions (N, 3): pairs of a width and a coordinate (N,).

    The second and the third take a third of the width each, rounded down to an even number; the first takes the rest.
    """
    third = dim // 6 * 2
    return zip((dim - 2 * third, third, third), positions.unbind(dim=1), strict=True)


def sincos_positions(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Fixed embedding float32 (N, dim) of the three coordinates of every token, (N, 3), side by side."""
    return torch.cat([sincos_embedding(width, axis) for width, axis in _by_coordinate(positions, dim)], dim=1)


def rotary_positions(positions: torch.Tensor, head_dim: int) -> Rotary:
    """Rotary position embedding (arXiv 2104.09864), so that attention scores depend on relative positions.

    A share of each head's pairs is rotated by each of a token's three coordinates: (query, row, column) for structure,
    (frame, axis, place) for dynamics. The type of a token is in its type embedding.

    Args:
        positions: (N, 3).
        head_dim: width of a head, even.

    Returns:
        Cosines and sines, 2 x float32 (N, head_dim).
    """
    tables = [
        get_1d_rotary_pos_embed(width, axis, theta=ROTARY_BASE, use_real=True)
        for width, axis in _by_coordinate(positions, head_dim)
    ]
    cos, sin = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))  # 2 x (N, head_dim)
    return cos, sin


# As in `generator.blocks`, a new choice is a new entry.
CHOICES = {
    "conditioning": ("adaln_zero", "cross_attention"),
    "norm": NORMS,
    "feed_forward": FEED_FORWARDS,
    "qk_norm": QK_NORMS,
    "positions": ("sincos", "rotary"),
    "prediction_type": KINDS,
}


STATISTICS = ("structure_mean", "structure_std", "dynamics_mean", "dynamics_std")  # of the latents, in the config


@dataclass
class VidTwinDiTOutput(BaseOutput):
    """`sample`: (B, N, D), the prediction, zero on padding."""

    sample: torch.Tensor


class VidTwinDiT(ReadWhole, ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin):
    """Class-conditional diffusion transformer over the tokens of both latents (arXiv 2412.17726).

    The defaults are the paper's size on the latents of its headline setting. The network neither drops labels nor knows
    of noise schedules: that is `generator.objective` in training and a diffusers scheduler in sampling.

    Args:
        structure_shape: (d_S, n_q, h_S, w_S) of the autoencoder.
        dynamics_shape: (d_D, F, w_D + h_D) of the autoencoder.
        dynamics_axes: (w_D, h_D) of the autoencoder.
        structure_patch_size: patch over (query, row, column).
        dynamics_patch_size: patch over (frame, position).
        hidden_size: width C, even.
        num_layers: blocks.
        num_attention_heads: heads; must divide the width.
        mlp_ratio: hidden width of the feed-forward over C.
        num_classes: classes K; label K is the null class of classifier-free guidance.
        conditioning: "adaln_zero" adds the class to the time; "cross_attention" (paper) gives every block a
            cross-attention to the class, and leaves the time to the modulation.
        class_embedding_size: width of the class vector of "cross_attention"; with "adaln_zero" it is C.
        norm: "layer_norm" or "rms_norm", without weights.
        feed_forward: "gelu" (tanh approximation) or "swiglu".
        qk_norm: "none" or "rms_norm" on the queries and keys of each head.
        positions: "sincos" adds an embedding of (query, row, column) or (frame, axis, place) to the tokens; "rotary"
            rotates queries and keys by these coordinates.
        prediction_type: what the output means: "flow" (noise - x_0, rectified flow), "flow_sample" (x_0, rectified
            flow), "sample" (x_0), "epsilon" (noise) or "v_prediction" (sqrt(abar) noise - sqrt(1 - abar) x_0).
        independent_times: whether the model was trained with a noise level for each latent, and so can be asked for
            either latent given the other. The network is the same; it always takes a time for each.
        frame_times: whether it was trained with noise levels of the frames of dynamics, too, and so can go on from the
            last frames of another clip. The network is the same.
        structure_mean: mean of each channel of the structure latents the model was trained on, d_S numbers; None
            stands for 0.
        structure_std: their standard deviation, d_S numbers; None stands for 1.
        dynamics_mean: likewise of the dynamics latents, d_D numbers.
        dynamics_std: likewise, d_D numbers.
        id2label: class names by the id in decimal, "0" to str(K - 1); None where the classes have no names.

    Raises:
        UserError: for an unknown choice, a size that is not positive or does not divide, or statistics or names that
            do not fit.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DiTBlock"]
    _repeated_blocks = ["DiTBlock"]

    @register_to_config
    def __init__(
        self,
        structure_shape: Sequence[int] = (4, 16, 7, 7),
        dynamics_shape: Sequence[int] = (8, 16, 14),
        dynamics_axes: Sequence[int] = (7, 7),
        structure_patch_size: Sequence[int] = (1, 1, 1),
        dynamics_patch_size: Sequence[int] = (1, 1),
        hidden_size: int = 1152,
        num_layers: int = 18,
        num_attention_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 101,
        conditioning: str = "adaln_zero",
        class_embedding_size: int = 256,
        norm: str = "layer_norm",
        feed_forward: str = "gelu",
        qk_norm: str = "none",
        positions: str = "sincos",
        prediction_type: str = "flow",
        independent_times: bool = False,
        frame_times: bool = False,
        structure_mean: Sequence[float] | None = None,
        structure_std: Sequence[float] | None = None,
        dynamics_mean: Sequence[float] | None = None,
        dynamics_std: Sequence[float] | None = None,
        id2label: dict[str, str] | None = None,
    ):
        super().__init__()
        self._check_config()
        self.register_to_config(id2label=_checked_names(id2label, num_classes))
        self.layout = TokenLayout(
            structure_shape, dynamics_shape, dynamics_axes, structure_patch_size, dynamics_patch_size
        )
        self.set_statistics(structure_mean, structure_std, dynamics_mean, dynamics_std)
        self.register_buffer("mask", self.layout.mask, persistent=False)
        self.register_buffer("type_ids", self.layout.type_ids, persistent=False)
        self.register_buffer("time_rows", self.layout.time_rows, persistent=False)
        embedding = sincos_positions(self.layout.positions, hidden_size) if positions == "sincos" else None
        self.register_buffer("position_embedding", embedding, persistent=False)
        self._register_rotary(self.mask.device)

        cross_attention = conditioning == "cross_attention"
        class_dim = class_embedding_size if cross_attention else hidden_size
        self.structure_in = nn.Linear(self.layout.structure_dim, hidden_size)
        self.dynamics_in = nn.Linear(self.layout.dynamics_dim, hidden_size)
        self.type_embedding = nn.Embedding(3, hidden_size)
        self.time_frequencies = Timesteps(NUM_TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(NUM_TIME_CHANNELS, hidden_size)
        self.class_embedding = nn.Embedding(num_classes + 1, class_dim)
        block = partial(DiTBlock, hidden_size, num_attention_heads, int(mlp_ratio * hidden_size), norm, feed_forward)
        self.blocks = nn.ModuleList(block(qk_norm, class_dim if cross_attention else None) for _ in range(num_layers))
        self.final_layer = FinalLayer(hidden_size, norm, self.layout.structure_dim, self.layout.dynamics_dim)
        self.gradient_checkpointing = False
        self._initialize()

    def _check_config(self) -> None:
        for name, choices in CHOICES.items():
            if self.config[name] not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {self.config[name]!r}")
        sizes = ("hidden_size", "num_layers", "num_attention_heads", "mlp_ratio", "num_classes", "class_embedding_size")
        for name in sizes:
            if self.config[name] <= 0:
                raise UserError(f"{name} must be positive, got {self.config[name]}")
        if self.config.hidden_size % 2 or self.config.hidden_size < 6:
            raise UserError(f"hidden_size must be even and at least 6, got {self.config.hidden_size}")
        if self.config.positions == "rotary" and (self._head_dim % 2 or self._head_dim < 6):
            raise UserError(
                f"positions='rotary' needs heads of an even width of at least 6, got {self._head_dim} of "
                f"hidden_size={self.config.hidden_size} and num_attention_heads={self.config.num_attention_heads}"
            )

    @property
    def _head_dim(self) -> int:
        return self.config.hidden_size // self.config.num_attention_heads

    def _initialize(self) -> None:
        """Xavier-uniform linears with zero bias, N(0, 0.02) embeddings; every branch and the output start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        closed = [self.final_layer.modulation, self.final_layer.structure, self.final_layer.dynamics]
        closed += [block.modulation for block in self.blocks]
        closed += [block.class_attention.proj for block in self.blocks if block.class_attention is not None]
        for linear in closed:
            nn.init.zeros_(linear.weight)

    def _register_rotary(self, device: torch.device) -> None:
        """Register the tables of `rotary_positions` on a device, float32."""
        tables = None, None
        if self.config.positions == "rotary":
            tables = rotary_positions(self.layout.positions.to(device), self._head_dim)
        for name, table in zip(("rotary_cos", "rotary_sin"), tables, strict=True):
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> "VidTwinDiT":
        """Move or cast the module, and restore the rotary tables in float32, which a cast would have rounded."""
        super()._apply(fn, recurse)
        if self.rotary_cos is not None and self.rotary_cos.dtype != torch.float32:
            self._register_rotary(self.rotary_cos.device)
        return self

    def forward(
        self,
        tokens: torch.Tensor,
        timestep: torch.Tensor | float,
        class_labels: torch.Tensor,
        return_dict: bool = True,
    ) -> VidTwinDiTOutput | tuple[torch.Tensor]:
        """Predict the target of `prediction_type`.

        Args:
            tokens: float (B, N, D), the noisy latents as packed by `layout`; values on padding are ignored.
            timestep: in [0, 1000] (rectified flow: 1000 sigma): a scalar, (B,), (B, 2) for structure and dynamics, or
                (B, 1 + G) for structure and each of the G = `layout.num_frame_patches` patches of frames of dynamics.
            class_labels: long (B,), in [0, K]; K is the null class. The range is not checked here: that would make the
                device wait.
            return_dict: whether to return a `VidTwinDiTOutput` rather than a tuple.

        Returns:
            `sample` (B, N, D), zero on padding.

        Raises:
            ValueError: if a shape does not fit (UserError for that of the time).
        """
        timestep = self._check_inputs(tokens, timestep, class_labels)  # (B, 1, 2 or 1 + G)
        time_rows = self.time_rows if timestep.shape[1] > 2 else None
        tokens_per_type = (self.layout.num_structure_tokens, self.layout.num_dynamics_tokens)
        x = self._embed_tokens(tokens, tokens_per_type)  # (B, N, C)
        condition, class_vector = self._embed_condition(timestep, class_labels, tokens.dtype)
        rotary = None if self.rotary_cos is None else (self.rotary_cos, self.rotary_sin)
        for block in self.blocks:
            arguments = (x, condition, tokens_per_type, class_vector, rotary, time_rows)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
        x = self.final_layer(x, condition, tokens_per_type, time_rows)  # (B, N, D)
        sample = torch.where(self.mask, x, 0.0)
        return VidTwinDiTOutput(sample=sample) if return_dict else (sample,)

    def _embed_tokens(self, tokens: torch.Tensor, tokens_per_type: tuple[int, int]) -> torch.Tensor:
        """(B, N, D) -> (B, N, C), with their type and, unless it is rotary, their position."""
        tokens = torch.where(self.mask, tokens, 0.0)
        structure, dynamics = tokens.split(tokens_per_type, dim=1)  # (B, N_S, D), (B, N_D, D)
        structure = self.structure_in(structure[..., : self.layout.structure_dim])  # (B, N_S, C)
        dynamics = self.dynamics_in(dynamics[..., : self.layout.dynamics_dim])  # (B, N_D, C)
        # The stream has the dtype of the tokens, whatever autocast or FSDP makes of the weights.
        added = self.type_embedding(self.type_ids).to(tokens.dtype)  # (N, C)
        if self.position_embedding is not None:
            added = added + self.position_embedding.to(added.dtype)
        return torch.cat([structure, dynamics], dim=1) + added  # (B, N, C)

    def _embed_condition(
        self, timestep: torch.Tensor, class_labels: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, R) times, (B,) labels -> condition (B, R, C) in a dtype, and the (B, 1, class_dim) that blocks read."""
        frequencies = self.time_frequencies(timestep.flatten())  # (B R, 256)
        condition = self.time_embedding(frequencies.to(self.class_embedding.weight.dtype))  # (B R, C)
        condition = condition.unflatten(0, timestep.shape).to(dtype)  # (B, R, C)
        class_vector = self.class_embedding(class_labels)[:, None]  # (B, 1, class_dim)
        if self.config.conditioning == "cross_attention":
            return F.silu(condition), class_vector
        return F.silu(condition + class_vector), None

    def _check_inputs(
        self, tokens: torch.Tensor, timestep: torch.Tensor | float, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """Check the shapes; returns the time as (B, 1), (B, 2) or (B, 1 + G)."""
        self.layout.check(tokens)
        batch_size = len(tokens)
        if class_labels.shape != (batch_size,):
            raise ValueError(f"class_labels must be ({batch_size},) like tokens, got {tuple(class_labels.shape)}")
        timestep = torch.as_tensor(timestep, device=tokens.device)
        if timestep.ndim == 0:
            timestep = timestep.expand(batch_size)
        rows = 1 + self.layout.num_frame_patches
        if timestep.shape not in ((batch_size,), (batch_size, 2), (batch_size, rows)):
            raise UserError(
                f"timestep must be a scalar, ({batch_size},), ({batch_size}, 2) or ({batch_size}, {rows}), of the "
                "structure and of each dynamics token along the frames, which holds "
                f"{self.layout.dynamics_patch_size[0]} of them, got {tuple(timestep.shape)}"
            )
        return timestep.reshape(batch_size, -1)  # (B, 1, 2 or 1 + G)

    def set_statistics(
        self,
        structure_mean: Sequence[float] | None,
        structure_std: Sequence[float] | None,
        dynamics_mean: Sequence[float] | None,
        dynamics_std: Sequence[float] | None,
    ) -> None:
        """Work in the scale of these statistics per channel from now on; the config has them, too.

        Raises:
            ValueError, UserError: as `LatentScale`.
        """
        statistics = dict(zip(STATISTICS, (structure_mean, structure_std, dynamics_mean, dynamics_std), strict=True))
        channels = self.config.structure_shape[0], self.config.dynamics_shape[0]
        self.scale = LatentScale(channels, **statistics)
        self.register_to_config(**statistics)

    def add_classes(self, names: Sequence[str], rows: torch.Tensor) -> None:
        """Give the model further classes, whose ids follow those that it has; the null class stays the last one.

        Args:
            names: of the new classes.
            rows: (n, class_dim) their rows of the class embedding; they are copied.

        Raises:
            UserError: if the classes have no names, or there is one of these names already.
        """
        if not names:
            return
        if self.config.id2label is None:
            raise UserError(f"the classes of this model have no names, to which {', '.join(names)} could be added")
        known = self.class_names
        if taken := [name for name in names if name in known]:
            raise UserError(f"the model has a class {taken[0]!r} already")
        weight = self.class_embedding.weight.detach()  # (K + 1, class_dim)
        self._set_classes([*known, *names], torch.cat([weight[:-1], rows.to(weight), weight[-1:]]))

    def remove_classes(self, names: Sequence[str]) -> None:
        """Take away classes, by name; the ids of those behind them move up.

        Raises:
            ValueError: if there is no such class.
        """
        known = self.class_names
        gone = [known.index(name) for name in names]
        kept = [row for row in range(self.config.num_classes + 1) if row not in gone]
        weight = self.class_embedding.weight.detach()[kept]
        self._set_classes([name for name in known if name not in names], weight)

    @property
    def class_names(self) -> list[str]:
        """The class names in the order of the ids, which a saved config does not keep to; the classes must have any."""
        return [self.config.id2label[str(label)] for label in range(self.config.num_classes)]

    def _set_classes(self, names: list[str], weight: torch.Tensor) -> None:
        trains = self.class_embedding.weight.requires_grad
        self.class_embedding = nn.Embedding.from_pretrained(weight.contiguous(), freeze=not trains)
        id2label = {str(label): name for label, name in enumerate(names)}
        self.register_to_config(num_classes=len(names), id2label=id2label)

    def normalize(self, latents: VidTwinLatents) -> VidTwinLatents:
        """Latents of the autoencoder to the scale the model works in: (z - mean) / std per channel; shapes are kept."""
        return self.scale.normalize(latents)

    def denormalize(self, latents: VidTwinLatents) -> VidTwinLatents:
        """The inverse of `normalize`: the model's scale to the autoencoder's; shapes are kept."""
        return self.scale.denormalize(latents)


def _checked_names(id2label: dict | None, num_classes: int) -> dict[str, str] | None:
    if id2label is None:
        return None
    names = {str(key): name for key, name in id2label.items()}
    if names.keys() != {str(index) for index in range(num_classes)}:
        raise UserError(
            f"id2label must name the ids 0 to {num_classes - 1} of num_classes={num_classes}, got {list(names)}"
        )
    return names
