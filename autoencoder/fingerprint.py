"""A name for a model by what it holds, so that what was made with it is never taken for that of another one."""

import hashlib
import json

import torch
from diffusers import ModelMixin

from autoencoder.vidtwin import READERS


def fingerprint(model: ModelMixin) -> str:
    """SHA-256, in hexadecimal, over the config and all weights of a model."""
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    for name, choices in READERS.items():  # younger than the first fingerprints, which stay valid
        if config.get(name) == choices[0]:
            del config[name]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
