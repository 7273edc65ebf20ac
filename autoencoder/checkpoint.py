"""Reading a trained autoencoder, and a name for it by what it holds."""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import ModelMixin

from autoencoder.common.device import resolve_device
from autoencoder.common.errors import MissingFileError
from autoencoder.vidtwin import READERS, AutoencoderVidTwin


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
        raise MissingFileError(
            f"{folder} is no folder of an autoencoder: it holds no config.json. `python -m autoencoder.train` leaves "
            "one in the folder model/ of its run"
        )
    device = resolve_device(device)
    return AutoencoderVidTwin.from_pretrained(folder).eval().to(device)


def fingerprint(model: ModelMixin) -> str:
    """SHA-256, in hexadecimal, over the config and all weights of a model.

    What was made with a model carries it, so that it is never taken for that of another one.
    """
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    for name, choices in READERS.items():  # younger than the first fingerprints, which stay valid
        if config.get(name) == choices[0]:
            del config[name]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
