"""The latents of a data set, encoded once and kept in files: the data set of stage two.

A cache is a folder of safetensors shards and index.json, which is written last and makes it complete. Shards are
written atomically, and their metadata hold what they were made from; so an interrupted cache is continued with the
missing shards, and one of another autoencoder is refused. A cache of video files holds a list of them, too
(`generator.cache_identity`). Several processes share the shards; the contents of a shard do not depend on the process,
so any number of processes writes the same bytes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader
from tqdm import tqdm

from autoencoder.checkpoint import fingerprint
from autoencoder.common.device import to_device
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import atomic_path, save_safetensors
from autoencoder.common.locks import locked_folder
from autoencoder.common.processes import from_all
from autoencoder.common.progress import progress_bar
from autoencoder.common.run import LAST_AUTOENCODER, read_pointer
from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data import ClipDataset, UnreadableVideo, to_video
from autoencoder.data.stream import FileReport
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.cache_changes import build_clips, chosen_videos, is_current, noted_listing, remove_cache, update_table
from generator.cache_clips import CacheClips, collate_with_digests
from generator.cache_identity import (
    METADATA_KEY,
    VideoTable,
    check_identity,
    open_file,
    read_metadata,
    same_videos,
    source_identity,
)
from generator.cache_reader import INDEX, LatentCache, shard_path
from generator.config import CacheConfig

T = TypeVar("T")

ENCODE_BATCH_SIZE = 16  # fixed, because the last bits of a latent may depend on the batch around it
UNLABELLED = ("video",)  # the one class of a data set without labels


def autoencoder_folder(folder: str | Path | None) -> Path:
    """The folder of the autoencoder: the given one, or that of the newest run of stage one.

    Raises:
        MissingFileError: if there is none; the message says how to train one.
    """
    path = read_pointer(LAST_AUTOENCODER) if folder is None else Path(folder)
    if path is None or not (path / "config.json").is_file():
        problem = f"{LAST_AUTOENCODER} does not exist" if path is None else f"{path} holds no config.json"
        raise MissingFileError(
            f"there is no autoencoder: {problem}. Train one with `python -m autoencoder.train`, or give the folder of "
            "one with --autoencoder DIR"
        )
    return path


def build_cache(
    model: AutoencoderVidTwin,
    config: CacheConfig,
    folder: str | Path,
    progress: bool = True,
    rebuild: bool = False,
) -> LatentCache:
    """Encode a data set, continue an interrupted cache, or open a complete one.

    An existing cache is compared with the autoencoder, the settings and the current videos. If videos were only added,
    these are encoded and appended; if `max_videos` chooses some of all, the choice changes, and all are encoded anew.
    Any other change is refused. If the folder of the data set is gone, a complete cache is used without comparing its
    videos, and the first process prints that.

    With several processes (`torch.distributed`) all must call this; each encodes the shards whose number is its rank
    modulo their count. Of several runs that want the same cache, one makes it and the others wait for it.

    Args:
        model: the autoencoder, on the device to encode on; it is set to eval mode.
        config: data set and clips.
        folder: the cache's folder; all processes must see the same one.
        progress: whether to show a progress bar, over the share of this process.
        rebuild: whether to remove a cache that is there, whatever it was made from.

    Raises:
        MissingFileError: if the data are not there.
        UserError: if the folder holds latents of another autoencoder, other settings or other videos; the message names
            what is different.
        UnreadableVideo: if too many files are bad.
    """
    folder = Path(folder)
    identity = config.settings | source_identity(config)
    identity |= {"autoencoder": fingerprint(model), "shard_size": config.shard_size}
    if not _first_decides(lambda: not rebuild and is_current(folder, identity, config, model)):
        is_first = not distributed.is_initialized() or distributed.get_rank() == 0
        with locked_folder(folder, on_wait=partial(print, flush=True), keep_file=False) if is_first else nullcontext():
            _Encoder(model.eval(), config, folder, identity, progress, rebuild).run()
    return LatentCache(folder, identity["autoencoder"], config.settings)


def _first_decides(decide: Callable[[], T]) -> T:
    """Call a function in the first process only; all processes return its result, or raise its UserError."""
    result, error = None, None
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        try:
            result = decide()
        except UserError as raised:
            error = raised
    result, error = from_all((result, error))[0]
    if error is not None:
        raise error
    return result


class _Encoder:
    """Writes the missing shards, then the index.

    Args:
        model, config, folder, progress, rebuild: as for `build_cache`.
        identity: the cache's identity: settings, autoencoder and shard size.
    """

    def __init__(
        self,
        model: AutoencoderVidTwin,
        config: CacheConfig,
        folder: Path,
        identity: dict[str, Any],
        progress: bool,
        rebuild: bool,
    ):
        self.model, self.config, self.folder, self.identity = model, config, folder, identity
        self.progress, self.rebuild = progress, rebuild
        several = distributed.is_initialized()
        self.rank, self.num_processes = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)

    def run(self) -> None:
        """Encode what is missing; every shard is on disk before the next one begins.

        The processes begin every shard together, so that the bad files of all are counted, and all stop at too many.
        """
        clips = build_clips(self.config, self.model)
        ends = _first_decides(lambda: self._prepare(clips))
        if ends is None:
            return
        chosen = chosen_videos(self.config, ends)
        self.items = CacheClips(clips, self._load_table(clips), np.concatenate(chosen), self.config)
        self.report = FileReport(len(clips), self.config.max_bad_share)
        shards = self._shards([len(numbers) * self.config.clips_per_video for numbers in chosen])
        own = list(enumerate(shards))[self.rank :: self.num_processes]
        missing = [(number, _split(items, ENCODE_BATCH_SIZE)) for number, items in own if not self._is_done(number)]
        num_turns = max(from_all(len(missing)))
        self._make_shards(missing, num_turns, num_clips=sum(len(items) for _, items in own))
        if self.rank == 0:
            reasons, places = self.report.reasons, self.items.places
            unreadable = {clips.source(int(places[video])): reasons[video] for video in sorted(reasons)}
            write_index(self.folder, len(shards), self.identity, clips.class_names or UNLABELLED, unreadable)
        from_all(None)  # the others wait for the index

    def _prepare(self, clips: ClipDataset) -> tuple[int, ...] | None:
        """Remove leftovers and write the list of videos; only the process that holds the folder calls this.

        Returns:
            `VideoTable.ends`; None if another run has completed the cache in the meantime.
        """
        if self.config.flip and not clips.flip_invariant:
            raise UserError(f"flip=True, but {type(clips).__name__} does not declare its labels flip-invariant")
        for leftover in self.folder.glob(".*.tmp*"):
            leftover.unlink(missing_ok=True)
        if self.rebuild:
            remove_cache(self.folder)
        ends = update_table(self.folder, self.identity, self.config, clips)
        return None if (self.folder / INDEX).is_file() else ends

    def _load_table(self, clips: ClipDataset) -> VideoTable | None:
        """The list of videos that the first process wrote; refused if this process sees other videos."""
        table, _ = VideoTable.load(self.folder) or (None, None)
        if table is not None and not same_videos(table.listing, noted_listing(self.config, clips)):
            raise UserError(f"the processes do not see the same videos in {self.config.root}")
        return table

    def _shards(self, counts: Sequence[int]) -> list[range]:
        """The items of every shard. No shard mixes videos that were added at different times, so that the shards of
        earlier videos stay as they are.

        Args:
            counts: items of the first videos, and of those of each addition.
        """
        size, firsts = self.config.shard_size // (1 + self.config.flip), np.cumsum([0, *counts]).tolist()
        return [part for first, end in pairwise(firsts) for part in _split(range(first, end), size)]

    def _make_shards(self, missing: list[tuple[int, list[range]]], num_turns: int, num_clips: int) -> None:
        """Write shards, (number, batches) each, one per turn; a process without any left only exchanges counts."""
        loader = DataLoader(
            self.items,
            batch_sampler=[batch for _, batches in missing for batch in batches],
            collate_fn=collate_with_digests,
            num_workers=self.config.num_workers,
            worker_init_fn=leave_signals_to_the_parent,
        )
        stream = iter(loader)
        done = num_clips - sum(len(batch) for batch in loader.batch_sampler)
        with progress_bar(num_clips, "caching latents", "clip", initial=done, show=self.progress) as bar:
            for turn in range(num_turns):
                if turn < len(missing):
                    number, batches = missing[turn]
                    self._write_shard(number, islice(stream, len(batches)), bar)
                self.report.synchronize()
                self.report.check()

    def _is_done(self, number: int) -> bool:
        """Whether the shard exists; if so, its unreadable files are counted."""
        path = shard_path(self.folder, number)
        if not path.is_file():
            return False
        with open_file(path, "pt") as shard:
            metadata = read_metadata(path, shard)
        check_identity(path, metadata["identity"], self.identity)
        unreadable = {int(video): reason for video, reason in metadata["unreadable"].items()}
        self.report.update({"tried": metadata["tried"], "unreadable": unreadable})
        return True

    def _write_shard(self, number: int, batches: Iterator[dict], bar: tqdm) -> None:
        encoded, tried, unreadable, digests = [self._nothing()], [], {}, {}
        for batch in batches:
            for reason in self.report.update(batch):
                bar.write(f"skipped: {reason}")
            if self.num_processes == 1:  # else only all together can say
                self.report.check()
            tried += batch["tried"]
            unreadable |= batch["unreadable"]
            digests |= batch["digests"]
            if batch["sample"] is not None:
                encoded.append(self._encode(batch["sample"]))
            bar.update(len(batch["tried"]))
        # Only a whole shard leaves the device of the model, so that a GPU need not wait for the host at every batch.
        tensors = {name: torch.cat([part[name] for part in encoded]).cpu() for name in encoded[0]}
        write_shard(self.folder, number, tensors, self.identity, sorted(set(tried)), unreadable, digests)

    @torch.no_grad()
    def _encode(self, sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a shard for one batch, the mirrored clips behind the others."""
        latents = self._latents(sample["video"])
        structure = self._latents(sample["companion"]).structure if self.config.companions else latents.structure
        views = 1 + self.config.flip
        sources = [torch.nn.functional.pad(sample["source"], (0, 1), value=mirrored) for mirrored in range(views)]
        return {
            "structure": structure,  # (n B, d_S, n_q, h_S, w_S) for n views
            "dynamics": latents.dynamics,  # (n B, d_D, F, w_D + h_D)
            "labels": sample["label"].repeat(views),  # (n B,)
            "sources": torch.cat(sources),  # (n B, 3): video, clip of the video, mirrored
        }

    def _latents(self, frames: torch.Tensor) -> VidTwinLatents:
        """The latents of clips, uint8 (B, T, H, W, 3), those of the mirrored clips behind the others."""
        video = to_video(to_device(frames, self.model.device))  # (B, 3, T, H, W)
        views = (video, video.flip(-1)) if self.config.flip else (video,)
        return VidTwinLatents.cat([self.model.encode(view).latent_dist.mode() for view in views])

    def _nothing(self) -> dict[str, torch.Tensor]:
        """The tensors of a shard without clips, for one whose files cannot be read."""
        like = {"dtype": self.model.dtype, "device": self.model.device}
        return {
            "structure": torch.empty(0, *self.model.structure_shape, **like),
            "dynamics": torch.empty(0, *self.model.dynamics_shape, **like),
            "labels": torch.empty(0, dtype=torch.long),
            "sources": torch.empty(0, 3, dtype=torch.long),
        }


