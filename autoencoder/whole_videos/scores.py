"""Scores of an autoencoder's reconstructions of whole videos, after the VidTok evaluation protocol (arXiv 2412.13061).

Every round(fps / sample_fps)-th frame of a video, from its first, is cut into consecutive clips; the last clip is
filled by repeating the last frame, and the repeats count. Frames are resized (short side, bilinear, antialiased) and
cropped in the centre as floats, reconstructions are clamped to [-1, 1], and every metric is the plain mean over all
frames.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import torch
from einops import rearrange
from torch import distributed
from torchvision.transforms.v2 import functional as F

from autoencoder.codec import decode_float_clips
from autoencoder.common.cost import measure
from autoencoder.common.device import to_device
from autoencoder.common.pictures import unit_to_uint8
from autoencoder.common.processes import from_all
from autoencoder.common.upscaling import unrepeated
from autoencoder.data.frame_index import UnreadableVideo
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import FrechetVideoDistance
from autoencoder.metrics.interpolation import halfway, pairs_of_clips, pairs_of_moments
from autoencoder.metrics.oracle import oracle
from autoencoder.metrics.reconstruction import FrameMetric
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.clips import cut
from autoencoder.whole_videos.listed_videos import ListedVideo
from autoencoder.whole_videos.made_video import MadeVideo
from autoencoder.whole_videos.video_file import VideoFile


@dataclass(frozen=True)
class VideoScore:
    """The mean of every metric over the frames of one video.

    Attributes:
        index: place of the video in the list.
        video, start, end: as listed.
        fps: frames per second of the file.
        stride: every `stride`-th frame was taken.
        frames: number of scored frames, repeats included.
        metrics: by name, mean over these frames.
        clip_psnr: dB, mean over the frames of each clip.
    """

    index: int
    video: str
    start: float
    end: float
    fps: float
    stride: int
    frames: int
    metrics: dict[str, float]
    clip_psnr: list[float]


@dataclass
class Work:
    """Time and memory of the model on one process, without reading, resizing and scoring.

    Attributes:
        frames: reconstructed frames.
        seconds: wall-clock time of encoding and decoding them.
        peak_memory_bytes: most memory of any batch, the resident weights included; None where it was not measured.
    """

    frames: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def __add__(self, other: "Work") -> "Work":
        peaks = [work.peak_memory_bytes for work in (self, other) if work.peak_memory_bytes is not None]
        return Work(self.frames + other.frames, self.seconds + other.seconds, max(peaks, default=None))


@dataclass(frozen=True)
class Protocol:
    """Which clips are taken from a video, and how they are reconstructed."""

    sample_fps: float | None
    """Every round(fps / sample_fps)-th frame is taken; None takes all."""
    num_frames: int
    """Frames of a clip."""
    size: int
    """Height and width of a clip, in pixels."""
    part: str = "both"
    """Latent to decode from: "both", "structure" or "dynamics"."""
    batch_size: int = 1
    """Clips of one video that go through the model at a time."""

    def stride(self, fps: float) -> int:
        """The step between frames that are taken, at a frame rate of the file."""
        return 1 if self.sample_fps is None else max(1, round(fps / self.sample_fps))

    def clips(self, video: ListedVideo, file: VideoFile | MadeVideo) -> Iterator[torch.Tensor]:
        """Consecutive clips of a video, from `start` on, uint8 (F, H, W, 3) each; frames are read as they are needed.

        Raises:
            UnreadableVideo: if the file is damaged, or shows no frame between start and end.
        """
        frames = islice(_frames_within(video, file), 0, None, self.stride(float(file.format.rate)))
        empty = True
        for clip in cut(frames, self.num_frames, overlap=0):
            empty = False
            yield clip
        if empty:
            raise UnreadableVideo(f"{video.path}: no frame of it is shown from {video.start} to {video.end} s")

    def batches(self, video: ListedVideo, file: VideoFile | MadeVideo, device: torch.device) -> Iterator[torch.Tensor]:
        """The clips in batches, float (B, 3, F, S, S) in [0, 1]."""
        clips = self.clips(video, file)
        while batch := [fitted(to_device(clip, device), self.size) for clip in islice(clips, self.batch_size)]:
            yield torch.stack(batch)


def _frames_within(video: ListedVideo, file: VideoFile | MadeVideo) -> Iterator[torch.Tensor]:
    """Frames uint8 (H, W, 3) that appear from `start` to before `end`.

    Raises `UnreadableVideo` if a file ends before it has given all frames of its packets.
    """
    first, count = None, 0
    for pixels, stamp, _ in file.frames():
        first = stamp if first is None else first
        seconds = float((stamp - first) * file.format.time_base)
        if seconds >= video.end:
            return
        count += 1
        if seconds >= video.start:
            yield unrepeated(pixels, file.repeats)
    if count < file.num_frames:
        raise UnreadableVideo(f"{video.path}: only {count} of its {file.num_frames} frames decode")


def fitted(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Resize the short side to `size` (bilinear, antialiased) and crop the centre, without rounding to whole levels.

    Args:
        frames: uint8 (F, H, W, 3).
        size: height and width of the result.

    Returns:
        float (3, F, S, S) in [0, 1].
    """
    video = rearrange(frames, "f h w c -> f c h w").float() / 255
    video = F.center_crop(F.resize(video, [size], antialias=True), [size, size])  # (F, 3, S, S)
    return rearrange(video, "f c h w -> c f h w").clamp(0, 1)


