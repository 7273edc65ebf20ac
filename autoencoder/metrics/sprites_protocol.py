"""The Sprites benchmark for an autoencoder: what decoded clips show if one latent is kept and the other one changed.

*Exchanged*: dynamics of one held-out clip, structure of another one, which shows another character in another action.
*Sampled*: the other latent is drawn from N(0, 1), the prior of both latents, or by a generative model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed, generators
from autoencoder.data.sprites import Sprites
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.sprites_judge import Readings, SpritesJudge
from autoencoder.metrics.sprites_scores import SpritesScores, score
from autoencoder.vidtwin import AutoencoderVidTwin

CLIPS_AT_A_TIME = 64  # decoded clips are judged and forgotten: all of them would take gigabytes


@dataclass(frozen=True)
class JudgedClips:
    """Held-out clips 0 to N - 1, by what they show.

    Attributes:
        actions: int64 (N,).
        attributes: int64 (N, 4).
        partners: int64 (N,): for every clip another one, of another character in another action.
    """

    actions: torch.Tensor
    attributes: torch.Tensor
    partners: torch.Tensor

    def __len__(self) -> int:
        return len(self.actions)


def choose_clips(sprites: Sprites, count: int | None = None, seed: int = 0) -> JudgedClips:
    """What the clips to be judged show, and their partners.

    Args:
        sprites: the held-out part of the data set.
        count: judge the first clips only; None judges all.
        seed: what the partners depend on.

    Raises:
        UserError: if there are fewer clips, or a clip has no partner among them.
    """
    count = len(sprites) if count is None else count
    if not 0 < count <= len(sprites):
        raise UserError(f"count must lie in 1 to {len(sprites)}, the number of held-out clips, got {count}")
    actions = np.array([sprites.label(index) for index in range(count)])
    attributes = np.array([sprites.attributes(index) for index in range(count)])
    draw = np.random.default_rng(derive_seed(seed, "partners"))
    partners = np.array([_partner(index, actions, attributes, draw) for index in range(count)])
    return JudgedClips(*map(torch.from_numpy, (actions, attributes, partners)))


def _partner(index: int, actions: np.ndarray, attributes: np.ndarray, draw: np.random.Generator) -> int:
    others = np.flatnonzero((actions != actions[index]) & (attributes != attributes[index]).any(axis=1))
    if not len(others):
        raise UserError(
            f"none of the {len(actions)} clips shows another character than clip {index} in another action: judge more"
        )
    return int(draw.choice(others))


class SpritesProtocol:
    """An autoencoder and a judge on held-out sprites.

    Args:
        vae: in eval mode.
        judge: on any device.
        sprites: the held-out part of the data set, in the autoencoder's frames and size.
        count: judge the first clips only; None judges all.
        seed: what partners and samples of the prior depend on.

    Raises:
        UserError: as `choose_clips`, and if the clips are too small for the judge.
    """

    def __init__(
        self,
        vae: AutoencoderVidTwin,
        judge: SpritesJudge,
        sprites: Sprites,
        count: int | None = None,
        seed: int = 0,
    ):
        self.vae, self.judge, self.seed = vae, judge, seed
        self.clips = choose_clips(sprites, count, seed)
        real, latents = [], []
        for batch in _batches(len(self.clips)):
            clips = torch.stack([sprites.clip(index, None) for index in range(len(self.clips))[batch]])
            real.append(judge.read(clips))
            latents.append(encode_clips(vae, clips))
        self.real, self.latents = _joined(real), VidTwinLatents.cat(latents)

    def rows(self, samples: VidTwinLatents | None = None) -> dict[str, SpritesScores]:
        """All scores by name, in the order to print them.

        Args:
            samples: as many latents as there are clips, drawn by a generative model; None leaves its rows out.
        """
        actions, attributes, partners = self.clips.actions, self.clips.attributes, self.clips.partners
        own, other = self.latents, self.latents[partners.to(self.latents.structure.device)]
        exchanged = self.read(other.structure, own.dynamics)
        rows = {
            "real clips": score(self.real, actions, attributes),
            "reconstructions": score(self.read(own.structure, own.dynamics), actions, attributes),
            "exchanged: action of D, content of S": score(exchanged, actions, attributes[partners]),
            "exchanged: action of S, content of D": score(exchanged, actions[partners], attributes),
        }
        drawn = {"N(0, 1)": self.sample_prior()} | ({} if samples is None else {"the pipeline": samples})
        for name, latents in drawn.items():
            rows[f"D kept, S of {name}"] = score(self.read(latents.structure, own.dynamics), actions=actions)
            rows[f"S kept, D of {name}"] = score(self.read(own.structure, latents.dynamics), attributes=attributes)
        return rows

    def read(self, structure: torch.Tensor, dynamics: torch.Tensor) -> Readings:
        """What the judge reads in the clips decoded from N structure and N dynamics latents."""
        latents = VidTwinLatents(structure, dynamics)
        return _joined([self.judge.read(decode_clips(self.vae, latents[batch])) for batch in _batches(len(latents))])

    def sample_prior(self) -> VidTwinLatents:
        """Latents from N(0, 1), as many as there are clips; those of a clip depend on the seed and its index alone."""
        count = len(self.clips)

        def draw(name: str, shape: Sequence[int]) -> torch.Tensor:
            return randn_tensor((count, *shape), generators(self.seed, f"prior of {name}", range(count)))

        latents = VidTwinLatents(draw("structure", self.vae.structure_shape), draw("dynamics", self.vae.dynamics_shape))
        return latents.to(self.vae.device, self.vae.dtype)


def _batches(count: int) -> list[slice]:
    return [slice(start, start + CLIPS_AT_A_TIME) for start in range(0, count, CLIPS_AT_A_TIME)]


def _joined(parts: Sequence[Readings]) -> Readings:
    return Readings(*(torch.cat(values) for values in zip(*parts, strict=True)))
