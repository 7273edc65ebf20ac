"""Whether a pipeline of moving shapes reaches its goals: do its latents separate, and do its samples show their class?

All that is decoded is judged by the oracle. Two rows of figures stand beside a pipeline's own: what the oracle says of
real clips, and of what the same autoencoder decodes from latents of real clips only, none of them sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError
from autoencoder.data import Shapes
from autoencoder.data.shapes import CLASS_NAMES, SPLITS
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.exchanged_clips import exchanged_shapes
from autoencoder.metrics.oracle import Verdict, confirms, oracle
from autoencoder.metrics.reconstruction import clips_psnr
from autoencoder.metrics.separation import agreement, mean_agreement
from autoencoder.vidtwin import AutoencoderVidTwin
from pipelines.arguments import check_count
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.recombination import Sources, sample

FIRST_SEED = 1_000_000  # of the samples; previews and choices of settings look at seeds from 0 on
NUM_HELD_OUT = SPLITS["val"][1]
EXCHANGE_SEED = 0  # of the pairs that exchange their latents: those of `python -m benchmarks.separation`

# Figure -> the kind of clips, and what has to be right in them.
FIGURES = {
    "exchange_content": ("exchange", "content"),
    "exchange_motion": ("exchange", "motion"),
    "samples": ("samples", "both"),
    "dynamics_motion": ("dynamics", "motion"),
    "dynamics_shape": ("dynamics", "shape"),
    "structure_shape": ("structure", "shape"),
    "structure_motion": ("structure", "motion"),
    "reconstructions": ("reconstructions", "both"),
}
GIVEN = {"samples": None, "dynamics": "structure", "structure": "dynamics"}  # what is sampled -> the latent given


@dataclass(frozen=True)
class GoalSettings:
    """What to sample and to judge.

    Attributes:
        samples_per_class: samples of every class, with both latents sampled and with either one given.
        exchanged_pairs: pairs of held-out clips that exchange their latents, both ways.
        held_out_clips: to reconstruct.
        num_inference_steps, guidance_scale: as in the pipeline.

    Raises:
        UserError: if a count is below 1, or there are not as many held-out clips.
    """

    samples_per_class: int = 10
    exchanged_pairs: int = 100
    held_out_clips: int = 200
    num_inference_steps: int = 50
    guidance_scale: float = 2.0

    def __post_init__(self):
        for name in ("samples_per_class", "exchanged_pairs", "held_out_clips", "num_inference_steps"):
            check_count(name, getattr(self, name))
        # The partners of the clips that give a latent lie up to four further on.
        limits = {"held_out_clips": NUM_HELD_OUT, "samples_per_class": (NUM_HELD_OUT - 4) // len(CLASS_NAMES)}
        for name, most in limits.items():
            if getattr(self, name) > most:
                raise UserError(f"{name} must be at most {most}, got {getattr(self, name)}: there are no more clips")


@dataclass(frozen=True)
class JudgedClips:
    """Clips, and what is right in each.

    Attributes:
        clips: uint8 (N, T, H, W, 3).
        right: of every clip: `shape` and `motion`, or `content` and `motion` if the latents are of two clips; and
            `both`.
        class_names: the class asked for; empty if none is.
    """

    clips: torch.Tensor
    right: list[dict[str, bool]]
    class_names: list[str] = field(default_factory=list)

    def share(self, name: str) -> float:
        """Share of the clips in which this is right, in [0, 1]."""
        return sum(clip[name] for clip in self.right) / len(self.right)

    def by_class(self) -> dict[str, float]:
        """For every class asked for, the share of its clips in which all is right."""
        both: dict[str, list[bool]] = {}
        for name, clip in zip(self.class_names, self.right, strict=True):
            both.setdefault(name, []).append(clip["both"])
        return {name: sum(values) / len(values) for name, values in both.items()}


@dataclass(frozen=True)
class Kind:
    """One kind of clips, beside what can be reached.

    Attributes:
        decoded: what the pipeline decodes.
        unsampled: the same from latents of real clips only, those of exchanged clips from one clip; None for
            reconstructions.
        real: real clips that show what is asked for.
        sources: real clips (N, T, H, W, 3) that gave a latent, by the name of this latent.
    """

    decoded: JudgedClips
    unsampled: JudgedClips | None
    real: JudgedClips
    sources: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What was measured of a pipeline. Of each dict, a key that is missing was not measured.

    Attributes:
        figures: by key of `pipelines.goal_table.GOALS`; shares in [0, 1], or dB.
        unsampled: the same from latents of real clips only, those of exchanged clips from one clip: what the
            autoencoder allows, if its latents are apart.
        real: the same of real clips: how right the judge is.
        exchanged: for "structure" and "dynamics", what exchanged clips have in common with the clip that gave this
            latent, as of `autoencoder.metrics.separation.mean_agreement`.
        by_class: for every kind that asks for classes, the share of the clips of a class in which all is right.
        kinds: the clips by kind, of those in `FIGURES`.
    """

    figures: dict[str, float]
    unsampled: dict[str, float] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    exchanged: dict[str, dict[str, float | None]] = field(default_factory=dict)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)