@torch.no_grad()
def reconstruction(model: AutoencoderVidTwin, video: torch.Tensor, part: str = "both") -> torch.Tensor:
    """Encode and decode by the posterior's means.

    Args:
        model: in eval mode.
        video: float (B, 3, F, S, S) in [0, 1].
        part: latent to decode from.

    Returns:
        float32 of the same shape, clamped to [0, 1].
    """
    return decoded(model, encoded(model, video), part)


@torch.no_grad()
def encoded(model: AutoencoderVidTwin, video: torch.Tensor) -> VidTwinLatents:
    """Means of the posterior of videos, float (B, 3, F, S, S) in [0, 1]."""
    return model.encode((2 * video - 1).to(model.dtype)).latent_dist.mode()


def decoded(model: AutoencoderVidTwin, latents: VidTwinLatents, part: str = "both") -> torch.Tensor:
    """Videos of latents, float32 (B, 3, F, S, S), clamped to [0, 1]."""
    return (decode_float_clips(model, latents, part) + 1) / 2


@dataclass(frozen=True)
class Interpolations:
    """Videos decoded from latents halfway between those of two clips.

    Attributes:
        clips: how many.
        distance: of their features from those of all clips; None where it was not measured.
        oracle: share of them in which the oracle of moving shapes sees a shape and a motion; None for other videos.
    """

    clips: int
    distance: float | None = None
    oracle: float | None = None


