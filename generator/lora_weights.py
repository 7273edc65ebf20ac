"""What LoRA leaves: one safetensors file, as diffusers writes it, with the names and rows of new classes beside."""

import importlib.metadata
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors import SafetensorError, safe_open
from torch import nn

from autoencoder.checkpoint import weights_fingerprint
from autoencoder.common.errors import MissingFileError, UserError, first_few
from autoencoder.common.files import save_safetensors
from generator.dit import VidTwinDiT
from generator.lora import ADAPTER, EMBEDDING

PREFIX = "transformer."  # of the adapters' tensors and settings, as in diffusers
CLASS_ROWS = "class_rows"  # tensor (n, class_dim)
METADATA_KEY = "vidtwin_lora"
FOREIGN = (
    "does not say which transformer it was trained for: it is not a LoRA that `python -m generator.train` or "
    "save_lora_weights() has written"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def base_identity(model: VidTwinDiT) -> dict[str, str]:
    """The fingerprints of a base by the dtype that it may be loaded in, such as "float32".

    Args:
        model: in float32, without adapters.
    """
    return {name_of(dtype): weights_fingerprint(model, dtype) for dtype in DTYPES}


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype, such as "float32"."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class LoraWeights:
    """An adapter and what belongs to it.

    Attributes:
        layers: tensors by peft's names, such as "blocks.0.attention.qkv.lora_A.weight" (rank, in).
        config: peft's settings of the adapter.
        base: `base_identity` of the transformer that it was trained for.
        class_names: classes that the base does not have.
        class_rows: their rows of the class embedding, (n, class_dim).
    """

    layers: dict[str, torch.Tensor]
    config: dict[str, Any]
    base: dict[str, str]
    class_names: list[str]
    class_rows: torch.Tensor

    @classmethod
    def trained(cls, model: VidTwinDiT, base: dict[str, str]) -> "LoraWeights":
        """What a run has trained.

        Args:
            model: prepared by `generator.lora.add_lora`.
            base: `base_identity` of what it was before.
        """
        from peft.utils import get_peft_model_state_dict

        settings = model.peft_config[ADAPTER].to_dict()
        rows = (settings.pop("trainable_token_indices") or {}).get(EMBEDDING, [])
        layers = {name: tensor for name, tensor in get_peft_model_state_dict(model).items() if ".lora_" in name}
        width = model.class_embedding.weight.shape[1]
        trained = model.class_embedding.token_adapter.trainable_tokens_delta[ADAPTER] if rows else torch.empty(0, width)
        names = [model.config.id2label[str(row)] for row in rows]
        return cls(layers, plain_settings(settings), base, names, trained.detach())

    @classmethod
    def load(cls, source: str | Path, weight_name: str | None = None) -> "LoraWeights":
        """Read a file.

        Args:
            source: the file, or the folder that it lies in.
            weight_name: its name in the folder; pytorch_lora_weights.safetensors by default.

        Raises:
            MissingFileError: if there is none.
            UserError: if it is no safetensors file, `save` did not write it, or it holds NaN or infinity.
        """
        path = Path(source)
        if not path.is_file():
            path = path / (weight_name or LORA_WEIGHT_NAME_SAFE)
        if not path.is_file():
            raise MissingFileError(
                f"there is no LoRA in {source}: {path} does not exist; --lora-rank of "
                "`python -m generator.train` leaves one in the folder lora/ of its run"
            )
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{path} is no whole safetensors file, and nothing else is read: {error}") from error
        try:
            about = json.loads(metadata[METADATA_KEY])
            settings = json.loads(metadata[LORA_ADAPTER_METADATA_KEY])
            rows = tensors.pop(CLASS_ROWS)
            weights = cls(
                _without_prefix(tensors), _without_prefix(settings), about["base"], about["class_names"], rows
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} {FOREIGN}") from error
        weights._check(path)
        return weights

    def _check(self, path: Path) -> None:
        """Refuse what no training and no `save` has written."""
        fingerprints = list(self.base.values()) if isinstance(self.base, dict) else []
        names = self.class_names if isinstance(self.class_names, list) else [None]
        if not fingerprints or not all(isinstance(text, str) for text in [*fingerprints, *names]):
            raise UserError(f"{path} {FOREIGN}")
        if len(set(names)) < len(names):
            raise UserError(f"{path} brings one class twice: {first_few(names)}")
        tensors = self.layers | {CLASS_ROWS: self.class_rows}
        if wrong := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
            raise UserError(f"{path} holds {tensors[wrong[0]].dtype}, where floats are trained: {first_few(wrong)}")
        if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise UserError(f"{path} holds NaN or infinity, by a training that has diverged: {first_few(wrong)}")

    def save(self, folder: str | Path, weight_name: str | None = None) -> None:
        """Write the file into a folder, atomically, in float32 or whatever the tensors are in."""
        settings = {PREFIX + name: value for name, value in self.config.items()}
        metadata = {
            "format": "pt",
            LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True),
            METADATA_KEY: json.dumps({"base": self.base, "class_names": self.class_names}),
        }
        tensors = {PREFIX + name: tensor for name, tensor in self.layers.items()} | {CLASS_ROWS: self.class_rows}
        save_safetensors(tensors, Path(folder) / (weight_name or LORA_WEIGHT_NAME_SAFE), metadata)

    def check_fit(self, model: nn.Module, source: object) -> None:
        """Compare the adapter with the linears of a model and with its own settings, and the rows with the embedding.

        Args:
            model: may have other adapters.
            source: of the weights, for the message.

        Raises:
            UserError: if there are no such linears, sizes are others, or no training makes such settings; the message
                names the source.
        """
        rank, targets = self._checked_settings(source)
        linears = {
            name.removesuffix(".base_layer"): module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and ".lora_" not in name
        }
        shapes = {CLASS_ROWS: (len(self.class_names), model.class_embedding.weight.shape[1])}
        for name in targets:
            linear = linears.get(name)
            shapes[f"{name}.lora_A.weight"] = None if linear is None else (rank, linear.in_features)
            shapes[f"{name}.lora_B.weight"] = None if linear is None else (linear.out_features, rank)
        given = {name: tuple(tensor.shape) for name, tensor in (self.layers | {CLASS_ROWS: self.class_rows}).items()}
        unlike = [
            f"{name} {given.get(name, 'none')} for {shapes.get(name) or 'none'}"
            for name in sorted(shapes | given)
            if shapes.get(name) is None or given.get(name) != shapes[name]
        ]
        if unlike:
            raise UserError(
                f"{source} does not fit this transformer, with r={rank} in its settings: {first_few(unlike)}"
            )

    def _checked_settings(self, source: object) -> tuple[int, list[str]]:
        """Rank and adapted linears; refused if peft would make anything else than `generator.lora.add_lora` of them."""
        from peft import LoraConfig

        rank, alpha, targets = (self.config.get(name) for name in ("r", "lora_alpha", "target_modules"))
        if type(rank) is not int or rank < 1:
            raise UserError(f"{source}: the rank r of its adapter must be a whole number of at least 1, got {rank!r}")
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
            raise UserError(f"{source}: the lora_alpha of its adapter must be a positive number, got {alpha!r}")
        if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
            raise UserError(f"{source}: target_modules must name the linears of its adapter, got {targets!r}")
        usual = plain_settings(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets).to_dict())
        names = self.config.keys() - {"r", "lora_alpha", "target_modules", "peft_version"}
        if odd := [f"{name}={self.config[name]!r}" for name in sorted(names) if self.config[name] != usual.get(name)]:
            raise UserError(
                f"{source} has settings that `--lora-rank` does not make with peft "
                f"{importlib.metadata.version('peft')}: {first_few(odd)}"
            )
        return rank, targets


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of peft as JSON holds them: sets as sorted lists, None left out."""
    return {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in settings.items()
        if value is not None
    }


def _without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in named.items()}
