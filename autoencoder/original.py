"""Reading checkpoints of the published reference implementation, under its own key names."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autoencoder.common.checkpoints import BROKEN
from autoencoder.common.errors import MissingFileError, UserError, first_few

# Our names to theirs; applied in this order to every key of our state dict.
RENAMES = [
    (r"^(encoder|decoder)\.transformer\.blocks\.", r"\1.blocks."),
    (r"\.spatial_attention\.", ".attn."),
    (r"\.temporal_attention\.", ".attn_temp."),
    (r"^(\w+)\.blocks\.(\d+)\.feed_forward\.0\.", r"\1.blocks.\2.mlp.fc1."),
    (r"^(\w+)\.blocks\.(\d+)\.feed_forward\.2\.", r"\1.blocks.\2.mlp.fc2."),
    (r"^encoder\.patch_embedding\.", "encoder.x_embedder.proj."),
    (r"^decoder\.scale_shift_table$", "decoder.final_layer.scale_shift_table"),
    (r"^decoder\.proj_out\.", "decoder.final_layer.linear."),
    (r"^structure_encoder\.qformer\.queries$", "temporal_qformer.query_embeds"),
    (r"^structure_encoder\.qformer\.norm\.", "temporal_qformer.qformer.layernorm."),
    (r"^structure_encoder\.qformer\.layers\.", "temporal_qformer.qformer.encoder.layer."),
    (r"\.self_attention\.", ".attention."),
    (r"\.cross_attention\.", ".crossattention."),
    (r"attention\.to_q\.", "attention.attention.query."),
    (r"attention\.to_k\.", "attention.attention.key."),
    (r"attention\.to_v\.", "attention.attention.value."),
    (r"attention\.to_out\.", "attention.output.dense."),
    (r"attention\.norm\.", "attention.output.LayerNorm."),
    (r"\.feed_forward\.linear_in\.", ".intermediate_query.dense."),
    (r"\.feed_forward\.linear_out\.", ".output_query.dense."),
    (r"\.feed_forward\.norm\.", ".output_query.LayerNorm."),
    (r"^structure_encoder\.conv_in\.", "conv_in."),
    (r"^structure_encoder\.conv_out\.", "bottle_down."),
    (r"^structure_decoder\.conv_in\.", "bottle_up.0."),
    (r"^structure_decoder\.conv_out\.", "conv_out."),
    (r"^structure_decoder\.proj\.", "cont_emb.0."),
    (r"^structure_decoder\.queries_to_frames\.", "cont_emb.2."),
    (r"^dynamics_decoder\.channels\.", "motion_emb."),
    (r"^dynamics_decoder\.positions\.", "up_motion."),
    (r"^dynamics_encoder\.head\.", "motion_head."),
]
# Lists of theirs that interleave convolutions with activations: our list, their list, modules per entry.
STRIDED_RENAMES = [
    ("structure_encoder.downsamples", "content_downsample_blocks", 2),
    ("structure_decoder.upsamples", "content_upsample_blocks", 3),
    ("dynamics_encoder.downsamples", "downsample_motion_module", 2),
]
NEVER_READ = ("encoder.final_layer.", "decoder.x_embedder.", "loss.")
POSITIONS = {"pos_embed": "spatial_position", "pos_embed_temporal": "temporal_position"}
POSITION_TOLERANCE = 1e-4
DEFAULT_HEADS = {512: 8, 768: 12, 1536: 12}


def load_original(model_class, path: str | Path, overrides: Mapping):
    """Build a model from a reference checkpoint; see `AutoencoderVidTwin.from_original`."""
    state = read_state_dict(path)
    model = model_class(**(read_config(state, overrides) | dict(overrides)))
    ours = model.state_dict()
    names = {original_name(key): key for key in ours}
    buffers = {
        f"{half}.{theirs}": getattr(getattr(model, half).transformer, own)
        for half in ("encoder", "decoder")
        for theirs, own in POSITIONS.items()
    }
    left_over = [key for key in state if key not in names and key not in buffers and not key.startswith(NEVER_READ)]
    missing = sorted((names.keys() | buffers.keys()) - state.keys())
    if left_over or missing:
        raise UserError(f"{path} does not fit: missing {first_few(missing, 8)}; left over {first_few(left_over, 8)}")
    for key, own in names.items():
        ours[own] = _reshaped(path, key, state[key], ours[own])
    for key, buffer in buffers.items():
        _compare_positions(path, key, state[key], buffer)
    model.load_state_dict(ours)
    return model.eval()


def original_name(key: str) -> str:
    """The reference's key for a key of our state dict."""
    for ours, theirs, stride in STRIDED_RENAMES:
        match = re.match(rf"{re.escape(ours)}\.(\d+)\.(\w+)$", key)
        if match:
            return f"{theirs}.{stride * int(match[1])}.{match[2]}"
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a `.safetensors` or `.ckpt` file without running code that it may hold.

    Raises:
        MissingFileError: if there is no such file.
        UserError: if it cannot be read, or holds objects other than tensors; the message names them.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no checkpoint {path}: give the reference's .ckpt or .safetensors file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_unpickling_message(path, error)) from error
    except BROKEN as error:
        raise UserError(f"{path} is no readable PyTorch checkpoint: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: expected tensors by name, or those under 'state_dict'")
    return state


