"""Starting a transformer from the weights of a trained one, which may know other classes or other latents."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.errors import UserError, first_few
from autoencoder.common.fitting import fit_weights, tell_misfits, unlike_settings
from generator.config import ObjectiveConfig
from generator.dit import STATISTICS, VidTwinDiT
from generator.settings import TransformerSettings

CLASSES = "class_embedding.weight"  # (K + 1, class_dim), the null class last
SETTINGS = [field.name for field in fields(TransformerSettings)]
NUM_NAMED = 10  # classes that a message lists at most


def start_from(
    model: VidTwinDiT, folder: str | Path, autoencoder: str, init_missing: bool = False, as_it_is: bool = False
) -> None:
    """Give a transformer the weights of a trained one.

    A class takes the row of the class of its name, and the null class that of the null class. If both are of the
    latents of one autoencoder, the statistics that normalise them are taken, too: by others, a latent would reach the
    weights as another one than they learnt. Of another autoencoder's latents they would say nothing; then the model
    keeps its own, and all weights whose shapes fit are taken none the less.

    Args:
        model: gets the weights.
        folder: of a saved transformer; its autoencoder is in the folder vae beside it, as in a pipeline.
        autoencoder: fingerprint of the autoencoder whose latents the model is for.
        init_missing: whether what does not fit may begin anew: classes, latents, and weights of other settings.
        as_it_is: whether LoRA is to adapt the model, which the message of an error says then.

    Raises:
        UserError: if the trained model predicts something else; or if anything else does not fit, and `init_missing`
            is not set. The model is as it was then.
    """
    check_target(folder, model.config.prediction_type)
    given = VidTwinDiT.from_pretrained(folder)
    remarks = _unlike_latents(Path(folder), autoencoder)
    is_same_scale = not remarks
    own, weights = model.state_dict(), given.state_dict()
    if own[CLASSES].shape[1:] == weights[CLASSES].shape[1:]:
        old, new = (_labels(each.config.id2label) for each in (given, model))
        remarks += _unlike_classes(old, new)
        weights[CLASSES] = _rows_by_name(weights[CLASSES], own[CLASSES], old, new)
    fit = fit_weights(own, weights)
    settings = unlike_settings(model.config, given.config, SETTINGS)
    tell_misfits(folder, [*remarks, *fit.misfits], settings, init_missing, as_it_is)
    model.load_state_dict(fit.weights)
    if is_same_scale:
        model.set_statistics(**{name: given.config[name] for name in STATISTICS})


def known_classes(folder: str | Path) -> list[str]:
    """The class names of a saved transformer, in the order of their ids.

    Raises:
        UserError: if its classes have no names.
    """
    config = VidTwinDiT.load_config(folder)
    if config["id2label"] is None:
        raise UserError(f"init_from={folder}: the classes of the model there have no names, by which LoRA knows them")
    return [config["id2label"][str(label)] for label in range(config["num_classes"])]


def check_target(folder: str | Path, wanted: str) -> None:
    """Refuse a trained transformer that predicts something else than the one that is to start from it.

    Args:
        folder: of the trained one.
        wanted: what the other one is to predict, as `prediction_type`.

    Raises:
        UserError: naming both.
    """
    kind = VidTwinDiT.load_config(folder)["prediction_type"]
    if kind != wanted:
        raise UserError(
            f"init_from={folder}: the model there predicts {kind!r}, and its weights say nothing of {wanted!r}, which "
            f"this run is to learn: give --objective.kind {kind}"
        )


def check_times(folder: str | Path, objective: ObjectiveConfig) -> None:
    """Refuse a base for LoRA that knows no such noise levels as its training is to draw; its config stays as it is.

    Args:
        folder: of the base.
        objective: of the training.

    Raises:
        UserError: naming the settings of the objective.
    """
    config = VidTwinDiT.load_config(folder)
    asked = {"independent_times": "independent_times", "frame_times": "history_share and frame_share"}
    for setting, flags in asked.items():
        if getattr(objective, setting) and not config.get(setting):
            raise UserError(
                f"init_from={folder}: the model there was trained without {flags}, which LoRA cannot add: leave that "
                "out of --objective, or train the weights themselves with --lora-rank 0"
            )


def _unlike_latents(folder: Path, autoencoder: str) -> list[str]:
    """A remark if the model in a folder is not known to be of this autoencoder's latents."""
    place = folder.parent / "vae"
    if not (place / "config.json").is_file():
        return [f"the latents, of which autoencoder is not known without {place}"]
    given = fingerprint(load_autoencoder(place, "cpu"))
    return [] if given == autoencoder else [f"the latents, of autoencoder {given[:12]} there, {autoencoder[:12]} here"]


def _labels(id2label: Mapping[str, str] | None) -> dict[str, int]:
    """The labels by class name; none where the classes have no names."""
    return {name: int(label) for label, name in (id2label or {}).items()}


def _unlike_classes(old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    unknown = [name for name in new if name not in old]
    return [f"{len(unknown)} of {len(new)} classes, {first_few(unknown, NUM_NAMED)}"] if unknown else []


def _rows_by_name(
    given: torch.Tensor, own: torch.Tensor, old: Mapping[str, int], new: Mapping[str, int]
) -> torch.Tensor:
    """The rows (K + 1, class_dim) of a model's classes: those of a trained one by name, its own for new classes."""
    rows = own.clone()
    for name in new.keys() & old.keys():
        rows[new[name]] = given[old[name]]
    rows[-1] = given[-1]
    return rows
