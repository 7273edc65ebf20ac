"""The samples of an evaluation: made in full batches, kept as latents, and decoded when they are measured."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from autoencoder.codec import decode_clips
from autoencoder.common.errors import UserError
from autoencoder.common.files import save_safetensors
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin

METADATA_KEY = "samples"  # key of the metadata of a chunk

Sampler = Callable[[Sequence[int], Sequence[int]], VidTwinLatents]
"""Classes and places of samples, both (B,), to their latents; a sample depends on its own alone."""


class SampleStore:
    """The samples of one repeat as latents, in chunks, each written atomically to a file of its own.

    As latents, a clip of 224 x 224 pixels takes 20 kB instead of the 2.4 MB of its frames.

    Args:
        folder: the files' folder; None keeps no samples.
        identity: everything that the samples depend on, except their classes.
        labels: class of every sample.
        chunk_size: samples of a chunk.

    Raises:
        UserError: if the folder holds samples of another identity or of other classes, or a file that is not whole.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], labels: Sequence[int], chunk_size: int):
        self.folder, self.labels, self.chunk_size = folder, list(labels), chunk_size
        self.identity = json.loads(json.dumps(identity | {"chunk_size": chunk_size}))
        self.places = [
            range(first, min(first + chunk_size, len(self.labels))) for first in range(0, len(self.labels), chunk_size)
        ]
        for path in sorted(folder.glob("chunk-*.safetensors")) if folder is not None else ():
            self._check(path)

    def get(self, number: int, sample: Sampler, batch_size: int) -> VidTwinLatents:
        """The latents of chunk `number`, read from its file, or else sampled and kept."""
        places = self.places[number]
        labels = [self.labels[place] for place in places]
        path = None if self.folder is None else self.folder / f"chunk-{number:05d}.safetensors"
        if path is not None and path.is_file():
            with safe_open(path, "pt") as file:
                latents = VidTwinLatents(file.get_tensor("structure"), file.get_tensor("dynamics"))
            if len(latents) >= len(labels):  # fewer are of an evaluation of fewer samples
                return latents[: len(labels)]
        latents = _sample_in_whole_batches(sample, labels, places.start, batch_size)
        if path is not None:
            metadata = {METADATA_KEY: json.dumps(self.identity, sort_keys=True)}
            tensors = {"structure": latents.structure, "dynamics": latents.dynamics, "labels": torch.tensor(labels)}
            save_safetensors(tensors, path, metadata)
        return latents

    def _check(self, path: Path) -> None:
        try:
            self._compare(path)
        except SafetensorError as error:
            raise UserError(
                f"{path} is no whole file of samples ({error}): remove it, and its samples are made anew"
            ) from error

    def _compare(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            if "frames" in list(file.keys()):
                raise UserError(
                    f"{path} holds samples as frames, as they were kept before; they are kept as latents now: give "
                    "another output_dir, or remove that folder"
                )
            found = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            different = [name for name in self.identity if found.get(name) != self.identity[name]]
            labels = [] if different else file.get_tensor("labels").tolist()
        first = self.chunk_size * int(path.stem.removeprefix("chunk-"))
        pairs = zip(labels, self.labels[first : first + self.chunk_size], strict=False)  # either may go on
        if different or any(kept != wanted for kept, wanted in pairs):
            there, here = ({name: values.get(name) for name in different} for values in (found, self.identity))
            unlike = f"with {there}, here it is {here}" if different else "of other classes"
            raise UserError(f"{path} holds samples {unlike}: give another output_dir, or remove that folder")


def _sample_in_whole_batches(sample: Sampler, labels: Sequence[int], first: int, batch_size: int) -> VidTwinLatents:
    """Samples with the given classes and the places `first`, `first` + 1, ....

    The last bits of a sample depend on the size of its batch, though not on the other samples in it. So batches are
    always full, and the surplus is dropped.
    """
    parts = []
    for start in range(0, len(labels), batch_size):
        wanted = list(labels[start : start + batch_size])
        filled = wanted + wanted[-1:] * (batch_size - len(wanted))
        parts.append(sample(filled, range(first + start, first + start + batch_size))[: len(wanted)])
    return VidTwinLatents.cat(parts)


def decode_in_whole_batches(vae: AutoencoderVidTwin, latents: VidTwinLatents, batch_size: int) -> torch.Tensor:
    """Decode in full batches of one size, so that the same latents always give the same bytes.

    Returns:
        uint8 (B, T, H, W, 3) on the CPU.
    """
    count = len(latents)
    filled = [*range(count), *[count - 1] * (-count % batch_size)]
    return decode_clips(vae, latents[filled], batch_size=batch_size)[:count]
