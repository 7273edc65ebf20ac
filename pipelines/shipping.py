"""The work of `python -m pipelines.ship`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.errors import ExistingFileError, MissingFileError, UserError
from autoencoder.common.files import atomic_folder
from autoencoder.common.presets import preset_names, preset_path
from autoencoder.common.resuming import flat
from autoencoder.common.run_folder import RunFolder
from autoencoder.common.summary import format_duration
from pipelines.checkpoint import load_pipeline
from pipelines.folders import INDEX
from pipelines.goal_table import card_figures
from pipelines.goals import GoalSettings, measure_goals
from pipelines.model_card import FILE_NAME
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.ship import ShipConfig

MAX_BYTES = 8_000_000
START = "_start"  # ending of a stage's name for the run whose weights the stage's run started from
# Settings that say where a run was made, not what it learnt.
PLACES = {"output_dir", "resume", "dry_run", "autoencoder", "latent_cache", "rebuild_cache"}
PLACES |= {"data_root", "held_out_root", "lpips_weights", "init_from"}
RESOLVED = {"precision"}  # "auto" in a preset, what it became in a run


def run_of(path: Path, result: str) -> RunFolder:
    """The folder of a run that has ended.

    Args:
        path: the folder.
        result: what such a run leaves in it, "model" or "pipeline".

    Raises:
        MissingFileError: if it holds no run, or one that has not ended.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise MissingFileError(f"{path} is no folder of a run: it holds no config.yaml")
    if not getattr(run, result).is_dir():
        raise MissingFileError(f"the run in {path} left no {result}/: it has to end first, go on with it by --resume")
    return run


def settings_of(run: RunFolder) -> dict[str, Any]:
    """The settings in the config.yaml of a run that do not name a place."""
    settings = yaml.safe_load(run.config.read_text())
    return {name: value for name, value in settings.items() if name not in PLACES}


def preset_of(stage: str, settings: Mapping[str, Any]) -> str | None:
    """The preset whose every value is among the settings, of several the one with most values; None without one."""
    given, fitting = flat(settings), {}
    stage = stage.removesuffix(START)
    for name in preset_names(stage):
        wanted = flat(yaml.safe_load(preset_path(stage, name).read_text()))
        if all(given.get(key) == value for key, value in wanted.items() if key not in RESOLVED):
            fitting[name] = len(wanted)
    return max(fitting, key=fitting.get, default=None)


def runs_of(config: ShipConfig) -> dict[str, RunFolder]:
    """The runs that the pipeline comes from, by what they trained, in the order in which JSON keeps them.

    Raises:
        MissingFileError: if one is not there, or has not ended.
    """
    runs = {}
    for stage, path, result in (
        ("autoencoder", config.autoencoder, "model"),
        ("generator", config.generator, "pipeline"),
    ):
        runs[stage] = run_of(path, result)
        if start := yaml.safe_load(runs[stage].config.read_text()).get("init_from"):
            runs[stage + START] = run_of(Path(start), result)
    return runs


def facts_of_run(run: RunFolder, stage: str) -> dict[str, Any]:
    """How a run was made, for the model card (`pipelines.model_card.STAGE`)."""
    settings = settings_of(run)
    seconds, machines = records_of(run)
    return {
        "preset": preset_of(stage, settings) or "none",
        "settings": f"[{stage}.yaml]({stage}.yaml)",
        "seed": settings["seed"],
        "steps": settings["max_steps"],
        "batch_size": settings["batch_size"],
        "precision": settings["precision"],
        "duration": format_duration(seconds) if seconds else None,
        "machine": "; ".join(machines),
    }


def records_of(run: RunFolder) -> tuple[float, list[str]]:
    """Seconds between the first and the last record of a run, summed over its parts, and its machines.

    A run that was stopped and resumed has a file of records for each part; the time between them does not count.
    """
    seconds, machines = 0.0, []
    paths = sorted(run.tensorboard.rglob("events.out.tfevents.*"))
    if not paths:
        print(
            f"warning: {run.path} holds no TensorBoard records (--logger): the card tells no time and no machine of it"
        )
    for path in paths:
        events = list(EventFileLoader(str(path)).Load())
        seconds += events[-1].wall_time - events[0].wall_time if events else 0.0
        values = (value for event in events for value in event.summary.value if value.tag == "machine/text_summary")
        machines += [text.decode() for value in values for text in value.tensor.string_val]
    return seconds, list(dict.fromkeys(machines))


def check_pair(pipe: VidTwinDiffusionPipeline, config: ShipConfig, autoencoder: RunFolder) -> None:
    """Check that the pipeline of the one run samples the latents of the other.

    Raises:
        UserError: if it holds another autoencoder.
    """
    given, held = fingerprint(load_autoencoder(autoencoder.model, "cpu")), fingerprint(pipe.vae)
    if given != held:
        raise UserError(
            f"{config.generator} was trained on the latents of the autoencoder {held[:12]}, that of "
            f"{config.autoencoder} is {given[:12]}: give the run of its own autoencoder"
        )


def forget_origins(folder: Path) -> None:
    """Remove from the configs of a saved pipeline the paths that its parts were loaded from."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        content.pop("_name_or_path", None)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def check_size(folder: Path, name: Path) -> int:
    """Bytes of a folder.

    Raises:
        UserError: if it holds more than a shipped pipeline may; `name` is what the user calls it.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise UserError(
            f"{name} would take {size / 1e6:.2f} MB, a shipped pipeline takes at most {MAX_BYTES / 1e6:.0f} MB: "
            "train smaller models"
        )
    return size


def measured(pipe: VidTwinDiffusionPipeline, config: ShipConfig) -> dict[str, str]:
    """Figures for the model card, by what they tell; "not measured" if the config says so."""
    if not config.measure:
        return card_figures(None)
    settings = GoalSettings(num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale)
    print("measuring", flush=True)
    return card_figures(measure_goals(pipe, settings)) | {
        "judged by": f"the oracle of moving shapes, held out: {settings.samples_per_class} samples a class, "
        f"{settings.exchanged_pairs} pairs that exchange latents, {settings.held_out_clips} reconstructions; "
        f"{settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}"
    }


def execute(config: ShipConfig) -> None:
    """Write the folder, and print where it is and what it takes."""
    if config.out.exists() and not (config.out / INDEX).is_file():
        raise ExistingFileError(f"{config.out} exists and holds no pipeline: give another folder, or remove it")
    runs = runs_of(config)
    pipe = load_pipeline(runs["generator"].pipeline, config.device)
    check_pair(pipe, config, runs["autoencoder"])
    facts = dict(pipe.config.get("training") or {})
    facts["stages"] = {stage: facts_of_run(run, stage) for stage, run in runs.items()}
    facts["metrics"] = {**(facts.get("metrics") or {}), **measured(pipe, config)}
    pipe.register_to_config(training=facts)
    with atomic_folder(config.out) as temporary:
        pipe.save_pretrained(temporary)
        forget_origins(temporary)
        for stage, run in runs.items():
            (temporary / f"{stage}.yaml").write_text(yaml.safe_dump(settings_of(run), sort_keys=False))
        size = check_size(temporary, config.out)
    print(f"wrote {config.out}, {size / 1e6:.2f} MB; its model card is {config.out / FILE_NAME}")
