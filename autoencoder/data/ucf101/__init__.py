"""The data set UCF-101, as unpacked from its archives, with its official split lists."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from autoencoder.data.ucf101.dataset import UCF101

__all__ = ["UCF101"]

__getattr__, __dir__ = hand_on(__name__, {"UCF101": "autoencoder.data.ucf101.dataset"})
