"""LoRA weights of a pipeline, by the calls that diffusers' own pipelines have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import get_adapter_name

from autoencoder.checkpoint import weights_fingerprint
from autoencoder.common.cost import forget_flops
from autoencoder.common.errors import UserError, first_few
from generator.lora import check_peft
from generator.lora_weights import LoraWeights, name_of

COMPONENTS = ("transformer",)


@dataclass
class LoadedLora:
    """The adapters of a transformer; they are kept with it, since several pipelines may have it.

    Attributes:
        weights: by the adapter's name.
        base: dtype and fingerprint of the transformer before the first one.
        unfused: of `_state`, before adapters were fused.
    """

    weights: dict[str, LoraWeights] = field(default_factory=dict)
    base: tuple[str, str] | None = None
    unfused: list[tuple[dict[str, float], torch.Tensor]] | None = None


class LoraLoaderMixin(LoraBaseMixin):
    """Loads, fuses and unloads adapters of the transformer, and the classes that they bring.

    Those of diffusers' calls that are not here are inherited, such as `get_list_adapters`. A class stays in the
    pipeline for as long as its adapter is loaded, whatever the scale.
    """

    _lora_loadable_modules = list(COMPONENTS)

    @property
    def _lora(self) -> LoadedLora:
        return vars(self.transformer).setdefault("_loaded_lora", LoadedLora())

    def load_lora_weights(
        self, source: str | Path, adapter_name: str | None = None, weight_name: str | None = None
    ) -> None:
        """Add the adapter in a file, with its classes; it is active at once. Nothing is downloaded or unpickled.

        Args:
            source: folder that `--lora-rank` or `save_lora_weights` left, or the file in it.
            adapter_name: name for `set_adapters`; "default_0", "default_1" and so on by default.
            weight_name: name of the file in the folder; pytorch_lora_weights.safetensors by default.

        Raises:
            MissingFileError: if there is no such file.
            UserError: if peft is not installed, it is no such file, it was trained for another transformer, or its name
                or one of its classes is in use. The pipeline is as it was then.
        """
        check_peft()
        weights = LoraWeights.load(source, weight_name)
        name = adapter_name or get_adapter_name(self.transformer)
        base = self._check_lora(source, weights, name)
        self.transformer.load_lora_adapter(
            weights.layers, prefix=None, adapter_name=name, metadata=weights.config, _pipeline=self
        )
        self.transformer.add_classes(weights.class_names, weights.class_rows)
        forget_flops(self.transformer)
        self._lora.base = base
        self._lora.weights[name] = weights

    def save_lora_weights(
        self, save_directory: str | Path, adapter_name: str | None = None, weight_name: str | None = None
    ) -> None:
        """Write an adapter that was loaded, with its classes, as a file for `load_lora_weights`.

        Args:
            save_directory: folder of the file, made if need be.
            adapter_name: which one; may be left out where there is only one.
            weight_name: name of the file; pytorch_lora_weights.safetensors by default.

        Raises:
            UserError: if there is no such adapter.
        """
        names = list(self._lora.weights)
        name = names[0] if adapter_name is None and len(names) == 1 else adapter_name
        self._check_loaded([name])
        self._lora.weights[name].save(save_directory, weight_name)

    def fuse_lora(
        self,
        components: Sequence[str] = COMPONENTS,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add the adapters to the weights, so that they cost nothing; `unfuse_lora` brings the old bits back.

        The old weights of the adapted linears are kept for that, until `unload_lora_weights`.

        Args:
            components: "transformer".
            lora_scale: of the adapters, beside that of `set_adapters`.
            safe_fusing: whether to refuse weights that are not finite.
            adapter_names: which ones; all active ones by default.

        Raises:
            UserError: if none is loaded or of one of these names, they are disabled, or some are fused already.
            ValueError: if `safe_fusing` finds weights that are not finite. All are as they were then.
        """
        if not self._lora.weights:
            raise UserError("fuse_lora: no adapter is loaded")
        self._check_unfused("fuse_lora")
        self._check_loaded(self.get_active_adapters() if adapter_names is None else adapter_names or [None])
        if any(layer.disable_adapters for layer in self._adapted_layers()):
            raise UserError("fuse_lora: the adapters are disabled: enable_lora() first")
        before = self._state()
        try:
            super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names)
        except BaseException:
            self._restore(before)
            raise
        forget_flops(self.transformer)
        self._lora.unfused = before

    def unfuse_lora(self, components: Sequence[str] = COMPONENTS) -> None:
        """Take fused adapters out of the weights again, to the bit; they stay loaded.

        Raises:
            UserError: if none is fused.
        """
        if self._lora.unfused is None:
            raise UserError("unfuse_lora: no adapter is fused")
        super().unfuse_lora(list(components))
        self._restore(self._lora.unfused)
        forget_flops(self.transformer)
        self._lora.unfused = None

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Choose the active adapters and their scales, as in diffusers.

        Raises:
            UserError: if there is no such adapter, or some are fused.
        """
        self._check_loaded([adapter_names] if isinstance(adapter_names, str) else adapter_names or [None])
        self._check_unfused("set_adapters")
        super().set_adapters(adapter_names, adapter_weights)
        forget_flops(self.transformer)

    def disable_lora(self) -> None:
        """Sample without the adapters, until `enable_lora`; they and their classes stay loaded.

        Raises:
            UserError: if adapters are fused.
        """
        self._check_unfused("disable_lora")
        super().disable_lora()
        forget_flops(self.transformer)

    def enable_lora(self) -> None:
        """Sample with the adapters again after `disable_lora`.

        Raises:
            UserError: if adapters are fused.
        """
        self._check_unfused("enable_lora")
        super().enable_lora()
        forget_flops(self.transformer)

    def unload_lora_weights(self) -> None:
        """Remove all adapters and their classes: the transformer has the bits of its base again.

        Where adapters are fused, they stay in the weights, as in diffusers, and so do the classes: this makes one
        transformer of them, which `save_pretrained` saves.
        """
        if not self._lora.weights:
            return
        super().unload_lora_weights()
        if self._lora.unfused is None:
            self.transformer.remove_classes([name for lora in self._lora.weights.values() for name in lora.class_names])
        forget_flops(self.transformer)
        del self.transformer._loaded_lora

    def delete_adapters(self, adapter_names: Sequence[str] | str) -> None:
        """Remove some adapters and their classes.

        Raises:
            UserError: if there is no such adapter, or some are fused.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_loaded(names)
        self._check_unfused("delete_adapters")
        if set(names) == set(self._lora.weights):
            return self.unload_lora_weights()
        super().delete_adapters(names)
        forget_flops(self.transformer)
        self.transformer.remove_classes([name for gone in names for name in self._lora.weights[gone].class_names])
        self._lora.weights = {name: lora for name, lora in self._lora.weights.items() if name not in names}

    def check_without_lora(self, folder: object) -> None:
        """Refuse to save a pipeline whose transformer is not whole without its adapters.

        Raises:
            UserError: saying what to do.
        """
        if names := getattr(self.transformer, "peft_config", {}):
            raise UserError(
                f"{folder}: the pipeline holds the adapters {first_few(names)}, which are saved by "
                "save_lora_weights(); fuse_lora() and then unload_lora_weights() make one transformer of all"
            )

    def _check_loaded(self, names: Iterable[str | None]) -> None:
        """Refuse names of adapters that are not there."""
        known = self._lora.weights
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"adapter_name={unknown[0]!r} is none of the loaded adapters: {first_few(known)}")

    def _check_unfused(self, call: str) -> None:
        """Refuse what cannot be done while adapters are fused."""
        if self._lora.unfused is not None:
            raise UserError(f"{call}: adapters are fused already: unfuse_lora() first")

    def _check_lora(self, source: object, weights: LoraWeights, name: str) -> tuple[str, str]:
        """Refuse an adapter that cannot be loaded now; returns the identity of the base."""
        if name in self._lora.weights:
            raise UserError(f"adapter_name={name!r} is in use: give another one, or delete_adapters({name!r})")
        try:
            torch.nn.ModuleDict({name: torch.nn.Identity()})  # where peft keeps it
        except (KeyError, TypeError) as error:
            raise UserError(f"adapter_name={name!r} cannot be one: give a plain word") from error
        if self._lora.unfused is not None:
            raise UserError(f"{source} cannot be loaded while adapters are fused: unfuse_lora() first")
        dtype, here = self._lora.base or _identity(self.transformer)
        there = weights.base.get(dtype)
        if there != here:
            known = f"one of SHA-256 {there[:12]}" if there else f"one in {', '.join(weights.base)}"
            raise UserError(
                f"{source} was trained for another transformer, {known}; this one is {here[:12]} in {dtype}"
            )
        known = self.transformer.config.id2label
        if known is None and weights.class_names:
            raise UserError(f"{source} brings classes, and those of this transformer have no names")
        if taken := set(weights.class_names).intersection((known or {}).values()):
            raise UserError(f"{source} brings the class {min(taken)!r}, which the pipeline has already")
        weights.check_fit(self.transformer, source)
        return dtype, here

    def _adapted_layers(self) -> list[torch.nn.Module]:
        """peft's layers, which hold a linear and the adapters beside it."""
        from peft.tuners.lora import LoraLayer

        return [module for module in self.transformer.modules() if isinstance(module, LoraLayer)]

    def _state(self) -> list[tuple[dict[str, float], torch.Tensor]]:
        """Of every adapted layer, the scales of its adapters by name, and a copy of its weight."""
        return [(dict(layer.scaling), layer.weight.detach().clone()) for layer in self._adapted_layers()]

    @torch.no_grad()
    def _restore(self, state: list[tuple[dict[str, float], torch.Tensor]]) -> None:
        """Take all adapters out of the weights, and bring scales and weights back to a `_state`."""
        for layer, (scaling, weight) in zip(self._adapted_layers(), state, strict=True):
            if layer.merged:
                layer.unmerge()
            layer.scaling.update(scaling)
            layer.weight.copy_(weight)  # peft subtracts what it has added, which rounds


def _identity(transformer: torch.nn.Module) -> tuple[str, str]:
    """Dtype and fingerprint of a transformer without adapters."""
    return name_of(transformer.dtype), weights_fingerprint(transformer)
