"""Which errors end a command with one line, and which keep their traceback."""

import errno
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from autoencoder.common.commands import run_command
from autoencoder.common.config import OptimizerConfig
from autoencoder.common.errors import ExistingFileError, MissingFileError, NumericalError, UserError
from autoencoder.data import UnreadableVideo


def ends_with(error: Exception) -> str:
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


@pytest.mark.parametrize("kind", [UserError, MissingFileError, ExistingFileError, NumericalError, UnreadableVideo])
def test_what_the_user_can_mend_is_one_line(kind):
    assert ends_with(kind("width must be even, got 3")) == "error: width must be even, got 3"
    assert str(pickle.loads(pickle.dumps(kind("width")))) == "width", "a worker process hands it on"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "Permission denied", "x")]
)
def test_what_the_system_refuses_is_one_line(error):
    assert ends_with(error) == f"error: {error}"


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), OSError("x"), OSError(errno.EINVAL, "x"), KeyError("x"), FloatingPointError("x"), EOFError()],
)
def test_what_the_program_did_wrong_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)) as caught:
        run_command(main)
    assert caught.value is error


def test_an_error_inside_torch_keeps_its_traceback():
    with pytest.raises(ValueError, match="num_samples"):
        run_command(lambda: torch.utils.data.RandomSampler([]))


def test_a_config_that_is_refused_is_one_line():
    with pytest.raises(SystemExit, match="error: optimizer.learning_rate must be positive, got -1"):
        run_command(lambda: OptimizerConfig(learning_rate=-1))


class Unreadable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UnreadableVideo("a.mp4: the frame at 1.0 s is damaged: twice")


def test_an_error_in_a_worker_process_is_one_line():
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: list(DataLoader(Unreadable(), num_workers=1)))
    assert caught.value.code == "error: a.mp4: the frame at 1.0 s is damaged: twice"
