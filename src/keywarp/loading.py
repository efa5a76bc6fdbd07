"""Finds a model by name or file, with its weights."""

from __future__ import annotations

from collections.abc import Container, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from keywarp.adapters import Parts
from keywarp.errors import UserError, unknown
from keywarp.interfaces import with_parts
from keywarp.methods import METHODS, Networks, preset, wrap
from keywarp.model import VideoModel
from keywarp.networks.description import check_normalisation
from keywarp.networks.download import YOLOX, sha256_of
from keywarp.networks.resnet import for_inference
from keywarp.networks.sharing import find, is_address, pull, pulled
from keywarp.networks.weight_files import load_weights, read_description
from keywarp.scheduling import AdaptiveInterval, Scheduler


def load(
    model: str | Path,
    *,
    method: str | None = None,
    backbone: str | None = None,
    flow: str | None = None,
    interval: int | None = None,
    key_position: int | None = None,
    radius: int | None = None,
    gamma: float | None = None,
    live: bool = False,
    weights: str | None = None,
    num_classes: int | None = None,
    task: str | None = None,
    device: str = "auto",
    half: bool = False,
) -> VideoModel:
    """A model ready for inference, from a name or a file.

    model: "demo"; "yolox-nano" … "yolox-x" and "torchvision/NAME" (weights downloaded once); the path of an ONNX
    detector or of a keywarp `.safetensors` file; the name of a pulled one, or an address to pull it from (https://…,
    or owner/repo on the Hugging Face Hub); or a name of `METHODS`, to build one from `weights`.
    method, backbone, flow, interval, key_position, radius, gamma, num_classes: override what the model comes with.
    task: "detection" or "segmentation", of a model that is built by a method's name; a file knows its own.
    live: frames are to be answered at once: key frames come first in their segment unless `key_position` is given.
    weights: a file; for "torchvision/NAME" also the name of a torchvision weights entry; "random" for speed tests.
    device: "auto" (CUDA where present), "cpu", "cuda", "cuda:1" … half: bfloat16 where it is safe, on CUDA.
    """
    options: dict[str, Any] = {"flow": flow, "interval": interval, "key_position": key_position, "radius": radius}
    options = {name: value for name, value in (options | {"gamma": gamma}).items() if value is not None}
    name, place = str(model), _device(device)
    if method is not None and method not in METHODS:
        raise unknown("method", method, METHODS)
    if name in YOLOX or name.endswith(".onnx") or of_torchvision(name):
        if method not in (None, "sff"):
            raise UserError(f"{name} is a wrapped detector and runs with method sff, not {method}; leave --method out")
        for option, value in (("backbone", backbone), ("num-classes", num_classes)):
            if value is not None:
                raise UserError(f"{name} is a whole detector; leave --{option} out")
        built = wrap(_wrapped_parts(name, weights, place), **_known("sff", options, live))
    else:
        options |= {k: v for k, v in (("backbone", backbone), ("num_classes", num_classes)) if v is not None}
        if name in METHODS and task is not None:
            options["task"] = task
        built = _trained(name, method, weights, options, live)
    check_schedule(built.description.get("method", name), built.scheduler, options)
    built.description = {"model": name} | built.description
    if half and place.type != "cuda":
        raise UserError(f"half precision needs a CUDA device, this one is {place.type}; leave --half out")
    ready = for_inference(built).to(place)
    ready.half_precision = half
    return ready


def check_schedule(method: str, scheduler: Scheduler, options: Container[str]) -> None:
    """Raises UserError where an interval is given for key frames that are adaptive, or γ for others."""
    adaptive = isinstance(scheduler, AdaptiveInterval)
    if "interval" in options and adaptive:
        raise UserError(f"{method} chooses its key frames by γ (--gamma); leave --interval out, or take thp-c2")
    if "gamma" in options and not adaptive:
        raise UserError(f"{method} has key frames at an --interval; leave --gamma out, or take thp-c3")


def _wrapped_parts(name: str, weights: str | None, device: torch.device) -> Parts:
    if weights is not None and name.endswith(".onnx"):
        raise UserError(f"{name} comes with its weights; leave --weights out")
    if of_torchvision(name):
        from keywarp.adapters.torchvision_models import torchvision_parts

        return torchvision_parts(
            name.removeprefix("torchvision/"), None if weights == "random" else weights or "DEFAULT"
        )
    from keywarp.adapters.yolox import yolox_parts
    from keywarp.networks.download import weights_path

    path = Path(weights or name) if weights or name.endswith(".onnx") else weights_path(name)
    providers = ("CUDAExecutionProvider",) if device.type == "cuda" else ("CPUExecutionProvider",)
    return yolox_parts(path, providers=providers)


