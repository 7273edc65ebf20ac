"""The rank of this process and the number of processes, from the environment variables that its launcher sets.

torchrun, `accelerate launch` and torch's own launchers set RANK and WORLD_SIZE; Lightning sets LOCAL_RANK for the
processes that it starts itself; srun, mpirun and jsrun have variables of their own, which torch does not read.
"""

import os
import re
from dataclasses import dataclass

from autoencoder.common.errors import UserError

# Rank, number of processes, rank in the node and processes of the node, as launchers call them.
VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    "Open MPI": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    "MVAPICH2": (
        *("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
        *("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
}
TORCH_VARIABLES = VARIABLES["torchrun"]
DEFAULT_PORT = 29500  # of torch


@dataclass(frozen=True)
class Launch:
    """The place of a process among those that were launched together.

    Attributes:
        launcher: one of `VARIABLES`, "Lightning", or None for a process that was started by itself.
        rank: 0 for the first process and for no other.
        world_size: processes in all, as far as the launcher says.
        local_rank: among the processes of its node.
        local_world_size: processes of its node.
        node: number of its node.
    """

    launcher: str | None = None
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: int = 0


def launch() -> Launch:
    """How this process was launched.

    torchrun comes first, for it also runs inside of what the others launch. An interactive shell of SLURM has the
    number of tasks of its allocation in the environment, but is one process.

    Raises:
        UserError: if a variable is no number.
    """
    if "RANK" in os.environ:
        return _from_variables("torchrun", default_size=1)
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:
        local_rank, node = _number("LOCAL_RANK", 0), _number("NODE_RANK", _number("GROUP_RANK", 0))
        size = _number("WORLD_SIZE", 1)
        return Launch("Lightning", node * size + local_rank, size, local_rank, node=node)
    if "SLURM_PROCID" in os.environ:
        is_interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning has it
        return _from_variables("SLURM", 1 if is_interactive else _number("SLURM_NTASKS", 1))
    for launcher, (rank, *_) in VARIABLES.items():
        if rank in os.environ:
            return _from_variables(launcher, default_size=1)
    return _from_variables("torchrun", default_size=1) if "WORLD_SIZE" in os.environ else Launch()


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that were launched together."""
    return launch().rank == 0


def join_launched() -> Launch:
    """Set torchrun's environment variables, which torch, accelerate and Lightning read, from any launcher's own.

    Returns:
        How this process was launched.

    Raises:
        UserError: if the launcher does not say enough for that; the message says what to add.
    """
    found = launch()
    if found.launcher in (None, "torchrun", "Lightning") or found.world_size == 1:
        return found
    address = os.environ.get("MASTER_ADDR") or _address_of_the_first(found)
    values = (found.rank, found.world_size, found.local_rank, found.local_world_size)
    os.environ |= {name: str(value) for name, value in zip(TORCH_VARIABLES, values, strict=True)}
    os.environ["NODE_RANK"] = os.environ["GROUP_RANK"] = str(found.node)
    os.environ["MASTER_ADDR"] = address
    os.environ.setdefault("MASTER_PORT", str(_port()))
    if found.rank == 0 and found.launcher == "SLURM" and "SLURM_STEP_NUM_TASKS" not in os.environ:
        print(
            f"waiting for the {found.world_size} processes that SLURM_NTASKS tells of; if this is the only one, start "
            "it by `srun --ntasks 1`",
            flush=True,
        )
    return found


def check_number(num_devices: int, num_nodes: int) -> None:
    """Check a config's number of processes against the number that was launched.

    Args:
        num_devices: per node.
        num_nodes: machines.

    Raises:
        UserError: if a launcher started another number of processes; the message says which flags fit.
    """
    found, wanted = launch(), num_devices * num_nodes
    if found.launcher in (None, "Lightning") or found.world_size in (1, wanted):
        return
    nodes = max(1, found.world_size // found.local_world_size)
    raise UserError(
        f"{found.launcher} started {found.world_size} processes, but devices={num_devices} and num_nodes={num_nodes} "
        f"make {wanted}: give --devices {found.world_size // nodes} --num-nodes {nodes}, or start one process"
    )


def _from_variables(launcher: str, default_size: int) -> Launch:
    names = VARIABLES[launcher]
    rank, size = _number(names[0], 0), _number(names[1], default_size)
    size = max(size, rank + 1)
    local_rank = _number(names[2], 0)
    if launcher == "SLURM":
        node, num_nodes = _number("SLURM_NODEID", 0), _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))
        return Launch(launcher, rank, size, local_rank, _number(names[3], max(1, size // num_nodes)), node)
    local_size = _number(names[3], size)
    node = _number("GROUP_RANK", rank // local_size) if launcher == "torchrun" else rank // local_size
    return Launch(launcher, rank, size, local_rank, local_size, node)


def _number(name: str, default: int) -> int:
    """An integer of the environment; SLURM writes some as "4(x2)"."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not (match := re.match(r"\s*(\d+)", text)):
        raise UserError(f"the environment variable {name}={text!r} is to be a number of processes")
    return int(match[1])


def _address_of_the_first(found: Launch) -> str:
    """Host of the first process."""
    if found.local_world_size == found.world_size:
        return "127.0.0.1"
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST")
    if found.launcher == "SLURM" and nodes:
        first = re.sub(r"\[(\d+).*?\]", r"\1", nodes)  # node[07-09,12],other -> node07,other
        return re.split(r"[ ,]", first)[0]
    raise UserError(
        f"{found.launcher} started processes on several machines and does not say where the first one is: set "
        "MASTER_ADDR to its host name for all of them, for example by `mpirun -x MASTER_ADDR=HOST`"
    )


def _port() -> int:
    """A port that the processes agree on; jobs of SLURM on one node have one each."""
    return 15_000 + int(os.environ.get("SLURM_JOB_ID", DEFAULT_PORT - 15_000)) % 15_000
