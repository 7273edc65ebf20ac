"""Starting a transformer from the weights of a trained one, which may know other classes or other latents."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.errors import UserError, first_few
from autoencoder.common.fitting import check_misfits, fit_weights, tell_misfits, unlike_settings
from generator.config import ObjectiveConfig
from generator.dit import STATISTICS, VidTwinDiT
from generator.settings import TransformerSettings

CLASSES = "class_embedding.weight"  # (K + 1, class_dim), the null class last
SETTINGS = [field.name for field in fields(TransformerSettings)]
NUM_NAMED = 10  # classes that a message lists at most


class Start:
    """A trained transformer, read once, from whose weights another one starts.

    A class takes the row of the class of its name, and the null class that of the null class. If both are of the
    latents of one autoencoder, the statistics that normalise them are taken, too: by others, a latent would reach the
    weights as another one than they learnt. Of another autoencoder's latents they would say nothing; then the model
    keeps its own, and all weights whose shapes fit are taken none the less.

    Args:
        folder: of a saved transformer; its autoencoder is in the folder vae beside it, as in a pipeline.
        autoencoder: fingerprint of the autoencoder whose latents the other one is for.
        init_missing: whether what does not fit may begin anew: classes, latents, and weights of other settings.
        as_it_is: whether LoRA is to adapt the model, which the message of an error says then.

    Attributes:
        model: the trained transformer.

    Raises:
        DamagedModelError: if there is no whole one.
    """

    def __init__(self, folder: str | Path, autoencoder: str, init_missing: bool = False, as_it_is: bool = False):
        self.folder, self.init_missing, self.as_it_is = Path(folder), init_missing, as_it_is
        self.model = VidTwinDiT.from_pretrained(folder)
        self._unlike_latents = _unlike_latents(self.folder, autoencoder)

    def check_names(self) -> None:
        """Refuse a transformer whose classes LoRA could not tell from new ones.

        Raises:
            UserError: if they have no names.
        """
        if self.model.config.id2label is None:
            raise UserError(
                f"init_from={self.folder}: the classes of the model there have no names, by which LoRA knows them"
            )

    def check(self, settings: Mapping[str, Any], class_names: Sequence[str] | None) -> None:
        """Refuse what is known not to fit before there are latents, unless it may begin anew.

        Args:
            settings: the fields of `TransformerSettings` of the other transformer, by name.
            class_names: its classes; None where they are not known yet, or are those of this one.

        Raises:
            UserError: naming all of it.
        """
        unlike = unlike_settings(settings, self.model.config, SETTINGS)
        new = dict.fromkeys(class_names or [], 0)
        remarks = self._unlike_latents + _unlike_classes(_labels(self.model.config.id2label), new)
        if not self.init_missing:
            check_misfits(self.folder, remarks, unlike, self.as_it_is)

    def give_to(self, model: VidTwinDiT) -> None:
        """Give another transformer the weights, and the statistics where they mean the same.

        Raises:
            UserError: if the trained model predicts something else; or if anything else does not fit, and may not
                begin anew. The other transformer is as it was then.
        """
        check_target(self.folder, model.config.prediction_type)
        own, weights = model.state_dict(), self.model.state_dict()
        remarks = list(self._unlike_latents)
        if own[CLASSES].shape[1:] == weights[CLASSES].shape[1:]:
            old, new = (_labels(each.config.id2label) for each in (self.model, model))
            remarks += _unlike_classes(old, new)
            weights[CLASSES] = _rows_by_name(weights[CLASSES], own[CLASSES], old, new)
        fit = fit_weights(own, weights)
        settings = unlike_settings(model.config, self.model.config, SETTINGS)
        if not self.init_missing:
            check_misfits(self.folder, [*remarks, *fit.misfits], settings, self.as_it_is)
        tell_misfits(self.folder, [*remarks, *fit.misfits], settings)
        model.load_state_dict(fit.weights)
        if not self._unlike_latents:
            model.set_statistics(**{name: self.model.config[name] for name in STATISTICS})


def check_target(folder: str | Path, wanted: str) -> None:
    """Refuse a trained transformer that predicts something else than the one that is to start from it.

    Args:
        folder: of the trained one.
        wanted: what the other one is to predict, as `prediction_type`.

    Raises:
        UserError: naming both.
    """
    kind = _config(folder)["prediction_type"]
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
    config = _config(folder)
    asked = {"independent_times": "independent_times", "frame_times": "history_share and frame_share"}
    for setting, flags in asked.items():
        if getattr(objective, setting) and not config[setting]:
            raise UserError(
                f"init_from={folder}: the model there was trained without {flags}, which LoRA cannot add: leave that "
                "out of --objective, or train the weights themselves with --lora-rank 0"
            )


def _config(folder: str | Path) -> dict[str, Any]:
    """The settings of a saved transformer by name, those that its config.json lacks at their defaults."""
    defaults = inspect.signature(VidTwinDiT).parameters.values()
    return {parameter.name: parameter.default for parameter in defaults} | VidTwinDiT.load_config(folder)


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
