"""`keywarp train`: from a method's name, data and a recipe to a weight file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from keywarp.data.datasets import VideoDataset
from keywarp.data.reading import open_dataset, split_of, splits
from keywarp.errors import UserError, unknown
from keywarp.loading import local_file, options_of, taken_over
from keywarp.methods import METHODS, preset
from keywarp.model import VideoModel
from keywarp.networks.pretrained import load_backbone
from keywarp.networks.resnet import freeze
from keywarp.networks.weight_files import load_weights, read_description, read_state_dict, save_model
from keywarp.options import TrainOptions
from keywarp.training.clips import TrainingClips, collate
from keywarp.training.config import FIELDS, TrainConfig
from keywarp.training.flow_weights import OWN, load_flow
from keywarp.training.loop import Run, fit
from keywarp.training.processes import Processes
from keywarp.training.recipes import recipe
from keywarp.training.tasks import VideoTask
from keywarp.training.validation import validation


def say(line: str) -> None:
    """A line on standard error."""
    Console(stderr=True).print(line, soft_wrap=True, highlight=False, markup=False)


def train(method: str, options: TrainOptions) -> None:
    """Train a method as the options say; weights, checkpoints and logs go to `options.output`."""
    if method not in METHODS or method == "sff":
        raise unknown("method to train", method, [name for name in METHODS if name != "sff"])
    if options.threads:
        torch.set_num_threads(options.threads)
    processes = Processes(options.device)
    config = configured(recipe(options.recipe, method, options.task), options)
    scratch = not (options.init or options.init_backbone)
    if scratch:
        # Fixed norms normalise nothing before they have seen anything, and fixed stages would stay random.
        config = replace(config, frozen_norms=False, frozen_stages=0)
    prepare(options.output, options.resume)
    datasets = open_data(options.data)
    held_out = _held_out(options, datasets)
    torch.manual_seed(config.seed)
    model = build(method, config, options, datasets, tell=say if processes.rank == 0 else lambda line: None)
    run = Run(
        task=VideoTask(model),
        samples=TrainingClips(datasets, model.training_plan, model.transform, config),
        collate=collate,
        config=config,
        folder=options.output,
        save=saving(model, options.output, config, options.data),
        validate=None if held_out is None else validation(held_out, processes, videos=options.val_videos),
        workers=options.workers,
        resume=options.resume,
        processes=processes,
    )
    if processes.rank == 0:
        say(f"{method} on {', '.join(options.data)}: {sum(len(d.videos) for d in datasets)} videos, {trained(model)}")
        say(plan_of(config))
        if scratch:
            say("from random weights: all norms and stages train (--init-backbone or --init starts from trained ones)")
    fit(run)


def configured(config: TrainConfig, options: Any) -> TrainConfig:
    """The recipe with what the user gave in its place."""
    if options.steps is not None:
        config = config.shortened(options.steps)
    given = {"rate_per_image": options.rate} | {
        name: getattr(options, name) for name in FIELDS & set(vars(options)) if name not in ("steps", "shorter")
    }
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def prepare(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds another run; a run can only be resumed where there is a checkpoint."""
    has_run = (folder / "last.ckpt").exists() or (folder / "model.safetensors").exists()
    if has_run and not resume:
        raise UserError(f"{folder} holds a training run; --resume goes on with it, or give another --output")
    folder.mkdir(parents=True, exist_ok=True)


def open_data(addresses: Sequence[str]) -> list[VideoDataset]:
    """The data sets to train on."""
    return [open_dataset(*split_of(address)) for address in addresses]


def _held_out(options: TrainOptions, datasets: Sequence[VideoDataset]) -> VideoDataset | None:
    """What is validated on; None where there is nothing."""
    if options.val is None:
        folder, _ = split_of(options.data[0])
        if "val" not in splits(folder):
            return None
        held_out = open_dataset(folder, "val")
    else:
        held_out = open_dataset(*split_of(options.val, "val"))
    if held_out.classes != datasets[0].classes:
        raise UserError(f"{held_out.name} has other classes than {datasets[0].name}; `keywarp data check` lists them")
    return held_out


