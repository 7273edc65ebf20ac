"""Small video files with known content, for the tests of reading video."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

HEIGHT, WIDTH = 48, 64
UNIT_MATRIX = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
QUARTER_TURN = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()


def numbered_frames(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (count, height, width, 3), frame i of brightness 20 + 4 i but for a dark right half of the lower half."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    frames[:] = (20 + 4 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[:, height // 2 :, width // 2 :] = 0
    return frames


def numbers(clip: torch.Tensor) -> list[int]:
    """Which frames of `numbered_frames` a clip of them shows."""
    return [round(value) for value in ((clip[:, :16, :16].double().mean(dim=(1, 2, 3)) - 20) / 4).tolist()]


def make_video(
    path: Path,
    count: int = 50,
    fps: int = 25,
    *,
    milliseconds: Iterable[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Path:
    """Write `numbered_frames`, at a constant rate or at the given time stamps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"g": "10"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stamps = range(count) if milliseconds is None else milliseconds
        for picture, stamp in zip(numbered_frames(count, height, width), stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = stamp
            frame.time_base = Fraction(1, fps) if milliseconds is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_quarter(path: Path) -> None:
    """Set the flag in an mp4 file that says to show it turned clockwise by 90 degrees."""
    data = path.read_bytes()
    assert data.count(UNIT_MATRIX) == 2, "expected one matrix of the movie and one of its track"
    at = data.rindex(UNIT_MATRIX)
    path.write_bytes(data[:at] + QUARTER_TURN + data[at + len(QUARTER_TURN) :])


def cut_without_encoding(source: Path, target: Path, key: int, first: int) -> None:
    """Copy the packets from the key frame `key` on, with an edit list that hides the frames before `first`."""
    with av.open(str(source)) as given, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        step = round(1 / (stream.average_rate * stream.time_base))
        for packet in given.demux(stream):
            if packet.size and packet.pts >= key * step:
                packet.pts, packet.dts = packet.pts - first * step, packet.dts - first * step
                packet.stream = copy
                made.mux(packet)


def make_audio(path: Path) -> None:
    """An mp4 file without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_ucf101(root: Path, videos: Sequence[str], classes: Sequence[str], test: Sequence[str] = ()) -> None:
    """The layout of UCF-101 with the given videos; `test` of them in the test lists, the rest in the training lists."""
    for video in videos:
        make_video(root / "UCF-101" / video, count=50, codec="mpeg4")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(classes, 1)))
    folded = [name.lower() for name in classes]
    train = [f"{v} {folded.index(v.split('/')[0].lower()) + 1}\r\n" for v in videos if v not in test]
    for fold in (1, 2, 3):
        (lists / f"trainlist{fold:02d}.txt").write_text("".join(train))
        (lists / f"testlist{fold:02d}.txt").write_text("".join(f"{video}\r\n" for video in test))
