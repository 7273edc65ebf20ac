"""Clips for both stages: moving shapes, sprites, folders of videos, UCF-101."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from autoencoder.data.clips import ClipDataset, to_video
    from autoencoder.data.config import DataConfig
    from autoencoder.data.folder import VideoFolder
    from autoencoder.data.frame_index import UnreadableVideo
    from autoencoder.data.shapes import Shapes
    from autoencoder.data.sprites import Sprites
    from autoencoder.data.ucf101.dataset import UCF101

__all__ = ["UCF101", "ClipDataset", "DataConfig", "Shapes", "Sprites", "UnreadableVideo", "VideoFolder", "to_video"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "UCF101": "autoencoder.data.ucf101.dataset",
        "ClipDataset": "autoencoder.data.clips",
        "DataConfig": "autoencoder.data.config",
        "Shapes": "autoencoder.data.shapes",
        "Sprites": "autoencoder.data.sprites",
        "UnreadableVideo": "autoencoder.data.frame_index",
        "VideoFolder": "autoencoder.data.folder",
        "to_video": "autoencoder.data.clips",
    },
)
