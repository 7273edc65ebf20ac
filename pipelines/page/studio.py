"""The pipeline of the page, which its visitors use one after the other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError
from autoencoder.data import Shapes
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.latents import VidTwinLatents
from pipelines.arguments import check_count
from pipelines.conditioning import LatentSource
from pipelines.goals import class_names
from pipelines.output import VidTwinPipelineOutput
from pipelines.page.films import Limits
from pipelines.page.work import Work
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.schedulers import SCHEDULERS, convert_scheduler

MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample.

    Attributes:
        steps: of the scheduler.
        structure_guidance, dynamics_guidance: weights of classifier-free guidance.
        scheduler: class name; None is the pipeline's own.
    """

    steps: int = 50
    structure_guidance: float = 2.0
    dynamics_guidance: float = 2.0
    scheduler: str | None = None


class Studio:
    """A pipeline, and what is known of it.

    Args:
        pipe: in eval mode; its scheduler is changed and put back.
        limits: of uploads.

    Attributes:
        turn: held by whoever uses the pipeline.
    """

    def __init__(self, pipe: VidTwinDiffusionPipeline, limits: Limits):
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.vae, self.limits = pipe, pipe.vae, limits
        self.turn = threading.Lock()

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, or their ids in digits where they have none."""
        count = self.pipe.transformer.config.num_classes
        return list(class_names(self.pipe)) or [str(label) for label in range(count)]

    @cached_property
    def schedulers(self) -> list[str]:
        """Schedulers that fit, the pipeline's own first."""
        own = type(self.pipe.scheduler).__name__
        fitting = SCHEDULERS[self.pipe.transformer.config.prediction_type]
        return [own, *sorted(name for name in fitting if name != own)]

    @cached_property
    def real_clips(self) -> Shapes | None:
        """Held-out clips of the moving shapes, for a pipeline of these; else None."""
        if tuple(self.classes) != CLASS_NAMES:
            return None
        return Shapes(self.vae.config.num_frames, self.vae.config.sample_size, "val")

    @property
    def takes_given_latents(self) -> bool:
        """Whether the transformer samples one latent for a given other one."""
        return self.pipe.transformer.config.independent_times

    def sample(
        self,
        class_name: str,
        seed: int | None,
        settings: SamplingSettings,
        work: Work,
        count: int = 1,
        output_type: str = "np",
        **given: LatentSource,
    ) -> VidTwinPipelineOutput:
        """Sample videos of a class, with the seeds `seed`, `seed` + 1 and so on.

        Args:
            class_name: one of `classes`.
            seed: of the first video, 0 to 2^31 - 1.
            settings: how to sample.
            work: is told of every step, and ends the sampling when it is stopped.
            count: number of videos.
            output_type: as of the pipeline.
            given: a latent for which the other one is sampled.

        Raises:
            UserError: as the pipeline does, or if there is no seed, or one out of range.
            WorkStopped: if the work was stopped.
        """
        if seed is None:
            raise UserError("there is no seed: give a whole number")
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"the seed must be in 0 to {MOST_SEED}, got {seed}")
        with self._scheduler(settings.scheduler):
            out = self.pipe(
                class_name,
                settings.steps,
                (settings.structure_guidance, settings.dynamics_guidance),
                num_videos_per_class=count,
                generator=int(seed),
                output_type=output_type,
                callback_on_step_end=work.on_step_end,
                **given,
            )
        work.check()
        return out

    def real_clip(self, class_name: str, number: int | None) -> torch.Tensor:
        """A held-out clip of the moving shapes, uint8 (T, S, S, 3).

        Args:
            class_name: one of `classes`.
            number: which of the clips of this class, from 1 on.

        Raises:
            UserError: if there is no such clip.
        """
        if self.real_clips is None:
            raise UserError("real clips are made for pipelines of moving shapes: upload a video instead")
        most = len(self.real_clips) // len(self.classes)
        if number is None or check_count("the number of a clip", number) > most:
            raise UserError(f"the clips of a class have the numbers 1 to {most}, got {number}")
        return self.real_clips.clip((number - 1) * len(self.classes) + self.pipe.label(class_name))

    def encode(self, clip: torch.Tensor) -> VidTwinLatents:
        """Latents (B = 1) of a clip, uint8 (T, S, S, 3), on the device of the autoencoder."""
        return encode_clips(self.vae, clip[None])

    def decode(self, latents: VidTwinLatents, part: str = "both") -> torch.Tensor:
        """Videos of latents, uint8 (B, T, S, S, 3) on the CPU."""
        return decode_clips(self.vae, latents, part)

    @contextmanager
    def _scheduler(self, name: str | None) -> Iterator[None]:
        """Inside the block the pipeline has the scheduler of this name."""
        own = self.pipe.scheduler
        if name not in (None, type(own).__name__):
            kind = self.pipe.transformer.config.prediction_type
            self.pipe.scheduler = convert_scheduler(name, own.config, kind)
        try:
            yield
        finally:
            self.pipe.scheduler = own
