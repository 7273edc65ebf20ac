"""Packing both latents into one sequence of tokens, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinLatents

STRUCTURE = 0  # type of a token; 1 and 2 are dynamics along x and along y


@dataclass(frozen=True)
class _Patches:
    """A (T, H, W) grid with `channels` numbers per position, cut into patches; sides are padded at the end to fit."""

    channels: int
    size: tuple[int, int, int]
    patch: tuple[int, int, int]

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(math.ceil(size / patch) for size, patch in zip(self.size, self.patch, strict=True))

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def token_dim(self) -> int:
        return self.channels * math.prod(self.patch)

    @property
    def coordinates(self) -> torch.Tensor:
        """(num_tokens, 3): the place of each patch in `grid`."""
        return torch.cartesian_prod(*(torch.arange(side) for side in self.grid))

    def pack(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, channels, T, H, W) -> (B, num_tokens, token_dim)."""
        (t, h, w), (pt, ph, pw) = self.size, self.patch
        volume = F.pad(volume, (0, -w % pw, 0, -h % ph, 0, -t % pt))
        return rearrange(volume, "b c (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw)

    def unpack(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, num_tokens, token_dim) -> (B, channels, T, H, W)."""
        (t, h, w), (gt, gh, gw), (pt, ph, pw) = self.size, self.grid, self.patch
        sides = {"t": gt, "h": gh, "w": gw, "pt": pt, "ph": ph, "pw": pw}
        volume = rearrange(tokens, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", **sides)
        return volume[:, :, :t, :h, :w]


class TokenLayout:
    """The order of both latents' numbers in one sequence of tokens (arXiv 2412.17726).

    The structure latent is a small video of (query, row, column). The dynamics latent is two planes, (frame, x) and
    (frame, y); they are patched and padded separately, so that no token mixes the two axes. The order is structure,
    dynamics x, dynamics y; all tokens are padded to the width of the wider kind, so that one float tensor holds the
    sample that a diffusion scheduler steps on.

    Args:
        structure_shape: (d_S, n_q, h_S, w_S).
        dynamics_shape: (d_D, F, w_D + h_D).
        dynamics_axes: (w_D, h_D), the positions along x and along y.
        structure_patch_size: patch over (query, row, column).
        dynamics_patch_size: patch over (frame, position).

    Attributes:
        num_tokens, num_structure_tokens, num_dynamics_tokens: N and its two parts.
        token_dim, structure_dim, dynamics_dim: D, and the width of a structure and of a dynamics token before it is
            padded to D.
        mask: bool (N, D), True where a token holds a number of the latents, False on padding of either sort.
        type_ids: long (N,), 0 structure, 1 dynamics x, 2 dynamics y.
        positions: long (N, 3), place of the patch: (query, row, column), or (frame, axis, place) with axis 0 for x and
            1 for y.
        num_frame_patches: patches G of the dynamics along the frames; all frames of a patch have one time.
        time_rows: long (N,), the column of times (B, 1 + G) that is a token's: 0 for structure, 1 + g for dynamics of
            frame patch g.

    Raises:
        UserError: for a size that is not a positive integer, a wrong number of sizes, or axes that do not add up.
    """

    def __init__(
        self,
        structure_shape: Sequence[int],
        dynamics_shape: Sequence[int],
        dynamics_axes: Sequence[int],
        structure_patch_size: Sequence[int] = (1, 1, 1),
        dynamics_patch_size: Sequence[int] = (1, 1),
    ):
        self.structure_shape = _sizes("structure_shape", structure_shape, "(d_S, n_q, h_S, w_S)")
        self.dynamics_shape = _sizes("dynamics_shape", dynamics_shape, "(d_D, F, w_D + h_D)")
        self.dynamics_axes = _sizes("dynamics_axes", dynamics_axes, "(w_D, h_D)")
        self.structure_patch_size = _sizes("structure_patch_size", structure_patch_size, "(query, row, column)")
        self.dynamics_patch_size = _sizes("dynamics_patch_size", dynamics_patch_size, "(frame, position)")
        if sum(self.dynamics_axes) != self.dynamics_shape[-1]:
            raise UserError(
                f"dynamics_axes {self.dynamics_axes} must add up to the {self.dynamics_shape[-1]} positions of "
                f"dynamics_shape {self.dynamics_shape}"
            )

        channels, frames, _ = self.dynamics_shape
        frame_patch, place_patch = self.dynamics_patch_size
        self._parts = (
            _Patches(self.structure_shape[0], self.structure_shape[1:], self.structure_patch_size),
            *(_Patches(channels, (frames, 1, side), (frame_patch, 1, place_patch)) for side in self.dynamics_axes),
        )
        self.num_structure_tokens, *planes = (part.num_tokens for part in self._parts)
        self.num_dynamics_tokens = sum(planes)
        self.num_tokens = self.num_structure_tokens + self.num_dynamics_tokens
        self.structure_dim, self.dynamics_dim, _ = (part.token_dim for part in self._parts)
        self.token_dim = max(self.structure_dim, self.dynamics_dim)

        ones = VidTwinLatents(torch.ones(1, *self.structure_shape), torch.ones(1, *self.dynamics_shape))
        self.mask = self.pack(ones)[0].bool()
        self.type_ids = torch.cat([torch.full((part.num_tokens,), kind) for kind, part in enumerate(self._parts)])
        structure, along_x, along_y = (part.coordinates for part in self._parts)
        self.positions = torch.cat([structure, along_x, along_y + torch.tensor([0, 1, 0])])
        self.num_frame_patches = self._parts[1].grid[0]
        self.time_rows = torch.where(self.type_ids == STRUCTURE, 0, 1 + self.positions[:, 0])

    def pack(self, latents: VidTwinLatents) -> torch.Tensor:
        """Latents to tokens; `unpack` gives the same bits back.

        Args:
            latents: structure (B, d_S, n_q, h_S, w_S) and dynamics (B, d_D, F, w_D + h_D), of one dtype.

        Returns:
            (B, N, D), zero on padding.

        Raises:
            UserError: if the latents have other shapes than the layout.
        """
        given = tuple(latents.structure.shape[1:]), tuple(latents.dynamics.shape[1:])
        if given != (self.structure_shape, self.dynamics_shape):
            raise UserError(
                f"latents of shape {given[0]} and {given[1]} (batch left out) do not fit a layout of "
                f"{self.structure_shape} and {self.dynamics_shape}"
            )
        planes = rearrange(latents.dynamics, "b d f p -> b d f 1 p").split(self.dynamics_axes, dim=-1)
        parts = [part.pack(volume) for part, volume in zip(self._parts, (latents.structure, *planes), strict=True)]
        return torch.cat([F.pad(part, (0, self.token_dim - part.shape[-1])) for part in parts], dim=1)

    def unpack(self, tokens: torch.Tensor) -> VidTwinLatents:
        """Tokens to latents; values on padding are ignored.

        Args:
            tokens: (B, N, D).

        Returns:
            structure (B, d_S, n_q, h_S, w_S) and dynamics (B, d_D, F, w_D + h_D).

        Raises:
            ValueError: if the tokens have another shape than the layout.
        """
        self.check(tokens)
        parts = tokens.split([part.num_tokens for part in self._parts], dim=1)
        structure, *planes = (
            part.unpack(values[..., : part.token_dim]) for part, values in zip(self._parts, parts, strict=True)
        )
        return VidTwinLatents(structure.contiguous(), rearrange(torch.cat(planes, dim=-1), "b d f 1 p -> b d f p"))

    def check(self, tokens: torch.Tensor) -> None:
        """Check the shape of tokens.

        Raises:
            ValueError: if they are not (B, N, D).
        """
        if tokens.ndim != 3 or tokens.shape[1:] != self.mask.shape:
            raise ValueError(f"tokens must be (B, {self.num_tokens}, {self.token_dim}), got {tuple(tokens.shape)}")


def _sizes(name: str, values: Sequence[int], meaning: str) -> tuple[int, ...]:
    count = meaning.count(",") + 1
    if len(values) != count or not all(type(value) is int and value > 0 for value in values):
        raise UserError(f"{name} must be {count} positive integers {meaning}, got {values}")
    return tuple(values)
