"""What the config.yaml of a run tells of the autoencoder that it left."""

from pathlib import Path

import pytest
import yaml

from benchmarks.work.autoencoder_runs import companions, difference


def run(folder: Path, **settings) -> Path:
    """The folder model/ of a run with these settings, nested ones as `exchange=dict(share=1.0)`."""
    folder.mkdir()
    exchange = {"share": 0.0, "companion": "content"} | settings.pop("exchange", {})
    settings = {"seed": 0, "max_steps": 10, "model": {"hidden_size": 8}} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"exchange": exchange, "output_dir": str(folder)}))
    return folder / "model"


@pytest.mark.parametrize(
    "exchange, told",
    [
        ({"share": 0.5}, "companions: other clips of the same content"),
        ({"share": 0.5, "companion": "clip"}, "companions: the same clip only"),
        ({}, "no companions"),
    ],
)
def test_companions(exchange, told, tmp_path):
    assert companions(run(tmp_path / "run", exchange=exchange)) == told


def test_what_no_config_tells_is_not_known(tmp_path):
    unknown = "companions not known, for no config.yaml beside it tells"
    assert companions(tmp_path / "model") == unknown
    (tmp_path / "config.yaml").write_text("seed: 0\n")  # of stage two
    assert companions(tmp_path / "pipeline") == unknown
    first = run(tmp_path / "first")
    assert difference(first, tmp_path / "model").endswith("beside exchange is not known")


def test_a_price_is_that_of_exchange_alone_only_where_nothing_else_differs(tmp_path):
    first = run(tmp_path / "first", num_workers=4)
    same = run(tmp_path / "same", exchange={"share": 1.0}, num_workers=0)
    assert difference(first, same) == f"{same}: differs from the first one in nothing but exchange, whose price this is"
    other = run(tmp_path / "other", max_steps=20, model={"hidden_size": 16}, exchange={"share": 1.0})
    assert difference(first, other).endswith("in more than exchange: max_steps, model.hidden_size")
    many = run(tmp_path / "many", **{f"key{number}": 1 for number in range(8)})
    assert difference(first, many).endswith("key5 and 2 more")
    newer = run(tmp_path / "newer", dynamics_guide={"taught_steps": 0, "background": "still"})
    assert difference(first, newer).endswith("nothing but exchange, whose price this is"), "these were the defaults"
    assert difference(first, run(tmp_path / "set", dynamics_guide={"taught_steps": 9})).endswith(
        "in more than exchange: dynamics_guide.taught_steps"
    )