@dataclass
class Evaluation:
    """The state of an evaluation on one process.

    Attributes:
        model: in eval mode.
        protocol: the evaluation's protocol.
        metrics: by name, on the device of the model, with `sync_on_compute=False`, for they are reset for every video;
            "psnr" is among them.
        scores: scores of the videos that were read to their end.
        distance: between the videos and their reconstructions, on the device of the model; None leaves it out. `add`
            only extracts features with it; `distance_of_sets` adds them all.
        unreadable: place in the list and reason of every video that could not be read.
        with_oracle: whether the videos are moving shapes, which the oracle judges.
        interpolates: whether latents are kept, to be interpolated.
        features: by place in the list, of the clips of a video and of their reconstructions, (clips, D) each.
        latents: by place in the list, of the clips of a video, on the CPU.
        interpolated: by kind of the pairs, in their order: features of their videos, and whether the oracle sees a
            shape and a motion in them.
        work: time and memory of the model.
    """

    model: AutoencoderVidTwin
    protocol: Protocol
    metrics: dict[str, FrameMetric]
    distance: FrechetVideoDistance | None = None
    with_oracle: bool = False
    interpolates: bool = False
    scores: list[VideoScore] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    features: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    latents: dict[int, VidTwinLatents] = field(default_factory=dict)
    interpolated: dict[str, list[tuple[torch.Tensor | None, bool | None]]] = field(default_factory=dict)
    work: Work = field(default_factory=Work)

    def add(self, videos: Iterable[tuple[int, ListedVideo]]) -> None:
        """Score videos, given with their places in the list; one that cannot be read to its end is left out."""
        for index, video in videos:
            try:
                self.scores.append(self._score(index, video))
            except UnreadableVideo as error:
                self.unreadable.append((index, str(error)))

    def _score(self, index: int, video: ListedVideo) -> VideoScore:
        for metric in self.metrics.values():
            metric.reset()
        file = video.open()
        clip_psnr, features, latents = [], [], []
        for target in self.protocol.batches(video, file, self.model.device):
            with measure(self.model.device) as cost:
                of_clips = encoded(self.model, target)
                prediction = decoded(self.model, of_clips, self.protocol.part)
            if self.interpolates:
                latents.append(of_clips)
            self.work += Work(len(target) * self.protocol.num_frames, cost.seconds, cost.peak_memory_bytes)
            for original, clip in zip(target.split(1), prediction.split(1), strict=True):
                for name, metric in self.metrics.items():
                    metric.update_values(values := metric.frame_values(clip, original))
                    if name == "psnr":
                        clip_psnr.append(values.double().sum() / values.numel())
                if self.distance is not None:
                    features.append([self.distance.extract(unit_to_uint8(one)) for one in (original, clip)])
        clip_psnr = torch.stack(clip_psnr).tolist()  # copied from a GPU once per video, not per clip
        if features:
            self.features[index] = tuple(torch.cat(side).cpu() for side in zip(*features, strict=True))
        if self.interpolates:
            self.latents[index] = VidTwinLatents.cat(latents).to("cpu")
        fps = float(file.format.rate)
        return VideoScore(
            index=index,
            video=video.name,
            start=video.start,
            end=video.end,
            fps=fps,
            stride=self.protocol.stride(fps),
            frames=len(clip_psnr) * self.protocol.num_frames,
            metrics={name: metric.compute().item() for name, metric in self.metrics.items()},
            clip_psnr=clip_psnr,
        )

    def interpolate(self, rank: int = 0, world_size: int = 1) -> None:
        """Decode latents halfway between those of two clips, and measure their videos; all processes must call it.

        Pairs are two moments of a video, and two clips as `pairs_of_clips` finds them. The processes share them, and
        all get the results.

        Args:
            rank, world_size: number of this process, and how many there are.
        """
        if not self.interpolates:
            return
        everything = sorted(chain(*(share.items() for share in from_all(self.latents))), key=lambda item: item[0])
        if not everything:
            return
        videos = [index for index, latents in everything for _ in range(len(latents))]
        latents = VidTwinLatents.cat([latents for _, latents in everything])
        kinds = {"moments": pairs_of_moments(videos), "clips": pairs_of_clips(latents, videos, self.protocol.part)}
        size = self.protocol.batch_size
        for kind, pairs in kinds.items():
            batches = list(enumerate(pairs.split(size)))[rank::world_size]
            mine = [(place, self._between(halfway(latents, batch))) for place, batch in batches if len(batch)]
            shares = sorted(chain(*from_all(mine)), key=lambda item: item[0])
            self.interpolated[kind] = [finding for _, findings in shares for finding in findings]

    def _between(self, latents: VidTwinLatents) -> list[tuple[torch.Tensor | None, bool | None]]:
        """Features of the videos of latents, and whether the oracle sees a shape and a motion in them."""
        findings = []
        for video in decoded(self.model, latents, self.protocol.part).split(1):
            pixels = unit_to_uint8(video)
            verdict = oracle(rearrange(pixels[0], "c t h w -> t h w c").cpu()) if self.with_oracle else None
            features = None if self.distance is None else self.distance.extract(pixels).cpu()
            findings.append((features, verdict and "none" not in (verdict.shape, verdict.motion)))
        return findings

    def interpolations(self) -> dict[str, Interpolations]:
        """What `interpolate` found, by kind of the pairs, after `gather`, on process 0."""
        return {kind: self._summary(findings) for kind, findings in self.interpolated.items()}

    def _summary(self, findings: Sequence[tuple[torch.Tensor | None, bool | None]]) -> Interpolations:
        distance = None
        if self.distance is not None and len(findings) > 1:
            distance = self._distance_from_clips([torch.cat([features for features, _ in findings])])
        seen = [is_seen for _, is_seen in findings if is_seen is not None]
        return Interpolations(len(findings), distance, sum(seen) / len(seen) if seen else None)

    def gather(self) -> None:
        """Collect the results of all processes in process 0, in the order of the list; all of them must call it."""
        if not distributed.is_initialized():
            return
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
        gathered = [None] * world_size if rank == 0 else None
        distributed.gather_object((self.scores, self.unreadable, self.features, self.work), gathered)
        if rank == 0:
            scores, unreadable, features, work = zip(*gathered, strict=True)
            self.scores = sorted(chain(*scores), key=lambda score: score.index)
            self.unreadable = sorted(chain(*unreadable))
            self.features = dict(sorted(chain(*(share.items() for share in features)), key=lambda item: item[0]))
            self.work = sum(work, Work())

    def distance_of_sets(self) -> float | None:
        """The distance between all clips and their reconstructions, after `gather`, on process 0.

        The features are added up in the order of the list: to the bit the same for any number of processes.

        Returns:
            None if it was left out, or there are fewer than two clips.
        """
        if self.distance is None or sum(len(real) for real, _ in self.features.values()) < 2:
            return None
        return self._distance_from_clips(reconstructed for _, reconstructed in self.features.values())

    def _distance_from_clips(self, fakes: Iterable[torch.Tensor]) -> float:
        """The distance between all clips and other videos, whose features come in batches (B, D)."""
        self.distance.reset()
        for real, _ in self.features.values():
            self.distance.update_features(real, real=True)
        for fake in fakes:
            self.distance.update_features(fake, real=False)
        return self.distance.compute().item()

    def clip(self, video: ListedVideo, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Original and reconstruction of one clip of a video, float (3, F, S, S) in [0, 1]; the file is read again."""
        protocol = self.protocol
        place = number // protocol.batch_size
        batches = protocol.batches(video, video.open(), self.model.device)
        target = next(islice(batches, place, None))
        prediction = reconstruction(self.model, target, protocol.part)
        return target[number % protocol.batch_size], prediction[number % protocol.batch_size]


def mean_metrics(scores: Sequence[VideoScore]) -> dict[str, float]:
    """The plain mean of every metric over all frames of all videos, to the bit the same for any number of processes."""
    frames = sum(score.frames for score in scores)
    names = scores[0].metrics
    return {name: math.fsum(score.metrics[name] * score.frames for score in scores) / frames for name in names}


def best_median_worst(scores: Sequence[VideoScore]) -> list[tuple[str, VideoScore, int]]:
    """The clips of highest, middle and lowest PSNR: a label, the video, and the number of the clip in it.

    With fewer than three clips, one of them has several labels, such as "best and median".
    """
    clips = [(-psnr, score.index, number) for score in scores for number, psnr in enumerate(score.clip_psnr)]
    clips.sort()
    by_index = {score.index: score for score in scores}
    names: dict[int, list[str]] = {}
    for name, place in (("best", 0), ("median", len(clips) // 2), ("worst", len(clips) - 1)):
        names.setdefault(place, []).append(name)
    return [(" and ".join(name), by_index[clips[place][1]], clips[place][2]) for place, name in names.items()]
