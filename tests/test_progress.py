"""Progress bars in a file are lines, and few."""

import pytest

from autoencoder.common import progress
from autoencoder.common.progress import progress_bar


def run(capsys, total: int, **options) -> list[str]:
    bar = progress_bar(total, "training", "step", **options)
    for _ in range(total - options.get("initial", 0)):
        bar.set_postfix({"l1": "0.5"}, refresh=False)
        bar.update()
    bar.close()
    return capsys.readouterr().err.split("\n")


def test_a_bar_in_a_file_writes_its_first_and_its_last_state(capsys):
    first, last, end = run(capsys, 1000, initial=10)
    assert "10/1000" in first and "1000/1000" in last and "l1=0.5" in last and end == ""
    assert "\r" not in first + last


def test_a_bar_in_a_file_goes_on_at_its_interval(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert len(run(capsys, 20)) > 3


def test_a_bar_may_be_hidden(capsys):
    assert run(capsys, 10, show=False) == [""]


def test_a_bar_in_a_terminal_moves(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "\r" in "".join(run(capsys, 10))


@pytest.mark.parametrize("done", [0, 3])
def test_closing_twice_writes_nothing_more(capsys, done):
    bar = progress_bar(3, "caching", "clip")
    bar.update(done)
    bar.close()
    written = capsys.readouterr().err
    bar.close()
    assert f"{done}/3" in written and capsys.readouterr().err == ""
