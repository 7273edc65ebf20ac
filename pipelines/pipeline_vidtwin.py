"""Class-conditional video generation: noise -> tokens -> latents -> video."""

import difflib
import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image

# `from_pretrained` finds the classes of the components among the modules that are already imported.
from autoencoder.common.cost import Cost, count_flops, measure
from autoencoder.common.errors import NumericalError, UserError
from autoencoder.latents import Generators, VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.dit import VidTwinDiT
from pipelines.conditioning import Denoiser, GivenLatent, Guidance, GuidanceScale, LatentSource, read_latents
from pipelines.schedulers import check_scheduler, set_timesteps, step_arguments

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("np", "pt", "pil", "latent")
StepCallback = Callable[["VidTwinDiffusionPipeline", int, torch.Tensor, dict[str, torch.Tensor]], dict | None]


@dataclass
class PipelineCost:
    """What a call cost.

    Attributes:
        sampling: all calls of the transformer, those for the null class included, and the scheduler.
        decoding: the autoencoder's decoder; None for `output_type="latent"`.

    Encoding a video that a latent is taken from is not part of it.
    """

    sampling: Cost
    decoding: Cost | None

    def __str__(self) -> str:
        return f"sampling {self.sampling}" + ("" if self.decoding is None else f"; decoding {self.decoding}")


@dataclass
class VidTwinPipelineOutput(BaseOutput):
    """Result of the pipeline, classes in the order given and the videos of a class in a row.

    Attributes:
        frames: "np": float32 (B, T, H, W, 3) in [0, 1]; "pt": likewise (B, T, 3, H, W); "pil": a list of images per
            video; "latent": `VidTwinLatents` in the autoencoder's scale.
        cost: FLOPs, peak memory and seconds.
    """

    frames: np.ndarray | torch.Tensor | list[list[Image.Image]] | VidTwinLatents
    cost: PipelineCost


