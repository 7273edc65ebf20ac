"""The tab that reconstructs an uploaded video of any size and length, from both latents and from either alone."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path

import gradio as gr
import torch
from einops import rearrange

from autoencoder.common.errors import UserError
from autoencoder.common.pictures import to_uint8
from autoencoder.common.upscaling import unrepeated
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.clips import FITS, Fit, chosen_overlap, decode_frames, encode_frames
from autoencoder.whole_videos.video_file import TimedFrame, VideoFile, VideoWriter, open_writer
from pipelines.page.controls import Desk, go_and_stop, sentence, shown_video, status_line, upload_field
from pipelines.page.films import check_upload, enlarged, named_by_owner
from pipelines.page.studio import Studio
from pipelines.page.visits import Visit
from pipelines.page.work import Work

Pair = tuple[torch.Tensor, torch.Tensor]
PARTS = {"both": "full", "structure": "structure only", "dynamics": "dynamics only"}


class Scores:
    """PSNR of one reconstruction on the frames that are shown, and PSNR and SSIM on those that the model takes.

    SSIM of the frames that are shown would take most of the time.
    """

    def __init__(self):
        self.shown, self.psnr, self.ssim = VideoPSNR(), VideoPSNR(), VideoSSIM()

    def add(self, shown: Pair, squares: Pair) -> None:
        """Add a frame, as a reconstruction and its original, uint8 (H, W, 3) each, at both sizes."""
        self.shown.update(*map(_as_clip, shown))
        for metric in (self.psnr, self.ssim):
            metric.update(*map(_as_clip, squares))

    def __str__(self) -> str:
        return f"{self.shown.compute():.2f} dB | {self.psnr.compute():.2f} dB | {self.ssim.compute():.3f}"


def _as_clip(frame: torch.Tensor) -> torch.Tensor:
    """uint8 (H, W, 3) to float (1, 3, 1, H, W) in [0, 1]."""
    return rearrange(frame, "h w c -> 1 c 1 h w") / 255


@dataclass
class Reconstruction:
    """What a video became.

    Attributes:
        video: the original.
        fit: how its frames went into the model's square.
        scores: by part.
        files: by "original" and part.
        clips: how many went through the model.
        frames: how many were reconstructed.
    """

    video: VideoFile
    fit: Fit
    scores: dict[str, Scores] = field(default_factory=lambda: {part: Scores() for part in PARTS})
    files: dict[str, Path] = field(default_factory=dict)
    clips: int = 0
    frames: int = 0

    def add(self, writers: dict[str, VideoWriter], original: TimedFrame, squares: dict[str, torch.Tensor]) -> None:
        """Score and write a frame.

        Args:
            writers: by "original" and part.
            original: of the video.
            squares: float (3, S, S) in about [-1, 1], by part.
        """
        into = self.fit.into(unrepeated(original.pixels, self.video.repeats))
        target = into if self.fit.mode == "crop" else original.pixels
        writers["original"].write(enlarged(target), original.stamp, original.duration)
        for part, square in squares.items():
            pixels = self.fit.back(square)
            self.scores[part].add((pixels, target), (to_uint8(square[:, None])[0], into))
            writers[part].write(enlarged(pixels), original.stamp, original.duration)
        self.frames += 1


def reconstruct(vae: AutoencoderVidTwin, video: VideoFile, mode: str, folder: Path, work: Work) -> Reconstruction:
    """Reconstruct a video from both latents and from either alone, in constant memory.

    Args:
        vae: in eval mode.
        video: of any size and length.
        mode: "pad" or "crop", as of `Fit`.
        folder: for the four files, which are written side by side.
        work: is told of every frame.

    Raises:
        UnreadableVideo: at a frame that does not decode.
        WorkStopped: if the work was stopped; no file is left.
    """
    fit = Fit(mode, video.format.width, video.format.height, vae.config.sample_size)
    result = Reconstruction(video, fit)
    result.files = {name: folder / f"{name}.mp4" for name in ("original", *PARTS)}
    width, height = fit.output_size
    height, width = enlarged(torch.empty(height, width, 3, dtype=torch.uint8)).shape[:2]
    form = replace(video.format, width=width, height=height)
    waiting: deque[TimedFrame] = deque()
    overlap = chosen_overlap(None, vae.config.num_frames)
    latents = _counted(encode_frames(vae, _squares(video, fit, waiting), overlap), result)
    copies = tee(latents, len(PARTS))
    streams = [decode_frames(vae, copy, overlap, part) for part, copy in zip(PARTS, copies, strict=True)]
    with ExitStack() as stack:
        writers = {name: stack.enter_context(open_writer(path, form)) for name, path in result.files.items()}
        for squares in zip(*streams, strict=True):
            if not waiting:  # what comes are repeats of the last frame
                break
            result.add(writers, waiting.popleft(), dict(zip(PARTS, squares, strict=True)))
            work.advance(result.frames, video.num_frames, "frames")
    return result


def _squares(video: VideoFile, fit: Fit, waiting: deque[TimedFrame]) -> Iterator[torch.Tensor]:
    """The frames for the model, uint8 (S, S, 3); each of them is put in `waiting`."""
    for frame in video.frames():
        waiting.append(frame)
        yield fit.into(unrepeated(frame.pixels, video.repeats))


def _counted(latents: Iterator[VidTwinLatents], result: Reconstruction) -> Iterator[VidTwinLatents]:
    for clip in latents:
        result.clips += 1
        yield clip


def report(vae: AutoencoderVidTwin, result: Reconstruction) -> str:
    """Scores and rate, in Markdown."""
    width, height = result.fit.output_size
    size = result.fit.size
    head = f"| | PSNR at {width} x {height} | PSNR at the model's {size} x {size} | SSIM at {size} x {size} |"
    lines = [head, "|---|---|---|---|", *(f"| {PARTS[part]} | {scores} |" for part, scores in result.scores.items())]
    numbers, pixels = result.clips * vae.num_latent_scalars, 3 * width * height * result.frames
    fps = float(result.video.format.rate)
    lines += [
        "",
        f"{result.frames} frames at {fps:.4g} per second, in {result.clips} clips whose ends overlap. Rate: "
        f"{numbers:,} latent numbers for the video's {pixels:,}, {numbers / pixels:.3%}; of a clip at the model's size "
        f"{vae.compression_rate:.2%}.",
    ]
    return "\n".join(lines)


def look_at_upload(studio: Studio, visit: Visit, path: str | None) -> tuple[str, str]:
    """Say what an uploaded video is; one that is not taken is removed, and so are earlier ones.

    Returns:
        The sentence, and where the file is now.

    Raises:
        UserError: if it is not taken.
    """
    if path is None:
        raise UserError("nothing was uploaded")
    visit.drop_uploads()
    own = visit.take_upload(path)
    try:
        video = check_upload(own, studio.limits)
    except UserError:
        visit.drop_upload(own)
        raise
    form = video.format
    return f"{form.width} x {form.height}, {video.num_frames} frames at {float(form.rate):.4g} per second.", str(own)


def reconstruct_upload(
    studio: Studio, visit: Visit, work: Work, path: str | None, mode: str
) -> tuple[str, dict[str, Path]]:
    """Reconstruct an uploaded video, and remove it whatever happens.

    Returns:
        What `report` says, and the files.

    Raises:
        UserError: if nothing was uploaded, or the file is no video that is taken.
        WorkStopped: if the work was stopped.
    """
    if path is None:
        raise UserError("there is no video: upload one first")
    folder, own = visit.new_folder("reconstruct"), visit.take_upload(path)
    try:
        video = check_upload(own, studio.limits)
        with named_by_owner(own):
            result = reconstruct(studio.vae, video, mode, folder, work)
    finally:
        visit.drop_upload(own)
    visit.keep_newest(folder)
    return report(studio.vae, result), result.files


def reconstruct_tab(desk: Desk) -> None:
    """Lay the tab out."""
    studio = desk.studio
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            upload = upload_field("reconstruct")
            mode = gr.Radio(
                [("the whole picture", "pad"), ("its centre square", "crop")], value=FITS[0], label="Reconstruct"
            )
            go, stop = go_and_stop("reconstruct", "Reconstruct")
        with gr.Column(scale=3):
            status = status_line("reconstruct")
    with gr.Row(elem_classes="together"):
        videos = [shown_video(name, min_width=270) for name in ("original", *PARTS.values())]

    def look(visit: Visit, work: Work, path: str | None):
        try:
            return look_at_upload(studio, visit, path)
        except UserError as error:
            return sentence(error), None

    def work(visit: Visit, work: Work, path: str | None, mode: str):
        text, files = reconstruct_upload(studio, visit, work, path, mode)
        return text, *map(str, files.values())

    desk.on(upload.upload, "reconstruct-upload", look, [upload], status, [upload])
    upload.clear(desk.forget, queue=False, show_progress="hidden", api_visibility="private")
    desk.on(go.click, "reconstruct", work, [upload, mode], status, videos, stop, spent=upload)
