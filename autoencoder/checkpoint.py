"""Reading a trained autoencoder."""

from pathlib import Path

from autoencoder.device import resolve_device
from autoencoder.vidtwin import AutoencoderVidTwin


def load_autoencoder(folder: str | Path, device: str = "auto") -> AutoencoderVidTwin:
    """Read an autoencoder for inference.

    Args:
        folder: as `save_pretrained` left it.
        device: such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if there is no such device.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no folder of an autoencoder: it holds no config.json. `python -m autoencoder.train` leaves "
            "one in the folder model/ of its run"
        )
    device = resolve_device(device)
    return AutoencoderVidTwin.from_pretrained(folder).eval().to(device)
