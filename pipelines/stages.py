"""What presets of the two training commands stand for."""

from typing import Any

from autoencoder.common import commands
from autoencoder.settings import AutoencoderSettings
from autoencoder.training import config as stage_one
from generator import config as stage_two
from generator.settings import TransformerSettings

STAGES = {
    "autoencoder": (stage_one.TrainConfig, AutoencoderSettings),
    "generator": (stage_two.TrainConfig, TransformerSettings),
}


def read_presets(stage: str, *presets: str) -> tuple[Any, dict[str, Any]]:
    """The training config that presets give, and their settings of the model by name.

    Args:
        stage: "autoencoder" or "generator".
        presets: names or files, as --config takes them, the last one winning.
    """
    config_class, model_settings = STAGES[stage]
    parser = commands.make_parser(config_class, "", stage=stage, groups={"model": model_settings})
    settings = parser.read([argument for name in presets for argument in ("--config", name)])
    return commands.build(config_class, parser.instantiate(settings)), vars(settings.model)
