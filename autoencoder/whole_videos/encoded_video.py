"""The latents of a whole video as one file, with all that is needed to decode it, except for the audio."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from autoencoder.checkpoint import fingerprint
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import save_safetensors
from autoencoder.common.upscaling import unrepeated
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.clips import Fit, decode_frames, encode_frames
from autoencoder.whole_videos.video_file import TimedFrame, VideoFile, VideoFormat

METADATA_KEY = "encoded_video"  # key of the file's metadata
TENSORS = {"structure", "dynamics", "times"}


@dataclass(frozen=True)
class EncodedVideo:
    """A video as latents.

    Attributes:
        latents: latents of all clips, structure (B, d_S, n_q, h_S, w_S) and dynamics (B, d_D, F, w_D + h_D).
        times: int64 (N, 2), time stamp and duration of every frame in units of the format's time base.
        format: format of the video that was encoded.
        fit: how its frames went into the model's square.
        overlap: frames that neighbouring clips share.
        model: fingerprint of the autoencoder.
    """

    latents: VidTwinLatents
    times: torch.Tensor
    format: VideoFormat
    fit: Fit
    overlap: int
    model: str

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically."""
        metadata = {
            "model": self.model,
            "num_frames": len(self.times),
            "format": self.format.to_json(),
            "fit": self.fit.mode,
            "size": self.fit.size,
            "box": self.fit.box,
            "overlap": self.overlap,
        }
        tensors = {"structure": self.latents.structure, "dynamics": self.latents.dynamics, "times": self.times}
        save_safetensors(tensors, path, {METADATA_KEY: json.dumps(metadata)})

    @classmethod
    def load(cls, path: str | Path) -> "EncodedVideo":
        """Read what `save` wrote.

        Raises:
            MissingFileError: if there is no such file.
            UserError: if the file holds something else.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"there is no file {path}; `python -m autoencoder.encode` makes such a file")
        try:
            with safe_open(path, "pt") as file:
                metadata = (file.metadata() or {}).get(METADATA_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from error
        if metadata is None or tensors.keys() != TENSORS:
            raise UserError(f"{path} holds {sorted(tensors)}, not a video that `python -m autoencoder.encode` wrote")
        metadata = json.loads(metadata)
        form = VideoFormat.from_json(metadata["format"])
        return cls(
            latents=VidTwinLatents(tensors["structure"], tensors["dynamics"]),
            times=tensors["times"],
            format=form,
            fit=Fit(metadata["fit"], form.width, form.height, metadata["size"]),
            overlap=metadata["overlap"],
            model=metadata["model"],
        )


def encode_video(
    model: AutoencoderVidTwin,
    video: VideoFile,
    mode: str,
    overlap: int,
    on_frame: Callable[[], object] = lambda: None,
) -> EncodedVideo:
    """Encode a video file; its frames are streamed, its latents are held in memory.

    Args:
        model: in eval mode.
        video: the file.
        mode: "pad" or "crop", as of `Fit`.
        overlap: frames that neighbouring clips share.
        on_frame: called for every frame that is read.

    Raises:
        UnreadableVideo: if the file is damaged.
    """
    fit = Fit(mode, video.format.width, video.format.height, model.config.sample_size)
    times: list[tuple[int, int]] = []

    def squares() -> Iterator[torch.Tensor]:
        for pixels, stamp, duration in video.frames():
            times.append((stamp, duration))
            on_frame()
            yield fit.into(unrepeated(pixels, video.repeats))

    latents = VidTwinLatents.cat(list(encode_frames(model, squares(), overlap))).to("cpu")
    return EncodedVideo(latents, torch.tensor(times), video.format, fit, overlap, fingerprint(model))


def decode_video(model: AutoencoderVidTwin, video: EncodedVideo, part: str = "both") -> Iterator[TimedFrame]:
    """Decode a video, a frame at a time.

    Args:
        model: the autoencoder that encoded it, in eval mode.
        video: its latents.
        part: "both", or "structure" or "dynamics" to leave the other one out.

    Returns:
        Frames uint8 (H, W, 3) of `video.fit.output_size`.

    Raises:
        UserError: if another model encoded the video.
    """
    if (own := fingerprint(model)) != video.model:
        raise UserError(
            f"the latents are those of another autoencoder: its fingerprint is {video.model}, that of the given one is "
            f"{own}; give the folder of the one that encoded them with --checkpoint"
        )
    latents = video.latents.to(model.device)
    clips = (latents[clip] for clip in range(len(latents)))
    squares = decode_frames(model, clips, video.overlap, part)
    # The times come first: they end at the last frame, the decoded frames go on with its repeats.
    return (
        TimedFrame(video.fit.back(square), stamp, duration)
        for (stamp, duration), square in zip(video.times.tolist(), squares, strict=False)
    )