def _trained(name: str, method: str | None, weights: str | None, options: dict[str, Any], live: bool) -> VideoModel:
    """A model of the papers: of a keywarp file (which holds its own recipe), or by method with weights beside it."""
    if name == "sff":
        raise UserError("sff is no model but a way to run one; give a detector with --model, and --method sff")
    if method == "sff":
        own = {name: value for name, value in options.items() if name not in options_of("sff")}
        ours = {name: value for name, value in options.items() if name in options_of("sff")}
        return wrap(_trained(name, None, weights, own, live=False), **_known("sff", ours, live))
    if name in METHODS:
        if weights is None:
            raise UserError(
                f"{name} has no published weights: give --weights FILE, or --weights random for a speed test"
            )
        built = METHODS[method or name](**_known(method or name, options, live))
        if weights != "random":
            load_weights(built, weights, ignore=_absent(built))
        return built
    path = _file(name)
    if weights is not None:
        raise UserError(f"{name} comes with its weights; leave --weights out, or name a method beside them")
    recipe = read_description(path)
    method = method or recipe["method"]
    if method not in METHODS:
        raise unknown(f"method of {path}", method, METHODS)
    names, outputs = len(recipe["classes"]), recipe["arguments"].get("num_classes")
    if outputs not in (None, names):
        raise UserError(f"{path} has {names} class names for {outputs} classes; its description is damaged")
    from_file = taken_over(recipe, method) | {"classes": recipe["classes"]}
    built = METHODS[method](**(from_file | _known(method, options, live)))
    check_normalisation(built, recipe, path)
    load_weights(built, path, ignore=_absent(built))
    return built


def _file(name: str) -> Path:
    """The weight file that is meant, pulled now if need be."""
    if (known := local_file(name)) is not None:
        return known
    if is_address(name) and not Path(name).exists():
        return pull(name, taken=known_models()).path
    if not Path(name).suffix:
        raise unknown("model", name, [*known_models(), *(model.name for model in pulled())])
    raise UserError(f"no model file {name}; give a file (.safetensors, .onnx) or a name: {', '.join(known_models())}")


def local_file(name: str) -> Path | None:
    """The weight file that is meant, if it is here: the demo's, a path, or a pulled one. Raises UserError as `find`."""
    path = DEMO if name == "demo" else Path(name)
    return path if path.is_file() else find(name)


def of_torchvision(name: str) -> bool:
    """Whether this is the name of one of torchvision's models, not a file in a folder of that name."""
    return name.startswith("torchvision/") and not Path(name).is_file()


def identified(name: str, weights: str | None = None) -> dict[str, Any]:
    """Which model `load` took, for the head of results: its name (of a file without folders), its files' SHA-256."""
    own = None if name in METHODS or name in YOLOX or of_torchvision(name) else local_file(name)
    files = [file for file in (own, Path(weights or "")) if file is not None and file.is_file()]
    return {
        "model": Path(name).name if Path(name).is_file() else name,
        "sha256": {file.name: sha256_of(file) for file in files},
    }


def _absent(model: VideoModel) -> tuple[str, ...]:
    """Parts that a weight file may hold and this model has not: a method takes what it needs of a richer one."""
    parts = ("aligner", "aggregator", "updater", "transform_net")
    return tuple(f"{part}." for part in parts if getattr(model, part) is None)


def options_of(method: str) -> set[str]:
    """The names of a method's arguments."""
    own = set(signature(METHODS[method]).parameters)
    return own - {"networks"} | set(Networks.__annotations__) if "networks" in own else own


def taken_over(recipe: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The arguments of a weight file that its method, or another one in its place, is built with: of those that the
    other takes too, all but what makes either the variant that it is."""
    own = recipe["method"]
    left_out = {} if method == own else preset(own) | preset(method)
    return {k: v for k, v in recipe["arguments"].items() if k in options_of(method) and k not in left_out}


def with_scheduler(model: VideoModel, scheduler: Scheduler) -> VideoModel:
    """The same model, weights shared, under another scheduler."""
    twin = with_parts(model)
    twin.scheduler = scheduler
    return twin


def rescheduled(model: VideoModel, **changes: Any) -> VideoModel:
    """The same weights under the scheduler that the model's method has with these arguments changed."""
    description = model.description
    with torch.device("meta"):
        bare = METHODS[description["method"]](**(description["arguments"] | changes))
    return with_scheduler(model, bare.scheduler)


def _known(method: str, options: dict[str, Any], live: bool) -> dict[str, Any]:
    """The options, checked; of a live video, with key frames first in their segment, where the method lets choose."""
    for name in options:
        if name not in options_of(method):
            raise UserError(f"method {method} has no {name.replace('_', ' ')}; leave --{name.replace('_', '-')} out")
    return {"key_position": 0} | options if live and "key_position" in options_of(method) else options


DEMO = Path(__file__).parent / "assets" / "demo.safetensors"


def with_weights() -> list[str]:
    """Names that `load` takes and finds weights for, besides files and the other torchvision models."""
    return ["demo", *YOLOX, "torchvision/fasterrcnn_mobilenet_v3_large_fpn"]


def known_models() -> list[str]:
    """All names that `load` takes: also the methods, to be built from a weight file."""
    return with_weights() + [method for method in METHODS if method != "sff"]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but no CUDA device is available here; use --device cpu")
    return device
