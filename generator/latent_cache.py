"""The latents of a data set, encoded once and kept in files: the data set of stage two.

A cache is a folder of safetensors shards and index.json, which is written last and makes it complete. Every shard
appears whole or not at all, and says in its metadata what it was made from; so an interrupted cache is continued with
the shards that are missing, and one of another autoencoder is refused. Several processes share the shards out; what is
in one does not depend on who made it, so any number of processes leaves the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import distributed
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from autoencoder.checkpoint import fingerprint
from autoencoder.common.device import to_device
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import atomic_path, save_safetensors
from autoencoder.common.processes import from_all
from autoencoder.common.run import LAST_AUTOENCODER, read_pointer
from autoencoder.common.seeding import derive_seed
from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data import ClipDataset, UnreadableVideo, to_video
from autoencoder.data.stream import FileReport, collate
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.config import CacheConfig

INDEX = "index.json"
METADATA_KEY = "latent_cache"  # key of the shards' metadata
ENCODE_BATCH_SIZE = 16  # fixed, because the last bits of a latent may depend on the batch around it
UNLABELLED = ("video",)  # the one class of a data set without labels


def autoencoder_folder(folder: str | Path | None) -> Path:
    """The folder of the autoencoder: the given one, or the one that stage one left last.

    Raises:
        FileNotFoundError: if there is none; the message says how to train one.
    """
    path = read_pointer(LAST_AUTOENCODER) if folder is None else Path(folder)
    if path is None or not (path / "config.json").is_file():
        problem = f"{LAST_AUTOENCODER} does not exist" if path is None else f"{path} holds no config.json"
        raise MissingFileError(
            f"there is no autoencoder: {problem}. Train one with `python -m autoencoder.train`, or give the folder of "
            "one with --autoencoder DIR"
        )
    return path


class LatentCache:
    """A complete cache. Latents are read through a memory map, so that memory does not grow with the cache.

    Args:
        folder: of the cache.
        autoencoder: fingerprint of the autoencoder whose latents they must be; None takes any.
        settings: `CacheConfig.settings` that it must have been made with; None takes any.

    Attributes:
        class_names: name of every label, in order.
        labels: long (N,), class ids.
        statistics: `structure_mean`, `structure_std`, `dynamics_mean`, `dynamics_std`: lists of one number per channel.
        identity: what the cache was made from: the settings, the `autoencoder`, a digest of the `files`, `shard_size`.
        unreadable: reason by name of every video that could not be read.

    Raises:
        FileNotFoundError: if the cache is not complete.
        ValueError: if it holds the latents of another autoencoder or other settings, or a shard does not fit the index.
    """

    def __init__(
        self, folder: str | Path, autoencoder: str | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise MissingFileError(
                f"{self.folder} holds no complete latent cache: {INDEX} is missing; `python -m generator.cache_latents "
                f"--output-dir {self.folder}` makes or continues it"
            )
        index = json.loads((self.folder / INDEX).read_text())
        self.class_names: tuple[str, ...] = tuple(index["class_names"])
        self.statistics: dict[str, list[float]] = index["statistics"]
        self.identity: dict[str, Any] = index["identity"]
        self.unreadable: dict[str, str] = index["unreadable"]
        wanted = (settings or {}) | ({} if autoencoder is None else {"autoencoder": autoencoder})
        _check_identity(self.folder, self.identity, wanted)
        self._shards = [self._open(number, count) for number, count in enumerate(index["counts"])]
        self._ends = np.cumsum(index["counts"])
        self.labels = torch.cat([shard.get_tensor("labels") for shard in self._shards])

    def _open(self, number: int, count: int) -> safe_open:
        path = _shard_path(self.folder, number)
        if not path.is_file():
            raise MissingFileError(f"{path}, which {INDEX} lists, is missing; remove {INDEX} to have it made again")
        shard = safe_open(path, "pt")
        _check_identity(path, _metadata(path, shard)["identity"], self.identity)
        if (found := shard.get_slice("labels").get_shape()[0]) != count:
            raise UserError(f"{path} holds {found} clips, {INDEX} lists {count}")
        return shard

    def __reduce__(self):
        return LatentCache, (self.folder,)  # open shards cannot be sent to a worker process

    def __len__(self) -> int:
        return len(self.labels)

    def latents(self, indices: Sequence[int]) -> VidTwinLatents:
        """Read clips.

        Args:
            indices: at least one, each in [0, N).

        Returns:
            Posterior means: structure (B, d_S, n_q, h_S, w_S) and dynamics (B, d_D, F, w_D + h_D).

        Raises:
            IndexError: for an index out of range.
        """
        return VidTwinLatents.cat([self._read(int(index)) for index in indices])

    def _read(self, index: int) -> VidTwinLatents:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of a cache of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[number - 1] if number else 0)
        shard = self._shards[number]
        return VidTwinLatents(*(shard.get_slice(name)[row : row + 1] for name in ("structure", "dynamics")))


def build_cache(
    model: AutoencoderVidTwin, config: CacheConfig, folder: str | Path, progress: bool = True
) -> LatentCache:
    """Encode a data set, go on where that was stopped, or open the cache if it is complete.

    Of several processes (`torch.distributed`), all must call this; each encodes the shards whose number is its rank
    modulo their count.

    Args:
        model: the autoencoder, on the device to encode on; it is set to eval mode.
        config: data set and clips.
        folder: of the cache; all processes must see the same one.
        progress: whether to show a progress bar, over the share of this process.

    Raises:
        FileNotFoundError: if the data are not there.
        ValueError: if the folder holds latents of another autoencoder or other settings; the message names both.
        UnreadableVideo: if too many files are bad.
    """
    autoencoder_hash = fingerprint(model)
    if not from_all((Path(folder) / INDEX).is_file())[0]:  # as the first process sees it, so that all do the same
        _Encoder(model.eval(), config, Path(folder), autoencoder_hash, progress).run()
    return LatentCache(folder, autoencoder_hash, config.settings)


class _Clips(Dataset):
    """Item p is clip p mod k of the p div k-th chosen video; the first clip of a video is its middle."""

    def __init__(self, clips: ClipDataset, videos: np.ndarray, config: CacheConfig):
        self.clips, self.videos, self.config = clips, videos, config

    def __len__(self) -> int:
        return len(self.videos) * self.config.clips_per_video

    def __getitem__(self, item: int) -> dict:
        place, number = divmod(item, self.config.clips_per_video)
        index = int(self.videos[place])
        seed = derive_seed(self.config.clip_seed, "cache", index, number)
        try:
            video = self.clips.clip(index, np.random.default_rng(seed) if number else None)
        except UnreadableVideo as error:
            return {"sample": None, "tried": [index], "unreadable": {index: str(error)}}
        label = self.clips.label(index) if self.clips.class_names else 0
        sample = {"video": video, "label": label, "source": torch.tensor([index, number])}
        return {"sample": sample, "tried": [index], "unreadable": {}}


class _Encoder:
    """Makes the shards that are missing, then the index."""

    def __init__(
        self, model: AutoencoderVidTwin, config: CacheConfig, folder: Path, autoencoder_hash: str, progress: bool
    ):
        self.model, self.config, self.folder, self.progress = model, config, folder, progress
        clips = config.build(config.split, model.config.num_frames, model.config.sample_size)
        if config.flip and not clips.flip_invariant:
            raise UserError(f"flip=True, but {type(clips).__name__} does not declare its labels flip-invariant")
        names = (f"{Path(clips.source(index)).name} {clips.label(index)}" for index in range(len(clips)))
        files = hashlib.sha256("\n".join(names).encode()).hexdigest()
        self.identity = config.settings | {
            "autoencoder": autoencoder_hash,
            "files": files,
            "shard_size": config.shard_size,
        }
        order = np.random.default_rng(derive_seed(config.clip_seed, "videos")).permutation(len(clips))
        self.items = _Clips(clips, np.sort(order[: config.max_videos]), config)
        self.report = FileReport(len(clips), config.max_bad_share)
        several = distributed.is_initialized()
        self.rank, self.num_processes = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)

    def run(self) -> None:
        """Encode what is missing; every shard is on disk before the next one begins.

        The processes begin every shard together, so that the bad files of all are counted, and all stop at too many.
        """
        if self.rank == 0:
            for leftover in self.folder.glob(".*.tmp*"):
                leftover.unlink()
        shards = _split(range(len(self.items)), self.config.shard_size // (1 + self.config.flip))
        own = list(enumerate(shards))[self.rank :: self.num_processes]
        missing = [(number, _split(items, ENCODE_BATCH_SIZE)) for number, items in own if not self._is_done(number)]
        num_turns = max(from_all(len(missing)))  # nobody writes before the first process has removed what was left over
        self._make_shards(missing, num_turns, num_clips=sum(len(items) for _, items in own))
        if self.rank == 0:
            clips, reasons = self.items.clips, self.report.reasons
            unreadable = {clips.source(video): reasons[video] for video in sorted(reasons)}
            write_index(self.folder, len(shards), self.identity, clips.class_names or UNLABELLED, unreadable)
        from_all(None)  # the others wait for the index

    def _make_shards(self, missing: list[tuple[int, list[range]]], num_turns: int, num_clips: int) -> None:
        """Write shards, (number, batches) each, one in every turn; a process that has no more only keeps count."""
        loader = DataLoader(
            self.items,
            batch_sampler=[batch for _, batches in missing for batch in batches],
            collate_fn=collate,
            num_workers=self.config.num_workers,
            worker_init_fn=leave_signals_to_the_parent,
        )
        stream = iter(loader)
        done = num_clips - sum(len(batch) for batch in loader.batch_sampler)
        with tqdm(total=num_clips, initial=done, desc="caching latents", unit="clip", disable=not self.progress) as bar:
            for turn in range(num_turns):
                if turn < len(missing):
                    number, batches = missing[turn]
                    self._write_shard(number, islice(stream, len(batches)), bar)
                self.report.synchronize()
                self.report.check()

    def _is_done(self, number: int) -> bool:
        """Whether the shard is there; takes note of its unreadable files."""
        path = _shard_path(self.folder, number)
        if not path.is_file():
            return False
        with safe_open(path, "pt") as shard:
            metadata = _metadata(path, shard)
        _check_identity(path, metadata["identity"], self.identity)
        unreadable = {int(video): reason for video, reason in metadata["unreadable"].items()}
        self.report.update({"tried": metadata["tried"], "unreadable": unreadable})
        return True

    def _write_shard(self, number: int, batches: Iterator[dict], bar: tqdm) -> None:
        encoded, tried, unreadable = [self._nothing()], [], {}
        for batch in batches:
            for reason in self.report.update(batch):
                bar.write(f"skipped: {reason}")
            if self.num_processes == 1:  # else only all together can say
                self.report.check()
            tried += batch["tried"]
            unreadable |= batch["unreadable"]
            if batch["sample"] is not None:
                encoded.append(self._encode(batch["sample"]))
            bar.update(len(batch["tried"]))
        # Only a whole shard leaves the device of the model, so that a GPU need not wait for the host at every batch.
        tensors = {name: torch.cat([part[name] for part in encoded]).cpu() for name in encoded[0]}
        write_shard(self.folder, number, tensors, self.identity, sorted(set(tried)), unreadable)

    @torch.no_grad()
    def _encode(self, sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a shard for one batch, the mirrored clips behind the others."""
        video = to_video(to_device(sample["video"], self.model.device))  # (B, 3, T, H, W)
        views = (video, video.flip(-1)) if self.config.flip else (video,)
        latents = VidTwinLatents.cat([self.model.encode(view).latent_dist.mode() for view in views])
        sources = [torch.nn.functional.pad(sample["source"], (0, 1), value=mirrored) for mirrored in range(len(views))]
        return {
            "structure": latents.structure,  # (n B, d_S, n_q, h_S, w_S) for n views
            "dynamics": latents.dynamics,  # (n B, d_D, F, w_D + h_D)
            "labels": sample["label"].repeat(len(views)),  # (n B,)
            "sources": torch.cat(sources),  # (n B, 3): video, clip of the video, mirrored
        }

    def _nothing(self) -> dict[str, torch.Tensor]:
        """The tensors of a shard without clips: what is left where no file of it can be read."""
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
) -> None:
    """Write a shard of a cache, atomically.

    Args:
        folder: of the cache.
        number: of the shard.
        tensors: `structure` and `dynamics` latents, `labels` (n,), and `sources` (n, 3), which say what was encoded.
        identity: what the cache is made from.
        tried: videos of the shard.
        unreadable: reason by video of those that could not be read.
    """
    metadata = {"identity": identity, "tried": list(tried), "unreadable": unreadable or {}}
    # One entry, because safetensors writes several in an order that changes from run to run.
    save_safetensors(tensors, _shard_path(folder, number), {METADATA_KEY: json.dumps(metadata)})


def write_index(
    folder: Path, num_shards: int, identity: dict[str, Any], class_names: Sequence[str], unreadable: dict[str, str]
) -> None:
    """Complete a cache by its index, atomically; reads all latents for their statistics.

    Args:
        folder: of the cache.
        num_shards: all of which are there.
        identity: what the cache is made from.
        class_names: name of every label.
        unreadable: reason by name of every video that could not be read.

    Raises:
        UnreadableVideo: if no shard holds a clip.
    """
    counts, statistics = _statistics([_shard_path(folder, number) for number in range(num_shards)])
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
        with safe_open(path, "pt") as shard:
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


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _metadata(path: Path, shard: safe_open) -> dict[str, Any]:
    """What a shard says of itself."""
    if METADATA_KEY not in (metadata := shard.metadata() or {}):
        raise UserError(
            f"{path} is no shard of a latent cache: its metadata lack {METADATA_KEY!r}; give another folder"
        )
    return json.loads(metadata[METADATA_KEY])


def _check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        names = ", ".join(f"{name}={found.get(name)!r} there and {wanted[name]!r} here" for name in different)
        raise UserError(f"{path} was made from something else: {names}. Give another folder, or remove that one")
