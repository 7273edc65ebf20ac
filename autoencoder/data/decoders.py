"""Chosen frames of a video file, by PyAV or by decord.

PyAV is the default reader. It gives every frame with its time stamp and damage flag, reads all formats of FFmpeg, and
on one thread takes no more time than decord. decord is there to compare with. It gives no time stamps and no damage
flags, counts frames from a key frame on, and scans the whole file whenever it opens one. So it only gets files from
which it is known to decode the very frames and pixels of PyAV: see `FrameIndex.decord_obstacle`.
"""

import importlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from autoencoder.data.frame_index import FrameIndex, UnreadableVideo, open_video, reason_of, stamp_of


def has_decord() -> bool:
    """Whether decord is installed and loads."""
    try:
        importlib.import_module("decord")
    except (ImportError, OSError, RuntimeError):  # its binary may miss a library
        return False
    return True


def _frames_from(
    container: av.container.InputContainer, index: FrameIndex, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from the key frame before frame `first` on: time stamps and frames."""
    stream = container.streams.best("video")
    key = max(np.flatnonzero(index.is_key[: first + 1]), default=0)
    # A container that seeks by the time of decoding (AVI) may land on a later key frame when given that of display, and
    # one without a table of its key frames (MPEG streams) on a later one anyway.
    for target in (index.stamps[key], index.decode_stamps[key], *_earlier(index, key)):
        container.seek(int(target), stream=stream)
        stamped = ((stamp_of(frame, index.by_dts), frame) for frame in container.decode(stream))
        frames = (pair for pair in stamped if pair[0] is not None)
        pair = next(frames, None)
        if pair is not None and pair[0] <= index.stamps[first]:
            yield from chain([pair], frames)
            return


def _earlier(index: FrameIndex, key: int) -> Iterator[int]:
    """Time stamps of decoding of key frames before `key`, each twice as far back as the one before, then the first."""
    keys = np.flatnonzero(index.is_key[:key])
    back = 1
    while back < len(keys):
        yield index.decode_stamps[keys[-back]]
        back *= 2
    yield index.decode_stamps[0]


def _runs(index: FrameIndex, positions: np.ndarray) -> list[np.ndarray]:
    """Split ascending positions where seeking to a key frame spares decoding what lies between two of them."""
    keys = np.flatnonzero(index.is_key)
    latest_key = np.append(-1, keys)[np.searchsorted(keys, positions, side="right")]
    return np.split(positions, np.flatnonzero(latest_key[1:] > positions[:-1] + 1) + 1)


def _decode_run(
    container: av.container.InputContainer, path: str | Path, index: FrameIndex, positions: np.ndarray
) -> dict[int, np.ndarray]:
    """Pictures by time stamp, decoding from the key frame before the first position to the last."""
    wanted = set(index.stamps[positions].tolist())
    pictures: dict[int, np.ndarray] = {}
    latest, converter = None, VideoReformatter()  # a frame's own converter would be set up anew for every frame
    for stamp, frame in _frames_from(container, index, positions[0]):
        if latest is not None and stamp <= latest:  # guessed stamps, as of H.264 with B-frames in AVI
            raise UnreadableVideo(f"{path}: its time stamps do not follow the order of its frames")
        latest = stamp
        if frame.is_corrupt:  # later frames are predicted from it
            raise UnreadableVideo(f"{path}: the frame at {stamp * index.time_base:.3f} s is damaged")
        if stamp in wanted:
            pictures[stamp] = index.orientation.apply(converter.reformat(frame, format="rgb24").to_ndarray())
        if stamp >= index.stamps[positions[-1]]:
            break
    return pictures


def _decode_with_pyav(path: str | Path, index: FrameIndex, positions: np.ndarray) -> np.ndarray:
    wanted = index.stamps[positions].tolist()
    pictures: dict[int, np.ndarray] = {}
    with open_video(path) as container:
        container.streams.best("video").thread_type = "NONE"
        for run in _runs(index, positions):
            pictures |= _decode_run(container, path, index, run)
    lost = sum(stamp not in pictures for stamp in wanted)
    if lost:
        raise UnreadableVideo(f"{path}: {lost} of the {len(wanted)} frames wanted for the clip do not decode")
    if len({picture.shape for picture in pictures.values()}) > 1:
        raise UnreadableVideo(f"{path}: the size of the picture changes within the clip")
    return np.stack([pictures[stamp] for stamp in wanted])


def _decode_with_decord(path: str | Path, index: FrameIndex, positions: np.ndarray) -> np.ndarray:
    decord = importlib.import_module("decord")
    if index.decord_obstacle:
        raise UnreadableVideo(f"{path}: decord would not read it right, {index.decord_obstacle}; decoder='pyav' may")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # The smallest tolerance decord understands (0 means "any number"): no frame replaced by its neighbour.
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol="0.000000001")
        return reader.get_batch(positions).asnumpy()
    except Exception as error:  # no common class: DECORDError, RuntimeError, IndexError, TypeError, OSError, ...
        raise UnreadableVideo(f"{path}: decord: {error}") from error


DECODERS: dict[str, Callable[[str | Path, FrameIndex, np.ndarray], np.ndarray]] = {
    "pyav": _decode_with_pyav,
    "decord": _decode_with_decord,
}


def decode(decoder: str, path: str | Path, index: FrameIndex, positions: np.ndarray) -> np.ndarray:
    """Decode chosen frames.

    Args:
        decoder: name in `DECODERS`.
        path: the video file.
        index: the file's index.
        positions: int64 (T,) in the index, ascending, each once.

    Returns:
        uint8 (T, H, W, 3), upright.

    Raises:
        UnreadableVideo: if a frame is damaged or missing.
    """
    try:
        return DECODERS[decoder](path, index, positions)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {reason_of(error)}") from error
