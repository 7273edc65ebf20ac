"""What `python -m benchmarks.people` takes: real clips, what is known of each, and models that fit them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoencoder.common.errors import UserError, first_few
from autoencoder.common.seeding import derive_seed
from autoencoder.data.folder import VideoFiles
from autoencoder.data.video_io import UnreadableVideo
from autoencoder.metrics.i3d_network import MIN_FRAMES
from autoencoder.metrics.nearest_mean import colour_histogram
from autoencoder.vidtwin import AutoencoderVidTwin
from benchmarks.people import PeopleConfig
from pipelines.goals import class_names
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

SPLITS = {"training": "train", "held-out": "val"}


@dataclass(frozen=True)
class Clips:
    """Real clips, and what is known of each.

    Attributes:
        frames: uint8 (N, T, H, W, 3).
        labels, looks, people, videos: int64 (N,), indices of the action, of the content, of the person and of the file.
        logits: float32 (N, 400) of I3D.
        colours: float32 (N, D), colour histograms.
        is_training: bool (N,).
    """

    frames: torch.Tensor
    labels: torch.Tensor
    looks: torch.Tensor
    people: torch.Tensor
    videos: torch.Tensor
    logits: torch.Tensor
    colours: torch.Tensor
    is_training: torch.Tensor

    def select(self, mask: torch.Tensor) -> "Clips":
        """The clips where `mask`, bool (N,), is true, or those at places int64 (M,)."""
        return Clips(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.frames)


def colours(frames: torch.Tensor) -> torch.Tensor:
    """Colour histograms, float32 (N, D), of clips uint8 (N, T, H, W, 3)."""
    return torch.stack([colour_histogram(clip) for clip in frames])


def partners(people: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Places int64 (P, 2) of all pairs of two people and two actions, given those of N clips or videos, int64 (N,)."""
    return ((people[:, None] != people) & (labels[:, None] != labels)).nonzero()


def of_several(labels: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Of which clips the label is that of clips of other groups, too, bool (N,), from labels and groups int64 (N,)."""
    return torch.tensor([len(groups[labels == label].unique()) > 1 for label in labels])


def check_sizes(models: Sequence[tuple[str, AutoencoderVidTwin]]) -> None:
    """Refuse models, by their names, that take clips of several sizes, or of too few frames for I3D.

    Raises:
        UserError: naming the sizes.
    """
    sizes = {name: (vae.config.num_frames, vae.config.sample_size) for name, vae in models}
    if len(set(sizes.values())) > 1:
        found = "; ".join(f"{name} takes {frames} frames of {side} pixels" for name, (frames, side) in sizes.items())
        raise UserError(f"all models must take clips of one size, but {found}")
    name, (frames, _) = next(iter(sizes.items()))
    if frames < MIN_FRAMES:
        raise UserError(
            f"I3D, which judges actions, takes clips of at least {MIN_FRAMES} frames, {name} takes {frames}: train an "
            "autoencoder of longer clips"
        )


def check_classes(pipe: VidTwinDiffusionPipeline, actions: Sequence[str]) -> None:
    """Refuse a pipeline that does not sample just these actions, in this order.

    Raises:
        UserError: naming both.
    """
    names = class_names(pipe)
    if names != tuple(actions):
        raise UserError(
            f"the pipeline samples {first_few(names, 10)}, but the videos are of {first_few(actions, 10)}: give "
            "those that it was trained on"
        )


def read_clips(
    config: PeopleConfig, parts: Mapping[str, VideoFiles], logits: Callable[[torch.Tensor], torch.Tensor]
) -> Clips:
    """Read the clips of all videos; those that cannot be read are named and left out.

    Args:
        config: the command's.
        parts: the training and the held-out videos, by value of `SPLITS`.
        logits: of I3D, float32 (N, 400), of clips uint8 (N, T, H, W, 3).

    Raises:
        UserError: if a label, content or person is not known, or no two videos are of two people and two actions.
    """
    rows: list[tuple] = []
    for split, words in _words(config, parts).items():
        videos = parts[split]
        for index, numbers in enumerate(words):
            path = videos.listing.paths[index]
            seeds = (derive_seed(number, "people", path) for number in range(config.clips_per_video))
            try:
                clips = [videos.clip(index, np.random.default_rng(seed)) for seed in seeds]
            except UnreadableVideo as error:
                print(f"skipped: {error}", flush=True)
                continue
            rows += [(clip, videos.label(index), *numbers, split == "train") for clip in clips]
    for people, split in SPLITS.items():
        read = [row for row in rows if row[-1] == (split == "train")]
        _check_partners(people, parts[split], [row[3] for row in read], [row[1] for row in read])
    frames, *columns, is_training = zip(*rows, strict=True)
    frames = torch.stack(frames)
    return Clips(
        frames,
        *(torch.tensor(column) for column in columns),
        logits=logits(frames),
        colours=colours(frames),
        is_training=torch.tensor(is_training),
    )


def _words(config: PeopleConfig, parts: Mapping[str, VideoFiles]) -> dict[str, list[list[int]]]:
    """Numbers of the look, the person and the file of every video, by key of `parts`; no video is opened."""
    found: dict[str, list[list[int]]] = {}
    known: dict[str, dict[str, int]] = {"look": {}, "person": {}, "video": {}}
    for people, split in SPLITS.items():
        videos, found[split] = parts[split], []
        listing = videos.listing
        _check_known(videos)
        for index, content in enumerate(listing.contents.tolist()):
            path = listing.paths[index]
            words = listing.content_names[content], _person(config.person_pattern, path), path
            found[split].append(
                [names.setdefault(word, len(names)) for names, word in zip(known.values(), words, strict=True)]
            )
        _check_partners(people, videos, [person for _, person, _ in found[split]], listing.labels.tolist())
    return found


def _check_partners(people: str, videos: VideoFiles, persons: Sequence[int], labels: Sequence[int]) -> None:
    if not len(partners(torch.tensor(persons), torch.tensor(labels))):
        raise UserError(
            f"{videos.root}: no two {people} videos that can be read are of two people and two actions, whose latents "
            f"could be exchanged (people: {len(set(persons))}, actions: {len(set(labels))}); --held-out-contents says "
            "who is held out"
        )


def _check_known(videos: VideoFiles) -> None:
    listing = videos.listing
    if listing.labels is None:
        raise UserError(f"{videos.root}: no action is known; put the videos into one sub-folder per action")
    nobody = range(len(listing.paths)) if listing.contents is None else np.flatnonzero(listing.contents < 0).tolist()
    if nobody:
        raise UserError(
            f"{videos.root}: who is seen is not known in {first_few(listing.paths[index] for index in nobody)}; "
            "--content-pattern REGEX must find it in every path, or a manifest's column `content` tell it"
        )


def _person(pattern: str, path: str) -> str:
    match = re.search(pattern, path)
    person = match and match[min(1, match.re.groups)]
    if not person:
        raise UserError(
            f"person_pattern={pattern!r} finds nobody in {path}; --person-pattern REGEX must find a person in every "
            "path, and is that of --content-pattern where everyone has one look"
        )
    return person
