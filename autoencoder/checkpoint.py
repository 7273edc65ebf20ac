"""Loading a trained autoencoder, and the fingerprint of a model."""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import ModelMixin

from autoencoder.common.device import resolve_device
from autoencoder.common.errors import MissingFileError
from autoencoder.vidtwin import READERS, AutoencoderVidTwin


def load_autoencoder(folder: str | Path, device: str = "auto") -> AutoencoderVidTwin:
    """Load an autoencoder for inference, in eval mode.

    Args:
        folder: written by `save_pretrained`.
        device: such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one.

    Raises:
        MissingFileError: if the folder holds no autoencoder.
        UserError: if there is no such device.
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

    Encoded videos and latent caches store the fingerprint of their autoencoder, so that no other one decodes them.
    """
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    for name, choices in READERS.items():  # fields added later; left at their defaults, older fingerprints stay valid
        if config.get(name) == choices[0]:
            del config[name]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    _add_weights(digest, model, None)
    return digest.hexdigest()


def weights_fingerprint(model: ModelMixin, dtype: torch.dtype | None = None) -> str:
    """SHA-256, in hexadecimal, over the weights of a model alone, to which later versions add no fields.

    Args:
        model: is left as it is.
        dtype: take the weights as if they were cast to it; None takes them as they are.
    """
    digest = hashlib.sha256()
    _add_weights(digest, model, dtype)
    return digest.hexdigest()


def _add_weights(digest: "hashlib._Hash", model: ModelMixin, dtype: torch.dtype | None) -> None:
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor if dtype is None else tensor.to(dtype)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
