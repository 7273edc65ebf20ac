"""The model card of a saved pipeline: README.md, with its classes, sizes, training and measurements."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoencoder.common.files import atomic_path

if TYPE_CHECKING:
    from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

FILE_NAME = "README.md"
# A card that lacks this line was written by a person, and stays as it is.
MARK = "<!-- Written by VidTwinDiffusionPipeline.save_pretrained, anew at every save; without this line it is kept. -->"
NOT_RECORDED, NOT_MEASURED = "not recorded", "not measured"
# Rows of a card about the training, by the key of the pipeline's `training`.
TRAINING = {
    "data": "data",
    "videos": "clips",
    "steps": "steps",
    "batch_size": "batch size",
    "date": "date of export",
    "autoencoder_sha256": "autoencoder (sha256)",
}
# The same for each stage, by the key of its facts in the pipeline's `training["stages"]`.
STAGE = {
    "preset": "preset",
    "settings": "all settings",
    "seed": "seed",
    "steps": "steps",
    "batch_size": "batch size",
    "precision": "precision",
    "duration": "time, by its records",
    "machine": "machine",
}
METRICS = ("held-out loss", "FVD")


def model_card(pipe: "VidTwinDiffusionPipeline") -> str:
    """The card as Markdown, headed by the metadata that model hubs read."""
    training = pipe.config.get("training") or {}
    names, num_classes = pipe.transformer.config.id2label, pipe.transformer.config.num_classes
    metrics = dict.fromkeys(METRICS, NOT_MEASURED) | (training.get("metrics") or {})
    if any(title.startswith("FVD, ") for title in metrics) and metrics["FVD"] == NOT_MEASURED:
        del metrics["FVD"]  # measured, and its title names the I3D
    sections = [
        "---\nlibrary_name: diffusers\ntags: [video-generation, class-conditional, vidtwin]\n---",
        MARK,
        "# VidTwin Diffusion pipeline",
        "Samples short videos of a class: a diffusion transformer on the structure and dynamics latents of a VidTwin "
        "autoencoder (arXiv 2412.17726).",
        _table(_facts(pipe, training.get("fps"))),
        "## Sample",
        "In this folder, with the project installed:",
        _example(names),
        f"## Classes\n\n{_classes(names, num_classes)}",
        "## Training",
        _table({title: _known(training, key) for key, title in TRAINING.items()}),
        *_stages(training.get("stages") or {}),
        "## Measured",
        _table(metrics),
        "## Licence",
        "The code is under the MIT licence. The terms of the weights are those of whoever trained them, and of their "
        "data.",
    ]
    return "\n\n".join(sections) + "\n"


def write_model_card(pipe: "VidTwinDiffusionPipeline", folder: str | Path) -> None:
    """Write the card of a pipeline into its folder, unless a person wrote the one that is there."""
    path = Path(folder) / FILE_NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    with atomic_path(path) as temporary:
        temporary.write_text(model_card(pipe), encoding="utf-8", errors="backslashreplace")


def add_metrics(pipe: "VidTwinDiffusionPipeline", folder: str | Path, metrics: Mapping[str, str]) -> None:
    """Add measurements to a saved pipeline and its card.

    Args:
        pipe: loaded from the folder; its scheduler may have been replaced since.
        folder: the pipeline's folder; model_index.json and the card are rewritten.
        metrics: values as text, by metric.
    """
    path = Path(folder) / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    training = index.get("training") or {}
    training["metrics"] = {**(training.get("metrics") or {}), **metrics}
    index["training"] = training
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    pipe.register_to_config(training=training)
    write_model_card(pipe, folder)


def _facts(pipe: "VidTwinDiffusionPipeline", fps: float | None) -> dict[str, str]:
    """Rows of the card that are read from the models."""
    vae, transformer = pipe.vae, pipe.transformer
    frames, size = vae.config.num_frames, vae.config.sample_size
    rate = f" at {fps:g} per second" if fps else ", rate not recorded"
    parameters = [sum(p.numel() for p in model.parameters()) for model in (vae, transformer)]
    return {
        "clips": f"{frames} frames of {size} x {size} pixels{rate}",
        "latents": f"structure {vae.structure_shape}, dynamics {vae.dynamics_shape}: {vae.num_latent_scalars:,} "
        f"numbers, {vae.compression_rate:.2%} of the clip's",
        "parameters": f"{parameters[0]:,} autoencoder, {parameters[1]:,} transformer",
        "prediction": f"{transformer.config.prediction_type}, sampled by {type(pipe.scheduler).__name__}",
        "one latent given, the other sampled": "yes" if transformer.config.independent_times else "no",
    } | ({"videos longer than a clip": "yes, clips in a chain"} if transformer.config.frame_times else {})


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table of how each stage was trained, in columns; nothing where it is not recorded."""
    if not stages:
        return []
    lines = [f"| | {' | '.join(stages)} |", "|---" * (len(stages) + 1) + "|"]
    for key, title in STAGE.items():
        values = (_cell(_known(facts, key)) for facts in stages.values())
        lines.append(f"| {title} | {' | '.join(values)} |")
    return ["\n".join(lines)]


def _known(facts: Mapping[str, Any], key: str) -> Any:
    value = facts.get(key)
    return NOT_RECORDED if value in (None, "") else value


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows.items())])


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _example(id2label: Mapping[str, str] | None) -> str:
    class_id = json.dumps(id2label["0"], ensure_ascii=False) if id2label else "0"
    return (
        "```python\n"
        "from pipelines import VidTwinDiffusionPipeline\n\n"
        'pipe = VidTwinDiffusionPipeline.from_pretrained(".")\n'
        f"out = pipe({class_id}, num_inference_steps=50, guidance_scale=2.0, generator=0)\n"
        'out.save("sample.mp4")\n'
        "```"
    )


def _classes(id2label: Mapping[str, str] | None, num_classes: int) -> str:
    if not id2label:
        return f"{num_classes}, without names: 0 to {num_classes - 1}."
    names = (id2label[str(index)].replace("`", "'").replace("\n", " ") for index in range(num_classes))
    return ", ".join(f"{index} `{name}`" for index, name in enumerate(names))
