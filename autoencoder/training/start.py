"""Starting a training from the weights of another one."""

from dataclasses import fields
from pathlib import Path

import torch
from torch.nn import functional as F

from autoencoder.checkpoint import load_autoencoder
from autoencoder.common.fitting import check_misfits, fit_weights, tell_misfits, unlike_settings
from autoencoder.settings import AutoencoderSettings
from autoencoder.vidtwin import AutoencoderVidTwin

OVER_FRAMES = "structure_decoder.queries_to_frames."  # the weights whose first axis is the clip's frames
# Settings that say nothing of what the weights mean: the length of a clip, and what only training needs.
FREE = {"num_frames", "qformer_dropout", "qformer_initializer_range"}
SETTINGS = [field.name for field in fields(AutoencoderSettings) if field.name not in FREE]


def start_from(model: AutoencoderVidTwin, folder: str | Path, init_missing: bool = False) -> None:
    """Give a model the weights of a trained one, which may be of clips of another length.

    Weights that differ from frame to frame are interpolated linearly over the clip; position embeddings are those of
    the model itself.

    Args:
        model: gets the weights.
        folder: of a saved autoencoder.
        init_missing: whether weights that do not fit may begin anew.

    Raises:
        MissingFileError: if the folder holds no autoencoder.
        UserError: if its weights or settings do not fit, and `init_missing` is not set. The model is as it was then.
    """
    trained = load_autoencoder(folder, "cpu")
    own, given = model.state_dict(), trained.state_dict()
    for name in own.keys() & given.keys():
        if name.startswith(OVER_FRAMES) and own[name].shape[1:] == given[name].shape[1:]:
            given[name] = _over_frames(given[name], len(own[name]))
    fit = fit_weights(own, given)
    settings = unlike_settings(model.config, trained.config, SETTINGS)
    if not init_missing:
        check_misfits(folder, fit.misfits, settings)
    tell_misfits(folder, fit.misfits, settings)
    model.load_state_dict(fit.weights)


def _over_frames(weights: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(F, ...) -> (num_frames, ...), the first and the last frame as they are."""
    rows = weights.flatten(1).T if weights.dim() > 1 else weights[None]  # (..., F)
    rows = F.interpolate(rows[None], num_frames, mode="linear", align_corners=True)[0]
    return rows.T.reshape(num_frames, *weights.shape[1:])
