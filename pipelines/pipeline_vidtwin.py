"""Class-conditional video generation: noise -> tokens -> latents -> video."""

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor

from autoencoder.common.cost import Cost, count_flops, measure
from autoencoder.common.errors import NumericalError, UserError
from autoencoder.latents import Generators, VidTwinLatents

# `from_pretrained` finds the classes of the components among the modules that are already imported.
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.dit import VidTwinDiT
from pipelines.arguments import ClassId, Seed, check_count, class_labels, describe, make_generators
from pipelines.chaining import Plan, Windows, check_strength, history, joined
from pipelines.conditioning import Denoiser, GivenLatent, Guidance, GuidanceScale, LatentReader, LatentSource
from pipelines.lora import LoraLoaderMixin
from pipelines.model_card import write_model_card
from pipelines.output import PipelineCost, VidTwinPipelineOutput, sum_costs
from pipelines.schedulers import Solver, check_scheduler, step_arguments

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("np", "pt", "pil", "latent")
StepCallback = (
    Callable[["VidTwinDiffusionPipeline", int, torch.Tensor, dict[str, torch.Tensor]], dict | None]
    | PipelineCallback
    | MultiPipelineCallbacks
)


class VidTwinDiffusionPipeline(DiffusionPipeline, LoraLoaderMixin):
    """Generates videos of a class with the diffusion transformer and the decoder (arXiv 2412.17726).

    A callback may set `pipe._interrupt = True`, which ends the sampling after that step with its current result, and
    `pipe._guidance_scale`, which holds from the next step on. The models may be in train or eval mode: nothing that
    runs here depends on it.

    Args:
        vae: the autoencoder; its encoder is used only to take a given latent from a video.
        transformer: the denoiser; its config holds the prediction type, the classes and the latents' statistics.
        scheduler: one of `pipelines.schedulers.SCHEDULERS` for that prediction type.
        training: facts about the training for the model card (`pipelines.model_card.TRAINING`, "fps", "metrics"); they
            are saved with the pipeline.

    Raises:
        UserError: if the transformer was built for latents of another shape than the autoencoder's.
    """

    model_cpu_offload_seq = "transformer->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: AutoencoderVidTwin,
        transformer: VidTwinDiT,
        scheduler: SchedulerMixin,
        training: dict | None = None,
    ):
        super().__init__()
        layout = transformer.layout
        given, expected = (layout.structure_shape, layout.dynamics_shape), (vae.structure_shape, vae.dynamics_shape)
        if given != expected:
            raise UserError(f"the transformer makes latents of shape {given}, the autoencoder takes {expected}")
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        if training is not None:
            self.register_to_config(training=training)
        self.video_processor = VideoProcessor(vae_scale_factor=1, do_resize=False)
        self._guidance_scale: GuidanceScale = 1.0
        self._num_timesteps = 0
        self._current_timestep: torch.Tensor | None = None
        self._interrupt = False

    @property
    def guidance_scale(self) -> GuidanceScale:
        """The guidance scale of the current or the last call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether that scale needs the null class, too."""
        return any(weight != 1 for weight in Guidance(self._guidance_scale).weights)

    @property
    def num_timesteps(self) -> int:
        """Calls of the transformer in the current or the last sampling, if it is not interrupted."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """Time of the current step; None when nothing is sampled."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked the sampling to end."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        class_id: ClassId | Sequence[ClassId],
        num_inference_steps: int = 50,
        guidance_scale: GuidanceScale = 5.0,
        num_videos_per_class: int = 1,
        generator: Seed | Sequence[Seed] | None = None,
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
        callback_on_step_end_tensor_inputs: Sequence[str] | None = ("latents",),
        num_frames: int | None = None,
        overlap: int | None = None,
        structure_strength: float = 0.0,
    ) -> VidTwinPipelineOutput | tuple:
        """Generate videos: sample both latents, or one latent for a given other one.

        The given latent enters the transformer clean, with time 0, at every step; the noise of the other latent is the
        same as without a given one.

        A video longer than a clip is a chain of clips. Each has the structure of the one before, and its dynamics are
        sampled given that and the dynamics of the last frames of the clip before it. A callback that ends the sampling
        ends the video with that clip.

        Args:
            class_id: class as a 0-based id, as a name of the transformer's `id2label` or as an id in digits; or a list,
                tuple, array or tensor of these.
            num_inference_steps: steps of the scheduler; a DDPM scheduler takes at most 1000.
            guidance_scale: g in `null + g (conditional - null)`, or a pair of them (structure, dynamics); 1 evaluates
                the class alone. The null prediction is given the given latent, too.
            num_videos_per_class: videos of each class.
            generator: a list with a generator or a seed for every video, or an int seed from which video i takes
                seed + i; a video then depends on its own generator alone, not on the batch around it. One bare
                generator fills the batch.
            latents: noise N(0, 1) to start the first clip from, one per video, instead of drawn noise.
            output_type: "np", "pt", "pil", or for a single clip "latent".
            callback_on_step_end: a function, `PipelineCallback` or `MultiPipelineCallbacks`, called as (pipeline,
                index, timestep, {"latents": tokens}) after every call of the transformer, tokens (B, N, D) float32; the
                dict that it returns may hold other tokens to go on with.
            decode_chunk_size: videos decoded at a time, all by default.
            eta: share of fresh noise in DDIM's steps, in [0, 1].
            return_dict: whether to return a `VidTwinPipelineOutput` rather than the tuple (frames, cost).
            guidance_interval: lowest and highest noise level, in shares of the schedule (timestep / 1000), with
                guidance; at others the class alone is evaluated (arXiv 2404.07724).
            structure: a structure latent to sample the dynamics for, p(D | S, c): `VidTwinLatents`, a tensor (B, d_S,
                n_q, h_S, w_S) in the autoencoder's scale, a file (`read_latents`) or a list of them, or a video
                (`video_input.as_video`) such as `out.frames` or float (B, 3, T, H, W) in [-1, 1]; one for all videos
                or one per video. The output holds it unchanged, in float32.
            dynamics: likewise a dynamics latent (B, d_D, F, w_D + h_D), p(S | D, c), of a single clip.
            clip_fps: frames taken per second of a video file; None takes every frame.
            clip_start: second of a video file at which the clip starts.
            callback_on_step_end_tensor_inputs: tensors that the callback is given, of `_callback_tensor_inputs`.
            num_frames: frames of a video, a clip's by default; the last clip is cut.
            overlap: frames that a clip goes on from, whole dynamics tokens; by default half a clip.
            structure_strength: share of the steps in which the structure of a clip after the first is drawn again from
                the one before: noised so far, and denoised for the dynamics of its clip. 0 keeps it.

        Raises:
            UserError: for an unknown class, a scheduler that does not fit, arguments that do not fit each other, a
                given latent for a transformer that was not trained with independent_times, or a video longer than a
                clip of one that was not trained with a history_share.
            TypeError: for an argument of a type that has no meaning here.
            MissingFileError, UnreadableVideo: if a latent cannot be read from its file.
            NumericalError: if the latents come out as NaN or infinity.
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "return_dict")}
        plan = self._prepare(arguments)
        if plan.call.output_type == "latent" and len(plan.windows) > 1:
            raise UserError(
                f"output_type='latent' is for one clip, and num_frames={num_frames} takes {len(plan.windows)} of them: "
                "pipe.stream(..., output_type='latent') yields the latents of each"
            )
        outputs = list(self._outputs(plan))
        frames, cost = joined([out.frames for out in outputs]), sum_costs(out.cost for out in outputs)
        logger.info("%d videos: %s", len(plan.labels), cost)
        return VidTwinPipelineOutput(frames=frames, cost=cost) if return_dict else (frames, cost)

    def stream(
        self, class_id: ClassId | Sequence[ClassId], num_frames: int | None = None, **arguments: Any
    ) -> Iterator[VidTwinPipelineOutput | tuple]:
        """Generate videos clip by clip, in the memory of one clip whatever their length.

        Args:
            class_id: as in `__call__`.
            num_frames: as in `__call__`.
            **arguments: the other ones of `__call__`, by name.

        Yields:
            The new frames of each clip, those that no clip before it holds, with their cost; put together along time
            they are what `__call__` returns. With `output_type="latent"` the latents of all frames of each clip, the
            first `overlap` of which the clip before it holds, too.

        Raises:
            UserError: as `__call__`, at the call itself; so do TypeError, MissingFileError and UnreadableVideo.
            NumericalError: when the clip comes, if its latents are NaN or infinity.
        """
        call = inspect.signature(self.__call__).bind(class_id, num_frames=num_frames, **arguments)
        call.apply_defaults()
        outputs = self._outputs(self._prepare(call.arguments))
        return outputs if call.arguments["return_dict"] else (out.to_tuple() for out in outputs)

    def label(self, class_id: ClassId) -> int:
        """The 0-based id of one class.

        Raises:
            UserError: for an id out of range or an unknown name; the message holds the nearest classes.
            TypeError: for anything else.
        """
        labels = class_labels(class_id, self.transformer.config)
        if len(labels) != 1:
            raise UserError(f"one class is asked for, got {len(labels)}")
        return labels[0]

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """As `DiffusionPipeline.save_pretrained`, with a model card beside the models (`pipelines.model_card`).

        Raises:
            UserError: if LoRA weights are loaded, which a saved transformer does not hold.
        """
        self.check_without_lora(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        write_model_card(self, save_directory)

    def _prepare(self, arguments: Mapping[str, Any]) -> Plan:
        """Check all arguments of `__call__` but `return_dict`, and draw the first noise."""
        call = SimpleNamespace(**arguments)
        if isinstance(call.callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            call.callback_on_step_end_tensor_inputs = call.callback_on_step_end.tensor_inputs
        call.tensor_inputs = tuple(call.callback_on_step_end_tensor_inputs or ())
        self._check_inputs(call.latents, call.output_type, call.tensor_inputs)
        call.num_inference_steps = check_count("num_inference_steps", call.num_inference_steps)
        num_videos_per_class = check_count("num_videos_per_class", call.num_videos_per_class)
        if call.decode_chunk_size is not None:
            call.decode_chunk_size = check_count("decode_chunk_size", call.decode_chunk_size)
        windows = Windows.make(call.num_frames, call.overlap, self.transformer)
        strength = check_strength(call.structure_strength)
        if call.dynamics is not None and len(windows) > 1:
            raise UserError(f"dynamics are given, which are those of one clip: leave out num_frames={call.num_frames}")
        if call.structure is not None and strength:
            raise UserError(f"structure is given and stays: leave out structure_strength={strength}")
        Guidance(call.guidance_scale, call.guidance_interval)
        check_scheduler(self.scheduler, self.transformer.config.prediction_type)
        classes = class_labels(call.class_id, self.transformer.config)
        labels = [label for label in classes for _ in range(num_videos_per_class)]
        generator = make_generators(call.generator, len(labels))
        reader = LatentReader(self.vae, call.clip_fps, call.clip_start, torch.device(self._execution_device))
        given = GivenLatent.make(call.structure, call.dynamics, len(labels), self.transformer, reader)
        tokens = self._initial_tokens(len(labels), generator, call.latents)
        self._solver(call.num_inference_steps)  # so that a wrong number is refused here
        steps = step_arguments(self.scheduler, generator, call.eta)
        labels = torch.tensor(labels, device=tokens.device)
        return Plan(call, windows, strength, labels, generator, given, tokens, steps)

    @torch.no_grad()
    def _outputs(self, plan: Plan) -> Iterator[VidTwinPipelineOutput]:
        """The clips of a call, as `stream` yields them."""
        try:
            for index, (latents, sampling) in enumerate(self._clips(plan)):
                if plan.call.output_type == "latent":
                    yield VidTwinPipelineOutput(frames=latents, cost=PipelineCost(sampling, None))
                    continue
                video, decoding = self._decode(latents, plan.call.decode_chunk_size or len(latents))
                video = video[:, :, plan.windows.new(index)]  # (B, 3, T, H, W)
                frames = self.video_processor.postprocess_video(video, plan.call.output_type)
                yield VidTwinPipelineOutput(frames=frames, cost=PipelineCost(sampling, decoding))
        finally:  # a stream may be closed half-way
            self.maybe_free_model_hooks()

    def _clips(self, plan: Plan) -> Iterator[tuple[VidTwinLatents, Cost]]:
        """The latents of each clip, and what sampling them cost."""
        latents = None
        for _ in range(len(plan.windows)):
            self._interrupt = False
            latents, cost = self._next_clip(plan, latents)
            is_last = self.interrupt  # seen before another call can change it
            yield latents, cost
            if is_last:
                return

    def _next_clip(self, plan: Plan, before: VidTwinLatents | None) -> tuple[VidTwinLatents, Cost]:
        """The clip that goes on from the one before; the first one if there is none."""
        noise, given = plan.noise, plan.given
        if before is not None:
            noise = self._initial_tokens(len(before), plan.generator, None)  # (B, N, D)
            given = history(before, plan.windows.overlap, self.transformer)
        solver = self._solver(plan.call.num_inference_steps)
        latents, cost = self._sample(plan, solver.start(noise), given, solver)
        if before is None or not plan.strength or self.interrupt:
            return latents, cost
        latents, more = self._redraw_structure(plan, latents)
        return latents, cost + more

    def _redraw_structure(self, plan: Plan, latents: VidTwinLatents) -> tuple[VidTwinLatents, Cost]:
        """Noise the structure of a clip in part, and denoise it given the dynamics (as SDEdit, arXiv 2108.01073)."""
        given = GivenLatent.of(latents, False, latents.dynamics.shape[2], self.transformer)
        noise = self._initial_tokens(len(latents), plan.generator, None)
        solver = self._solver(plan.call.num_inference_steps, plan.strength)
        return self._sample(plan, solver.noised(given.tokens, noise), given, solver)

    def _solver(self, num_inference_steps: int, strength: float = 1.0) -> Solver:
        return Solver(self.scheduler, num_inference_steps, self.transformer.config.prediction_type, strength)

    def _check_inputs(self, latents: VidTwinLatents | None, output_type: str, tensor_inputs: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type!r} is none of {', '.join(OUTPUT_TYPES)}")
        if latents is not None and not isinstance(latents, VidTwinLatents):
            raise TypeError(f"latents must be VidTwinLatents, the noise to start from, got {describe(latents)}")
        unknown = [name for name in tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise UserError(
                f"callback_on_step_end_tensor_inputs may name {', '.join(self._callback_tensor_inputs)}, "
                f"got {', '.join(map(repr, unknown))}"
            )

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

    def _sample(
        self, plan: Plan, tokens: torch.Tensor, given: GivenLatent | None, solver: Solver
    ) -> tuple[VidTwinLatents, Cost]:
        """Run the solver from its state (B, N, D), float32 whatever the models' dtype, to latents."""
        self._guidance_scale = plan.call.guidance_scale
        guidance = Guidance(self._guidance_scale, plan.call.guidance_interval)
        denoiser = Denoiser(self.transformer, plan.labels, guidance, given)
        tokens, cost = self._solve(plan, tokens, denoiser, solver)
        plan.call.guidance_scale = self._guidance_scale  # as a callback left it
        latents = self.transformer.denormalize(self.transformer.layout.unpack(tokens))
        if given is not None:
            latents = given.into_latents(latents)
        if not torch.stack([part.isfinite().all() for part in (latents.structure, latents.dynamics)]).all():
            raise NumericalError(f"sampling in {self.transformer.dtype} gave latents that are not finite")
        return latents, cost

    def _solve(self, plan: Plan, tokens: torch.Tensor, denoiser: Denoiser, solver: Solver) -> tuple[torch.Tensor, Cost]:
        """All steps of the solver: (B, N, D) -> (B, N, D)."""
        self._num_timesteps = len(solver.timesteps)
        calls, callback = Counter(), plan.call.callback_on_step_end
        with measure(tokens.device) as cost, self.progress_bar(total=self._num_timesteps) as progress_bar:
            for index, timestep in enumerate(solver.timesteps):
                if self.interrupt:
                    break
                self._current_timestep = timestep
                denoiser.set_guidance_scale(self._guidance_scale)
                calls[denoiser.is_guided(timestep)] += 1
                prediction = denoiser(solver.scale_input(tokens, timestep), timestep)
                tokens = solver.step(index, prediction, tokens, **plan.steps)
                if callback is not None:
                    state = {name: denoiser.with_given(tokens) for name in plan.call.tensor_inputs}
                    tokens = (callback(self, index, timestep, state) or {}).get("latents", tokens)
                progress_bar.update()
        self._current_timestep = None
        cost.flops = sum(count * denoiser.flops(tokens, guided) for guided, count in calls.items())
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