def _unpickling_message(path: Path, error: pickle.UnpicklingError) -> str:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError):
        foreign = re.findall(r"GLOBAL (\S+)", str(error))
    if not foreign:
        return f"{path} is no readable PyTorch checkpoint: it was not written by torch.save, or is damaged"
    return (
        f"{path} holds objects that are not tensors ({first_few(foreign, 8)}), and reading those can run code. If you "
        'trust its source, convert it once: python -c "import torch, safetensors.torch as s; d = '
        "torch.load('in.ckpt', weights_only=False, map_location='cpu'); s.save_file({k: v.contiguous().clone() "
        "for k, v in d.get('state_dict', d).items()}, 'out.safetensors')\", and load out.safetensors"
    )


def read_config(state: Mapping[str, torch.Tensor], overrides: Mapping) -> dict:
    """Read the sizes of a model, by argument of `AutoencoderVidTwin`, from the shapes of its tensors.

    Raises:
        UserError: if a tensor needed for that is missing or of another rank, or the number of heads is not known.
    """

    def shape(key: str, rank: int) -> torch.Size:
        if key not in state or state[key].ndim != rank:
            found = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
            raise UserError(f"no VidTwin reference checkpoint: {key} {found}, expected a tensor of {rank} dimensions")
        return state[key].shape

    def count(pattern: str) -> int:
        return len({match[1] for match in map(re.compile(pattern).match, state) if match})

    hidden_size, _, _, patch_size, _ = shape("encoder.x_embedder.proj.weight", 5)
    if "num_attention_heads" not in overrides and hidden_size not in DEFAULT_HEADS:
        raise UserError(
            f"the number of heads cannot be read from the tensors and none is known at width {hidden_size} (known: "
            f"{DEFAULT_HEADS}): give num_attention_heads="
        )
    num_frames, structure_queries, _ = shape("cont_emb.2.weight", 3)
    grid_size = round(shape("encoder.pos_embed", 3)[1] ** 0.5)
    qformer = "temporal_qformer.qformer.encoder.layer"
    return {
        "num_frames": num_frames,
        "sample_size": grid_size * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_layers": count(r"encoder\.blocks\.(\d+)\."),
        "num_attention_heads": DEFAULT_HEADS.get(hidden_size),
        "structure_queries": structure_queries,
        "structure_channels": shape("bottle_down.weight", 4)[0] // 2,
        "structure_downsamples": count(r"content_downsample_blocks\.(\d+)\."),
        "structure_conv_channels": shape("conv_in.weight", 4)[0],
        "dynamics_channels": shape("motion_head.weight", 4)[0] // 2,
        "dynamics_downsamples": count(r"downsample_motion_module\.(\d+)\."),
        "qformer_hidden_size": shape("temporal_qformer.query_embeds", 2)[1],
        "qformer_num_layers": count(rf"{re.escape(qformer)}\.(\d+)\."),
        "qformer_intermediate_size": shape(f"{qformer}.0.intermediate_query.dense.weight", 2)[0],
    }


def _reshaped(path: str | Path, key: str, tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Their tensor in our shape: the patch convolution and the 1 x 1 convolution over queries are linear layers."""
    expected = tuple(own.shape)
    if key == "encoder.x_embedder.proj.weight":
        side = round((own.shape[1] / 3) ** 0.5)
        expected = (own.shape[0], 3, 1, side, side)
    elif key == "cont_emb.2.weight":
        expected = (*own.shape, 1)
    if tuple(tensor.shape) != expected:
        raise UserError(f"{path}: {key} has shape {tuple(tensor.shape)}, expected {expected}")
    return tensor.reshape(own.shape).to(own.dtype)


def _compare_positions(path: str | Path, key: str, tensor: torch.Tensor, buffer: torch.Tensor) -> None:
    if tuple(tensor.shape) != (1, *buffer.shape):
        raise UserError(f"{path}: {key} has shape {tuple(tensor.shape)}, expected {(1, *buffer.shape)}")
    difference = (tensor[0].float() - buffer).abs().max().item()
    if not difference <= POSITION_TOLERANCE:
        raise UserError(f"{path}: {key} differs from the fixed sin-cos positions by up to {difference:.3g}")
