"""Who is the first process, and how many there are, under every launcher."""

import os

import pytest

from autoencoder.common import launchers
from autoencoder.common.errors import UserError
from autoencoder.common.launchers import Launch, check_number, is_first_process, join_launched, launch

PREFIXES = ("SLURM_", "OMPI_", "PMI_", "MPI_", "MV2_", "JSM_", "MASTER_")
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")

SRUN = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}
SRUN |= {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2"}
SRUN |= {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher sets, and nothing else of the kind."""
    for name in [name for name in os.environ if name in NAMES or name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)

    def put(variables: dict[str, str]) -> None:
        for name in NAMES + ("MASTER_ADDR", "MASTER_PORT"):  # so that what is tested is undone
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, Launch()),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
            Launch("torchrun", 5, 8, 1, 4, 1),
        ),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, Launch("Lightning", 1, 2, 1)),
        (SRUN, Launch("SLURM", 3, 4, 1, 2, 1)),
        (SRUN | {"WORLD_SIZE": "4", "MASTER_ADDR": "gpu07"}, Launch("SLURM", 3, 4, 1, 2, 1)),
        ({"SLURM_PROCID": "3"}, Launch("SLURM", 3, 4, 0, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Launch("SLURM", 0, 4, 0, 4)),
        (
            {
                "OMPI_COMM_WORLD_RANK": "2",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Launch("Open MPI", 2, 4, 0, 2, 1),
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            Launch("MPI", 1, 2, 1, 2),
        ),
        (
            {
                "MV2_COMM_WORLD_RANK": "1",
                "MV2_COMM_WORLD_SIZE": "2",
                "MV2_COMM_WORLD_LOCAL_RANK": "1",
                "MV2_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Launch("MVAPICH2", 1, 2, 1, 2),
        ),
        (
            {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_LOCAL_RANK": "1"},
            Launch("jsrun", 1, 2, 1, 2),
        ),
    ],
)
def test_launchers(launched, variables, expected):
    launched(variables)
    assert launch() == expected
    assert is_first_process() == (expected.rank == 0)


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
    ],
)
def test_one_process_inside_of_an_allocation_waits_for_no_other(launched, variables):
    launched(variables)
    assert launch().world_size == 1 and is_first_process()
    join_launched()
    assert "MASTER_ADDR" not in os.environ


def test_srun_inside_of_an_interactive_shell_starts_several(launched):
    launched(SRUN | {"SLURM_JOB_NAME": "interactive"})
    assert launch().world_size == 4 and not is_first_process()


def test_a_node_of_lightnings_own_launcher_is_not_the_first(launched):
    launched({"NODE_RANK": "1"})
    assert not is_first_process()


def test_torch_is_told_what_slurm_told(launched):
    launched(SRUN)
    join_launched()
    assert {name: os.environ[name] for name in NAMES} == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "GROUP_RANK": "1",
    }
    assert os.environ["MASTER_ADDR"] == "gpu07" and os.environ["MASTER_PORT"] == str(15_000 + 123456 % 15_000)
    assert launch() == Launch("torchrun", 3, 4, 1, 2, 1), "the same place, told in another way"


@pytest.mark.parametrize(
    "nodes, first", [("a", "a"), ("a,b", "a"), ("n[3-5,9],m", "n3"), ("n[12]", "n12"), ("rack1-n[01,07]", "rack1-n01")]
)
def test_the_first_host_of_slurms_list(launched, nodes, first):
    launched(SRUN | {"SLURM_STEP_NODELIST": nodes})
    join_launched()
    assert os.environ["MASTER_ADDR"] == first


def test_mpi_on_one_machine_needs_no_address_and_on_several_it_does(launched):
    variables = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
    launched(variables)
    join_launched()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1" and os.environ["MASTER_PORT"] == "29500"
    launched(variables | {"MPI_LOCALNRANKS": "2"})
    with pytest.raises(UserError, match="MPI started processes on several machines.*MASTER_ADDR"):
        join_launched()
    launched(variables | {"MPI_LOCALNRANKS": "2", "MASTER_ADDR": "first"})
    join_launched()
    assert os.environ["MASTER_ADDR"] == "first"


def test_another_number_of_processes_than_the_config_asks_for_is_refused(launched):
    launched(SRUN)
    check_number(2, 2)
    with pytest.raises(UserError, match="SLURM started 4 processes, .*give --devices 2 --num-nodes 2"):
        check_number(1, 1)
    launched({})
    check_number(4, 1)  # which Lightning starts itself


def test_what_is_no_number_is_named(launched):
    launched({"RANK": "first"})
    with pytest.raises(UserError, match="RANK='first'"):
        launch()
    assert launchers._number("MISSING", 7) == 7
