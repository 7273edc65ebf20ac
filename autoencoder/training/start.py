"""Starting a training from the weights of another one."""

from pathlib import Path

import torch
from torch.nn import functional as F

from autoencoder.checkpoint import load_autoencoder
from autoencoder.common.errors import UserError
from autoencoder.common.run_folder import RunFolder
from autoencoder.vidtwin import AutoencoderVidTwin

OVER_FRAMES = "structure_decoder.queries_to_frames."  # the weights whose first axis is the clip's frames
NUM_LISTED = 5


def start_from(model: AutoencoderVidTwin, folder: str | Path) -> None:
    """Give a model the weights of a trained one, which may be of clips of another length.

    Weights that differ from frame to frame are interpolated linearly over the clip; position embeddings are those of
    the model itself.

    Args:
        model: gets the weights.
        folder: of a run of `python -m autoencoder.train`, or of a saved autoencoder.

    Raises:
        MissingFileError: if the folder holds no autoencoder.
        UserError: if its weights do not fit.
    """
    run = RunFolder(folder)
    given = load_autoencoder(run.model if run.model.is_dir() else folder, "cpu").state_dict()
    own = model.state_dict()
    for name in own.keys() & given.keys():
        if name.startswith(OVER_FRAMES):
            given[name] = _over_frames(given[name], len(own[name]))
    unlike = {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    if unlike := sorted(unlike | (own.keys() ^ given.keys())):
        listed = ", ".join(f"{name} {_shape(given, name)} for {_shape(own, name)}" for name in unlike[:NUM_LISTED])
        more = f", and {len(unlike) - NUM_LISTED} more" if len(unlike) > NUM_LISTED else ""
        raise UserError(
            f"init_from={folder}: the weights of that model do not fit this one: {listed}{more}. Give both the same "
            "settings of the model; only num_frames may differ"
        )
    model.load_state_dict(given)


def _over_frames(weights: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(F, ...) -> (num_frames, ...), the first and the last frame as they are."""
    rows = weights.flatten(1).T if weights.dim() > 1 else weights[None]  # (..., F)
    rows = F.interpolate(rows[None], num_frames, mode="linear", align_corners=True)[0]
    return rows.T.reshape(num_frames, *weights.shape[1:])


def _shape(weights: dict[str, torch.Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "none"
