"""Choosing the arithmetic of a run's matrix products: fp32, TF32 or bf16."""

import os
import platform
from pathlib import Path
from typing import Literal

import torch
import yaml

from autoencoder.common.config import Precision

# Values of oneDNN's ONEDNN_MAX_CPU_ISA that forbid the bf16 instructions.
ISAS_WITHOUT_BF16 = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}


def has_bf16_products(device: torch.device | str) -> bool:
    """True if a device has instructions to multiply bf16 matrices; without them bf16 is slower than fp32.

    That is AVX512-BF16 or AMX on x86 and the bf16 extension on 64-bit ARM, unless ATEN_CPU_CAPABILITY or
    ONEDNN_MAX_CPU_ISA keeps PyTorch from using them, and compute capability 8.0 (Ampere) on a CUDA GPU.

    Args:
        device: what `torch.device` takes; devices other than CPU and CUDA count as without.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    allowed = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")  # follows ATEN_CPU_CAPABILITY
    allowed = allowed and isa.lower() not in ISAS_WITHOUT_BF16
    return allowed and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: Precision, device: torch.device | str) -> Literal["fp32", "bf16"]:
    """Resolve "auto" for a device: bf16 if `has_bf16_products`, else fp32; other values stay."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16_products(device) else "fp32"


def settle_precision(precision: Precision, device: torch.device | str, saved_config: Path) -> Literal["fp32", "bf16"]:
    """Resolve "auto" for a run: to the precision in its saved config, on whatever machine it goes on, else by device.

    Args:
        precision: the config's precision.
        device: the run's device.
        saved_config: config.yaml of the run; for a new run it does not exist.
    """
    saved = yaml.safe_load(saved_config.read_text()) if saved_config.exists() else None
    return resolve_precision((saved or {}).get("precision", "auto") if precision == "auto" else precision, device)


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in CUDA's fp32 matrix products and convolutions, for the whole process.

    By the older two of torch's settings, which set the newer `fp32_precision` too: Lightning and inductor read the
    older ones, and torch raises there once only the newer ones have been set.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def describe_precision(precision: Literal["fp32", "bf16"], device: torch.device | str) -> str:
    """One line for the log: the precision of a run, and whether its device has bf16 products."""
    kind = "GPU" if torch.device(device).type == "cuda" else torch.device(device).type.upper()
    if has_bf16_products(device):
        return f"precision: {precision} (this {kind} has bf16 products)"
    slow = "; bf16 is slow here" if precision == "bf16" else ""
    return f"precision: {precision} (this {kind} has no bf16 products{slow})"