class VidTwinDiffusionPipeline(DiffusionPipeline):
    """Generates videos of a class with the diffusion transformer and the decoder (PAPER.md, Generation).

    Whether the models are in train or eval mode does not matter: nothing that runs here depends on it.

    Args:
        vae: the autoencoder; its encoder is used only where a latent is taken from a video.
        transformer: the denoiser; its config says what it predicts, the classes, and the statistics of the latents.
        scheduler: one of `pipelines.schedulers.SCHEDULERS` for that prediction.

    Raises:
        ValueError: if the transformer was built for latents of another shape than the autoencoder's.
    """

    model_cpu_offload_seq = "transformer->vae"

    def __init__(self, vae: AutoencoderVidTwin, transformer: VidTwinDiT, scheduler: SchedulerMixin):
        super().__init__()
        layout = transformer.layout
        given, expected = (layout.structure_shape, layout.dynamics_shape), (vae.structure_shape, vae.dynamics_shape)
        if given != expected:
            raise UserError(f"the transformer makes latents of shape {given}, the autoencoder takes {expected}")
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        self.video_processor = VideoProcessor(vae_scale_factor=1, do_resize=False)

    @torch.no_grad()
    def __call__(
        self,
        class_id: int | str | Sequence[int | str],
        num_inference_steps: int = 50,
        guidance_scale: GuidanceScale = 5.0,
        num_videos_per_class: int = 1,
        generator: int | Generators = None,
        latents: VidTwinLatents | None = None,
        output_type: str = "np",
        callback_on_step_end: StepCallback | None = None,
        decode_chunk_size: int | None = None,
        eta: float = 0.0,
        return_dict: bool = True,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        structure: LatentSource | None = None,
        dynamics: LatentSource | None = None,
        clip_fps: float | None = 8.0,
        clip_start: float = 0.0,
    ) -> VidTwinPipelineOutput | tuple:
        """Generate videos: both latents of them, or one latent to go with a given one.

        The given latent reaches the transformer clean, with time 0, at every step; the noise of the other is the one
        that the same generator gives without it.

        Args:
            class_id: class as a 0-based id or as a name of the transformer's `id2label`, or a list of either.
            num_inference_steps: steps of the scheduler.
            guidance_scale: g in `null + g (conditional - null)`, or a pair of them (structure, dynamics); 1 calls the
                transformer for the condition alone. The null class is still told the given latent.
            num_videos_per_class: videos of each class.
            generator: a list with one generator per video, or an int seed from which video i takes seed + i; a video
                then depends on its own generator alone, not on the batch around it. One bare generator fills the batch.
            latents: noise N(0, 1) to start from, one per video, in place of drawn noise.
            output_type: "np", "pt", "pil" or "latent".
            callback_on_step_end: called as (pipeline, index, timestep, {"latents": tokens}) after every call of the
                transformer, tokens (B, N, D) float32; the dict it returns may hold other tokens to go on with.
            decode_chunk_size: videos decoded at a time, all by default.
            eta: share of fresh noise in DDIM's steps.
            return_dict: whether to return a `VidTwinPipelineOutput` rather than the tuple (frames, cost).
            guidance_interval: lowest and highest noise level, in shares of the schedule (timestep / 1000), with
                guidance; at the others the transformer is called for the condition alone (arXiv 2404.07724).
            structure: a structure latent to sample the dynamics for, p(D | S, c): `VidTwinLatents`, a tensor (B, d_S,
                n_q, h_S, w_S) in the autoencoder's scale, or a file (`read_latents`) or a list of them; one for all
                videos or one per video. It comes out as it went in, in float32.
            dynamics: likewise a dynamics latent (B, d_D, F, w_D + h_D), p(S | D, c).
            clip_fps: frames taken per second of a video file; None takes every frame.
            clip_start: second of a video file from which on the clip is taken.

        Raises:
            ValueError: for an unknown class, a scheduler that does not fit, arguments that do not fit each other, or
                a given latent for a transformer that was not trained with independent_times.
            FileNotFoundError, UnreadableVideo: if a latent cannot be taken from its file.
            FloatingPointError: if the latents come out as NaN or infinity.
        """
        _check_numbers(num_inference_steps, num_videos_per_class, decode_chunk_size, output_type)
        guidance = Guidance(guidance_scale, guidance_interval)
        check_scheduler(self.scheduler, self.transformer.config.prediction_type)
        classes = [class_id] if isinstance(class_id, str) or not isinstance(class_id, Sequence) else class_id
        labels = [self.label(value) for value in classes for _ in range(num_videos_per_class)]
        if not labels:
            raise UserError("class_id is an empty list: nothing to generate")
        given = self._given_latent(structure, dynamics, len(labels), clip_fps, clip_start)
        generator = _generators(generator, len(labels))
        tokens = self._initial_tokens(len(labels), generator, latents)
        steps = step_arguments(self.scheduler, generator, eta)

        denoiser = Denoiser(self.transformer, torch.tensor(labels, device=tokens.device), guidance, given)
        tokens, sampling = self._sample(tokens, denoiser, num_inference_steps, steps, callback_on_step_end)
        latents = self.transformer.denormalize(self.transformer.layout.unpack(tokens))
        if given is not None:
            latents = given.into_latents(latents)
        if not all(part.isfinite().all() for part in (latents.structure, latents.dynamics)):
            raise NumericalError(f"sampling in {self.transformer.dtype} gave latents that are not finite")
        if output_type == "latent":
            frames, decoding = latents, None
        else:
            video, decoding = self._decode(latents, decode_chunk_size or len(latents))
            frames = self.video_processor.postprocess_video(video, output_type)

        cost = PipelineCost(sampling, decoding)
        logger.info("%d videos: %s", len(latents), cost)
        self.maybe_free_model_hooks()
        return VidTwinPipelineOutput(frames=frames, cost=cost) if return_dict else (frames, cost)

    def label(self, class_id: int | str) -> int:
        """The 0-based id of a class.

        Raises:
            ValueError: for an id out of range or an unknown name; the message holds the nearest classes.
            TypeError: for anything else.
        """
        config = self.transformer.config
        names = [(config.id2label or {}).get(str(index), "") for index in range(config.num_classes)]
        if isinstance(class_id, str):
            return _label_of_name(class_id, names)
        if not hasattr(class_id, "__index__"):
            raise TypeError(f"a class is an int or a str, got {class_id!r}")
        index = operator.index(class_id)
        if not 0 <= index < len(names):
            nearest = range(len(names))[-3:] if index > 0 else range(len(names))[:3]
            nearest = ", ".join(f"{near} {names[near]}".strip() for near in nearest)
            raise UserError(f"class_id={index} is not in 0 to {len(names) - 1}; the nearest are: {nearest}")
        return index

    def _initial_tokens(self, batch_size: int, generator: Generators, noise: VidTwinLatents | None) -> torch.Tensor:
        """Noise (B, N, D) in float32, zero on padding.

        It is drawn in the shape of the latents, so that a seed means the same noise for every patch size.
        """
        device, layout = self._execution_device, self.transformer.layout
        if noise is None:
            shapes = layout.structure_shape, layout.dynamics_shape
            draws = (
                randn_tensor((batch_size, *shape), generator, torch.device(device), torch.float32) for shape in shapes
            )
            noise = VidTwinLatents(*draws)
        if len(noise) != batch_size:
            raise UserError(f"latents hold noise for {len(noise)} videos, {batch_size} are asked for")
        return layout.pack(noise.to(device, torch.float32))  # (B, N, D)

    def _given_latent(
        self,
        structure: LatentSource | None,
        dynamics: LatentSource | None,
        batch_size: int,
        clip_fps: float | None,
        clip_start: float,
    ) -> GivenLatent | None:
        if structure is not None and dynamics is not None:
            raise UserError("structure and dynamics are both given: there is nothing left to sample")
        if structure is None and dynamics is None:
            return None
        name, source = ("dynamics", dynamics) if structure is None else ("structure", structure)
        device = torch.device(self._execution_device)
        read = partial(read_latents, vae=self.vae, clip_fps=clip_fps, clip_start=clip_start, device=device)
        return GivenLatent.make(name, source, batch_size, self.transformer, device, read)

    def _sample(
        self,
        tokens: torch.Tensor,
        denoiser: Denoiser,
        num_inference_steps: int,
        step_kwargs: dict,
        callback: StepCallback | None,
    ) -> tuple[torch.Tensor, Cost]:
        """Run the scheduler from noise (B, N, D) to tokens (B, N, D), both float32 whatever the models' dtype."""
        prediction_type = self.transformer.config.prediction_type
        timesteps = set_timesteps(self.scheduler, num_inference_steps, prediction_type, tokens.device)
        guided = [denoiser.is_guided(timestep) for timestep in timesteps.tolist()]
        tokens = tokens * getattr(self.scheduler, "init_noise_sigma", 1.0)
        flops = {kind: denoiser.flops(tokens, timesteps[0], kind) for kind in set(guided)}

        with measure(tokens.device) as cost, self.progress_bar(total=len(timesteps)) as progress_bar:
            for index, timestep in enumerate(timesteps):
                inputs = tokens
                if hasattr(self.scheduler, "scale_model_input"):
                    inputs = self.scheduler.scale_model_input(tokens, timestep)
                prediction = denoiser(inputs, timestep, guided[index])
                tokens = self.scheduler.step(prediction, timestep, tokens, **step_kwargs, return_dict=False)[0]
                if callback is not None:
                    state = {"latents": denoiser.with_given(tokens)}
                    tokens = (callback(self, index, timestep, state) or {}).get("latents", tokens)
                progress_bar.update()
        cost.flops = sum(flops[kind] for kind in guided)
        return tokens, cost

    def _decode(self, latents: VidTwinLatents, chunk_size: int) -> tuple[torch.Tensor, Cost]:
        """Video (B, 3, T, H, W) in float32, about [-1, 1]."""
        latents = latents.to(self.vae.dtype)
        chunks = [latents[start : start + chunk_size] for start in range(0, len(latents), chunk_size)]
        flops = sum(count_flops(self.vae.decode, chunk) for chunk in chunks)
        with measure(latents.structure.device) as cost:
            video = torch.cat([self.vae.decode(chunk).sample.float() for chunk in chunks])  # (B, 3, T, H, W)
        cost.flops = flops
        return video, cost