def write_shard(
    folder: Path,
    number: int,
    tensors: dict[str, torch.Tensor],
    identity: dict[str, Any],
    tried: Sequence[int] = (),
    unreadable: dict[int, str] | None = None,
    digests: dict[int, str] | None = None,
) -> None:
    """Write a shard of a cache, atomically.

    Args:
        folder: the cache's folder.
        number: the shard's number.
        tensors: `structure` and `dynamics` latents, `labels` (n,), and `sources` (n, 3): number of the video, of its
            clip, and 1 if mirrored.
        identity: the cache's identity.
        tried: numbers of the videos of the shard.
        unreadable: reason by video of those that could not be read.
        digests: `file_digest` by video, where videos are files.
    """
    metadata = {"identity": identity, "tried": list(tried), "unreadable": unreadable or {}, "digests": digests or {}}
    # One entry, because safetensors writes several in an order that changes from run to run.
    save_safetensors(tensors, shard_path(folder, number), {METADATA_KEY: json.dumps(metadata)})


def write_index(
    folder: Path, num_shards: int, identity: dict[str, Any], class_names: Sequence[str], unreadable: dict[str, str]
) -> None:
    """Complete a cache by its index, atomically; reads all latents for their statistics.

    Args:
        folder: the cache's folder.
        num_shards: all of which are written.
        identity: the cache's identity.
        class_names: name of every label.
        unreadable: reason by name of every video that could not be read.

    Raises:
        UnreadableVideo: if no shard holds a clip.
    """
    counts, statistics = _statistics([shard_path(folder, number) for number in range(num_shards)])
    index = {
        "identity": identity,
        "counts": counts,
        "class_names": list(class_names),
        "statistics": statistics,
        "num_unreadable": len(unreadable),
        "unreadable": unreadable,
    }
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1))


def _statistics(paths: list[Path]) -> tuple[list[int], dict[str, list[float]]]:
    """Clips of every shard, and mean and standard deviation per channel over all of them, summed in float64."""
    counts, sums, places = [], {}, {}
    for path in paths:
        with open_file(path, "pt") as shard:
            for name in ("structure", "dynamics"):
                values = shard.get_tensor(name).double().transpose(0, 1).flatten(1)  # (d, clips x places)
                moments = torch.stack([values.sum(1), values.square().sum(1)])  # (2, d)
                sums[name] = sums.get(name, 0) + moments
                places[name] = places.get(name, 0) + values.shape[1]
            counts.append(shard.get_slice("labels").get_shape()[0])
    if not sum(counts):
        raise UnreadableVideo(f"none of the clips for {paths[0].parent} could be read")
    statistics = {}
    for name, moments in sums.items():
        mean, square = moments / places[name]
        statistics[f"{name}_mean"] = mean.tolist()
        statistics[f"{name}_std"] = (square - mean.square()).clamp(min=0).sqrt().tolist()
    return counts, statistics


def _split(items: range, size: int) -> list[range]:
    return [items[start : start + size] for start in range(0, len(items), size)]
