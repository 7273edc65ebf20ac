"""What processes tell each other."""

import multiprocessing

from torch import distributed

from autoencoder.common.processes import CommonStop

FORK = multiprocessing.get_context("fork")
NUM_PROCESSES = 2


def take_steps(rank: int, store: str, signals: list[int], answers) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=NUM_PROCESSES)
    common = CommonStop()
    answers.put((rank, [common.after_step(signum) for signum in signals]))
    distributed.barrier()
    distributed.destroy_process_group()


def test_all_processes_stop_after_the_same_step(tmp_path):
    answers = FORK.Queue()
    asked = ([0, 0, 15, 15, 15], [0, 0, 0, 0, 2])
    processes = [
        FORK.Process(target=take_steps, args=(rank, str(tmp_path / "store"), asked[rank], answers))
        for rank in range(NUM_PROCESSES)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == {0: [0, 0, 0, 15, 15], 1: [0, 0, 0, 15, 15]}


def test_one_process_is_answered_at_once():
    common = CommonStop()
    assert [common.after_step(signum) for signum in (0, 15)] == [0, 15]
