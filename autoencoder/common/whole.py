"""Saved models that are read whole, or not at all."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from autoencoder.common.errors import UserError, first_few


class DamagedModelError(UserError, OSError):
    """A folder holds no whole model."""


class ReadWhole:
    """Put before `ModelMixin`, its `from_pretrained` leaves no weight to chance and unpickles nothing.

    The module of a model has to import `ModelMixin` itself, because diffusers looks for it there.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """Read a model, as `ModelMixin.from_pretrained` with its options; safetensors alone, unless these say else.

        Raises:
            DamagedModelError: if the folder holds no whole model: a file that is missing or damaged, settings that make
                no model, weights that are not those of the settings, or weights that are NaN or infinite.
        """
        place = Path(pretrained_model_name_or_path, options.get("subfolder") or "")
        if options.get("use_safetensors") is None:
            options["use_safetensors"] = True
        wants_info = options.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, **options, output_loading_info=True)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            if not place.is_dir():  # a name of the Hub, or nothing at all
                raise
            raise DamagedModelError(f"{place} holds no whole {cls.__name__}: {_first_sentence(error)}") from error
        if remark := _defect(model, info):
            raise DamagedModelError(f"{place} holds no whole {cls.__name__}: {remark}")
        return (model, info) if wants_info else model


def _defect(model: ModelMixin, info: dict[str, Any]) -> str | None:
    """What the weights of a model lack that was read; None if nothing."""
    infinite = [name for name, weight in model.state_dict().items() if not _is_finite(weight)]
    remarks = {
        "its file lacks weights of a model of its config.json": info["missing_keys"],
        "its file has weights that no model of its config.json has": info["unexpected_keys"],
        "weights are NaN or infinite": infinite,
    }
    return next((f"{remark}: {first_few(sorted(names))}" for remark, names in remarks.items() if names), None)


def _is_finite(weight: torch.Tensor) -> bool:
    return weight.is_meta or bool(weight.isfinite().all())


def _first_sentence(error: Exception) -> str:
    line = " ".join(str(error).splitlines()[0].split())
    return line.partition(". ")[0].removesuffix(".")