def measure_goals(pipe: VidTwinDiffusionPipeline, settings: GoalSettings | None = None) -> Findings:
    """Measure a pipeline of moving shapes; all clips are held out, and the same call gives the same figures.

    It takes about a minute on two slow cores for a small model of 32 pixels with 50 steps. Without `independent_times`
    a pipeline cannot sample a latent for a given one, which is then not measured.

    Args:
        pipe: trained on moving shapes; its models in eval mode, as `load_pipeline` leaves them.
        settings: None takes the defaults.

    Raises:
        UserError: if the pipeline samples other classes, or there are fewer pairs than wanted.
    """
    settings = settings or GoalSettings()
    held_out = Shapes(pipe.vae.config.num_frames, pipe.vae.config.sample_size, "val")
    if class_names(pipe) != CLASS_NAMES:
        raise UserError(f"the goals are for moving shapes, of the classes {', '.join(CLASS_NAMES)}")
    pipe.set_progress_bar_config(disable=True)
    kinds = {"reconstructions": _reconstructions(pipe.vae, held_out, settings.held_out_clips)}
    kinds["exchange"], exchanged = _exchange(pipe.vae, held_out, settings.exchanged_pairs)
    sources = Sources(pipe.vae, held_out, settings.samples_per_class * len(CLASS_NAMES))
    for name, given in GIVEN.items():
        if given is None or pipe.transformer.config.independent_times:
            kinds[name] = _sampled(pipe, sources, given, settings)
    psnr = clips_psnr(kinds["reconstructions"].decoded.clips, kinds["reconstructions"].real.clips)
    return Findings(
        figures=_figures({name: kind.decoded for name, kind in kinds.items()}) | {"psnr": psnr},
        unsampled=_figures({name: kind.unsampled for name, kind in kinds.items() if kind.unsampled is not None}),
        real=_figures({name: kind.real for name, kind in kinds.items()}),
        exchanged=exchanged,
        by_class={name: kind.decoded.by_class() for name, kind in kinds.items() if kind.decoded.class_names},
        kinds=kinds,
    )


def class_names(pipe: VidTwinDiffusionPipeline) -> tuple[str, ...]:
    """The names of a pipeline's classes in their order; empty if they have none."""
    names = pipe.transformer.config.id2label or {}
    return tuple(names[str(label)] for label in range(len(names)))


def _figures(judged: dict[str, JudgedClips]) -> dict[str, float]:
    return {key: judged[kind].share(name) for key, (kind, name) in FIGURES.items() if kind in judged}


def _of_classes(clips: torch.Tensor, class_names: Sequence[str]) -> JudgedClips:
    """Judge clips, uint8 (N, T, H, W, 3), that should show these classes."""
    right = [confirms(oracle(clip), name) for clip, name in zip(clips, class_names, strict=True)]
    return JudgedClips(clips, right, list(class_names))


def _reconstructions(vae: AutoencoderVidTwin, held_out: Shapes, count: int) -> Kind:
    names = [held_out.class_names[held_out.label(index)] for index in range(count)]
    clips = torch.stack([held_out.clip(index) for index in range(count)])
    decoded = decode_clips(vae, encode_clips(vae, clips))
    return Kind(_of_classes(decoded, names), None, _of_classes(clips, names), {"both": clips})


def _exchange(vae: AutoencoderVidTwin, held_out: Shapes, pairs: int) -> tuple[Kind, dict[str, dict[str, float | None]]]:
    """Held-out clips that exchanged their real latents, and what they have in common with their sources, on average."""
    exchange = exchanged_shapes(held_out, pairs, EXCHANGE_SEED)
    structure = exchange.truths
    dynamics = [structure[index] for index in exchange.dynamics_of]
    latents = encode_clips(vae, exchange.clips)
    exchanged = decode_clips(vae, VidTwinLatents(latents.structure, latents.dynamics[exchange.dynamics_of]))
    decoded, agreements = _of_sources(exchanged, structure, dynamics)
    own, _ = _of_sources(decode_clips(vae, latents), structure, structure)
    real, _ = _of_sources(exchange.rendered, structure, dynamics)
    sources = {"structure": exchange.clips, "dynamics": exchange.clips[exchange.dynamics_of]}
    return Kind(decoded, own, real, sources), agreements


def _of_sources(
    clips: torch.Tensor, structure: Sequence[Verdict], dynamics: Sequence[Verdict]
) -> tuple[JudgedClips, dict[str, dict[str, float | None]]]:
    """Judge clips whose latents are of two clips, by what these show; and what they have in common, on average."""
    seen = [oracle(clip) for clip in clips]
    content, motion = (
        [agreement(*pair) for pair in zip(seen, sources, strict=True)] for sources in (structure, dynamics)
    )
    right = [{"content": a["content"], "motion": b["axis"]} for a, b in zip(content, motion, strict=True)]
    right = [clip | {"both": all(clip.values())} for clip in right]
    return JudgedClips(clips, right), {"structure": mean_agreement(content), "dynamics": mean_agreement(motion)}


def _sampled(pipe: VidTwinDiffusionPipeline, sources: Sources, given: str | None, settings: GoalSettings) -> Kind:
    latents = sample(
        pipe,
        sources,
        given,
        FIRST_SEED,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
    )
    names = [sources.class_names[label] for label in sources.classes(given)]
    real = sources.clips[sources.partners(given)]
    return Kind(
        _of_classes(decode_clips(pipe.vae, latents), names),
        _of_classes(decode_clips(pipe.vae, sources.mixed(given)), names),
        _of_classes(real, names),
        {} if given is None else {given: sources.clips[: sources.count]},
    )