def build(
    method: str,
    config: TrainConfig,
    options: TrainOptions,
    datasets: Sequence[VideoDataset],
    tell: Callable[[str], None] = say,
) -> VideoModel:
    """The model for these data sets, filled from the files that the user names, fixed where the recipe says so.

    Its arguments are the recipe's, in their place those of the file that it starts from, in theirs the user's. tell:
    is given a line on what the file has nothing for.
    """
    classes = datasets[0].mask_classes if options.task == "segmentation" else datasets[0].classes
    for other in datasets[1:]:
        if (other.mask_classes if options.task == "segmentation" else other.classes) != classes:
            raise UserError(f"{other.name} and {datasets[0].name} have other classes; convert one of them")
    if not classes:
        raise UserError(f"{datasets[0].name} has no masks to learn segmentation from; leave --task out")
    started = {} if options.init is None else taken_over(read_description(_file(options.init)), method)
    given = {name: getattr(options, name) for name in ("backbone", "flow", "interval", "shorter", "longer")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in options_of(method):
            raise UserError(f"method {method} has no {name}; leave --{name} out")
    if misspelt := config.model.keys() - set().union(*map(options_of, METHODS)):
        raise unknown("argument of a model in the recipe", min(misspelt), options_of(method))
    task = {"task": options.task} if options.task != "detection" else {}
    of_recipe = {k: v for k, v in config.model.items() if k in options_of(method) and k not in preset(method)}
    arguments = of_recipe | started | given | task
    model = METHODS[method](**(arguments | {"num_classes": len(classes), "classes": classes}))
    _fill(model, options, tell)
    if config.frozen_norms:
        freeze(model, stages=config.frozen_stages)
    for part in model.children():
        if not any(p.requires_grad for p in part.parameters()):
            freeze(part, stages=0)
    return model.train()


def _fill(model: VideoModel, options: TrainOptions, tell: Callable[[str], None]) -> None:
    """Weights from the files: the whole, then the backbone's, then the flow network's."""
    if options.init is not None:
        file = _file(options.init)
        differing = _differing(model, read_state_dict(file))
        load_weights(model, file, ignore=tuple(differing))
        if new := _anew(model, differing, flow_given=options.init_flow is not None):
            tell(f"from random weights, as {options.init} has none that fit: {', '.join(new)}")
    if options.init_backbone is not None:
        load_backbone(model.feature_network, options.init_backbone)
    if options.init_flow is not None:
        load_flow(model.aligner, _file(options.init_flow))


def _differing(model: VideoModel, state: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that a model and the file that it starts from need not have alike: of parts that only another
    method has, or has otherwise, and of the head's layers that go by the number of classes."""
    own = model.state_dict()
    alike = {name for name, tensor in own.items() if name in state and state[name].shape == tensor.shape}
    return {
        name
        for name in (own.keys() | state.keys()) - alike
        if not name.startswith("feature_network.") and (not name.startswith("head.") or (name in own and name in state))
    }


def _anew(model: VideoModel, differing: Set[str], flow_given: bool) -> list[str]:
    """Parts of the model, or layers of parts, for which the file that it starts from has nothing."""
    own = model.state_dict()
    new = {name for name in differing if name in own and not name.endswith("num_batches_tracked")}
    if flow_given:
        apart = tuple(f"aligner.{part}" for part in OWN)
        new = {name for name in new if not name.startswith("aligner.") or name.startswith(apart)}
    whole = {
        part
        for part in (name.split(".")[0] for name in new)
        if not any(n.startswith(f"{part}.") for n in own.keys() - new)
    }
    return sorted({p if (p := name.split(".")[0]) in whole else name.rpartition(".")[0] for name in new})


def _file(name: str) -> str | Path:
    """The file that is meant: a path, "demo", or the name of a pulled one."""
    return local_file(name) or name


def trained(model: nn.Module) -> str:
    """What of the model trains, for the first line."""
    total = sum(p.numel() for p in model.parameters())
    moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{moving / 2**20:.2f} of {total / 2**20:.2f} Mi parameters train"


def plan_of(config: TrainConfig) -> str:
    """The learning rate and how it comes about."""
    course = (
        "a cosine to 0"
        if config.cosine
        else f"times {config.fall:g} after {', '.join(map(str, config.drops)) or 'never'}"
    )
    return (
        f"{config.steps} steps of {config.images_per_step} images; learning rate {config.rate:g} = "
        f"{config.rate_per_image:g} × {config.images_per_step} images a step, {course}; warm-up {config.warmup} steps"
    )


def saving(model: VideoModel, folder: Path, config: TrainConfig, data: Sequence[str]) -> Any:
    """A function that writes the model's weights with everything that is needed to use and to repeat them."""

    def save(network: nn.Module, name: str, measures: dict[str, float], step: int) -> None:
        path = folder / f"{name}.safetensors"
        about = model.description | {"classes": list(model.classes), "metrics": measures}
        about["training"] = {"data": list(data), "step": step, "config": config.to_json()}
        digest = save_model(path, network, about)
        say(f"{path}: SHA-256 {digest}")

    return save
