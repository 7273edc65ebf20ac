"""FSDP2 in bf16 on two CPU processes: which numbers are rounded, and which are not."""

import subprocess
import sys

SCRIPT = """
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from generator import VidTwinDiT
from generator.fit import sharding_policy

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()

def build(sharded, policy):
    torch.manual_seed(0)
    model = VidTwinDiT(
        structure_shape=(2, 3, 2, 2), dynamics_shape=(3, 3, 4), dynamics_axes=(2, 2), hidden_size=32, num_layers=2,
        num_attention_heads=2, num_classes=3, norm="rms_norm", feed_forward="swiglu", qk_norm="rms_norm",
        positions="rotary")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
    return model

tokens = torch.randn(2, *build(False, None).layout.mask.shape, generator=torch.Generator().manual_seed(rank))
times, labels = torch.tensor([[999.7, 0.3], [500.1, 501.2]]), torch.tensor([0, 3])

def run(model):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, times, labels).sample.float().square().mean()
    loss.backward()
    return loss.item()

sharded = build(True, sharding_policy("bf16"))
seen = {}
def look_at_block(block, args):
    seen["weights"] = {parameter.dtype for parameter in block.parameters()}
    seen["stream"], seen["condition"] = args[0].dtype, args[1].dtype
sharded.blocks[1].register_forward_pre_hook(look_at_block)
sharded.time_frequencies.register_forward_pre_hook(lambda _, args: seen.update(times=args[0].clone()))
loss = run(sharded)
assert seen["weights"] == {torch.bfloat16}, seen
assert seen["stream"] == seen["condition"] == torch.float32, seen
assert torch.equal(seen["times"], times.flatten()), seen
assert all(isinstance(p, DTensor) and p.dtype == p.grad.dtype == torch.float32 for p in sharded.parameters())

whole = build(False, None)
expected = run(whole)
assert abs(loss - expected) < 1e-2 * expected, (loss, expected)
for (name, parameter), single in zip(sharded.named_parameters(), whole.parameters(), strict=True):
    mean = single.grad.clone()
    distributed.all_reduce(mean)
    error = (parameter.grad.full_tensor() - mean / 2).norm() / mean.norm()
    assert error < 0.03, (name, error)
assert sharding_policy("no").param_dtype is None
distributed.destroy_process_group()
"""


def test_weights_are_gathered_in_bf16_and_stream_times_and_gradients_stay_fp32(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run([*torchrun, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