def _check_numbers(
    num_inference_steps: int, num_videos_per_class: int, decode_chunk_size: int | None, output_type: str
) -> None:
    counts = {"num_inference_steps": num_inference_steps, "num_videos_per_class": num_videos_per_class}
    if decode_chunk_size is not None:
        counts["decode_chunk_size"] = decode_chunk_size
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type={output_type!r} is none of {', '.join(OUTPUT_TYPES)}")


def _generators(generator: int | Generators, batch_size: int) -> Generators:
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, list):
        if len(generator) != batch_size:
            raise UserError(f"generator is a list of {len(generator)} for {batch_size} videos: give one per video")
        return generator
    seed = operator.index(generator)
    # On the CPU, so that a seed means the same noise on every device.
    return [torch.Generator().manual_seed(seed + index) for index in range(batch_size)]


def _label_of_name(name: str, names: list[str]) -> int:
    if not any(names):
        raise UserError(f"the transformer has no class names: give an id in 0 to {len(names) - 1} for {name!r}")
    if name in names:
        return names.index(name)
    labels = {known.casefold(): index for index, known in enumerate(names)}
    if name.casefold() not in labels:
        nearest = difflib.get_close_matches(name.casefold(), labels, n=3, cutoff=0.0)
        nearest = ", ".join(f"{names[labels[key]]} ({labels[key]})" for key in nearest)
        raise UserError(f"there is no class {name!r}; the nearest are: {nearest}")
    return labels[name.casefold()]
