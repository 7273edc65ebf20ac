"""The work of `python -m pipelines.ship`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
from pipelines.folders import INDEX, pipeline_folder, pretrained_names
from pipelines.goal_table import card_figures
from pipelines.goals import GoalSettings, measure_goals
from pipelines.model_card import FILE_NAME
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.ship import ShipConfig

MAX_BYTES = 8_000_000
START = "_start"  # ending of a stage's name for what the stage's run started from
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
    for name in preset_names(stage):
        wanted = flat(yaml.safe_load(preset_path(stage, name).read_text()))
        if all(given.get(key) == value for key, value in wanted.items() if key not in RESOLVED):
            fitting[name] = len(wanted)
    return max(fitting, key=fitting.get, default=None)


class Origin(NamedTuple):
    """How a stage was trained.

    Attributes:
        facts: for the model card, by key of `pipelines.model_card.STAGE`.
        settings: of its run, without those that name a place.
    """

    facts: dict[str, Any]
    settings: dict[str, Any]


def origins_of(stage: str, source: Path, result: str) -> dict[str, Origin]:
    """How a stage was trained, and likewise what that run started from, whose name has one more ending `START`.

    Args:
        stage: "autoencoder" or "generator".
        source: a run, or a shipped pipeline or its name, which says how its own stages were trained.
        result: what a run of the stage leaves, "model" or "pipeline".

    Raises:
        MissingFileError: if there is neither, or a run has not ended.
        UserError: if a pipeline does not say how it was trained.
    """
    if is_pipeline(source):
        return _kept_origins(stage, pipeline_folder(source))
    run = run_of(source, result)
    origins = {stage: Origin(facts_of_run(run, stage), settings_of(run))}
    if start := yaml.safe_load(run.config.read_text()).get("init_from"):
        origins |= {name + START: origin for name, origin in origins_of(stage, _run_around(start), result).items()}
    return origins


def _run_around(source: str) -> Path:
    """The run whose model, pipeline or transformer is meant; where it lies in none, the path itself."""
    path = Path(source)
    return next((folder for folder in list(path.parents)[:2] if RunFolder(folder).config.is_file()), path)


def is_pipeline(source: Path) -> bool:
    """Whether a path is the folder of a pipeline, or the name of a shipped one."""
    return (source / INDEX).is_file() or (not source.exists() and str(source) in pretrained_names())


def _kept_origins(stage: str, folder: Path) -> dict[str, Origin]:
    stages = (json.loads((folder / INDEX).read_text()).get("training") or {}).get("stages") or {}
    files = {name: folder / f"{name}.yaml" for name in stages if name.startswith(stage)}
    if not files or not all(path.is_file() for path in files.values()):
        raise UserError(f"the pipeline in {folder} does not say how its {stage} was trained: give the run itself")
    return {name: Origin(stages[name], yaml.safe_load(path.read_text())) for name, path in files.items()}


def facts_of_run(run: RunFolder, stage: str) -> dict[str, Any]:
    """How a run was made, for the model card (`pipelines.model_card.STAGE`)."""
    settings = settings_of(run)
    seconds, machines = records_of(run)
    return {
        "preset": preset_of(stage, settings) or "none",
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


def check_pair(pipe: VidTwinDiffusionPipeline, config: ShipConfig) -> None:
    """Check that the pipeline of the run samples the latents of the autoencoder.

    Raises:
        UserError: if it holds another one.
    """
    source = config.autoencoder
    folder = pipeline_folder(source) / "vae" if is_pipeline(source) else RunFolder(source).model
    given, held = fingerprint(load_autoencoder(folder, "cpu")), fingerprint(pipe.vae)
    if given != held:
        raise UserError(
            f"{config.generator} was trained on the latents of the autoencoder {held[:12]}, that of "
            f"{source} is {given[:12]}: give the run of its own autoencoder"
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
    origins = origins_of("autoencoder", config.autoencoder, "model")
    run = run_of(config.generator, "pipeline")
    origins |= origins_of("generator", run.path, "pipeline")
    pipe = load_pipeline(run.pipeline, config.device)
    check_pair(pipe, config)
    facts = dict(pipe.config.get("training") or {})
    links = {stage: {"settings": f"[{stage}.yaml]({stage}.yaml)"} for stage in origins}
    facts["stages"] = {stage: origin.facts | links[stage] for stage, origin in origins.items()}
    facts["metrics"] = {**(facts.get("metrics") or {}), **measured(pipe, config)}
    pipe.register_to_config(training=facts)
    with atomic_folder(config.out) as temporary:
        pipe.save_pretrained(temporary)
        forget_origins(temporary)
        for stage, origin in origins.items():
            (temporary / f"{stage}.yaml").write_text(yaml.safe_dump(origin.settings, sort_keys=False))
        size = check_size(temporary, config.out)
    print(f"wrote {config.out}, {size / 1e6:.2f} MB; its model card is {config.out / FILE_NAME}")
