"""What a user can ask of `detect` and `segment`; checked when built, before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts import convert as converted

from keywarp.errors import UserError, unknown


def _listed(kind: type, tokens: Sequence[Token]) -> object:
    """Values of an option, given with commas as well as spaces."""
    return converted(kind, [value for token in tokens for value in token.value.split(",") if value])


LIST = Parameter(consume_multiple=True, converter=_listed)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model runs, and how."""

    model: Annotated[str, Parameter(help="name or file of a model; `keywarp models` lists names")] = "yolox-nano"
    method: Annotated[str | None, Parameter(help="where the model leaves a choice; `keywarp models` lists methods")] = (
        None
    )
    backbone: Annotated[str | None, Parameter(help="feature network of a model built by method")] = None
    flow: Annotated[str | None, Parameter(help="what carries features: dis, codec, raft or a flow network")] = None
    interval: Annotated[int | None, Parameter(help="a key frame every so many frames; 1 = every frame")] = None
    key_position: Annotated[int | None, Parameter(help="the key frame's place among its interval, from 0")] = None
    radius: Annotated[int | None, Parameter(help="frames before and after that a window method gathers from")] = None
    gamma: Annotated[float | None, Parameter(help="γ of adaptive key frames (thp-c3): share of poor cells, 0 to 1")] = (
        None
    )
    weights: Annotated[str | None, Parameter(help="weight file")] = None
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 …")] = "auto"
    half: Annotated[bool, Parameter(help="half precision, on CUDA")] = False
    keep_memory: Annotated[bool, Parameter(help="keep freed memory: faster on the CPU, with glibc")] = False
    batch: Annotated[int, Parameter(help="frames computed together; a live source always takes 1")] = 8

    def __post_init__(self) -> None:
        for name in ("batch", "interval"):
            _at_least_one(name, getattr(self, name))
        position, interval = self.key_position, self.interval
        if position is not None and (position < 0 or (interval is not None and position >= interval)):
            given = "" if interval is None else f" with interval {interval}"
            raise UserError(f"--key-position must be 0 to --interval − 1, got {position}{given}")

    @property
    def choices(self) -> dict[str, Any]:
        """What chooses and builds the model besides its name, as the arguments of `load`."""
        names = "method backbone flow interval key_position radius gamma weights device half"
        return {name: getattr(self, name) for name in names.split()}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Which model runs on which frames, and where its results go."""

    frames: Annotated[str | None, Parameter(help="A:B, only frames A to B − 1; either may be left out")] = None
    stride: Annotated[int, Parameter(help="only every so many frames")] = 1
    output: Annotated[Path | None, Parameter(help="folder of the results; runs/detect or runs/segment")] = None
    overwrite: Annotated[bool, Parameter(help="replace results that exist")] = False
    resume: Annotated[bool, Parameter(help="go on with an interrupted run")] = False
    stream: Annotated[bool, Parameter(help="print each frame as a line of JSON when it is done")] = False
    no_video: Annotated[bool, Parameter(help="write no annotated video")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one("stride", self.stride)
        _one_way(self.overwrite, self.resume)
        _ = self.span

    @property
    def span(self) -> tuple[int, int | None]:
        """(start, stop) of `frames`."""
        if self.frames is None:
            return 0, None
        match = re.fullmatch(r"(\d*):(\d*)", self.frames.strip())
        start, stop = (int(part) if part else None for part in match.groups()) if match else (None, None)
        if (start is None and stop is None) or (stop is not None and stop <= (start or 0)):
            raise UserError(f"--frames must be A:B with A below B, such as 100:200 or 100:, got {self.frames!r}")
        return start or 0, stop


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SegmentOptions(RunOptions):
    """The same, of `segment`."""

    model: Annotated[str, Parameter(help="name or file of a segmentation model")] = (
        "torchvision/lraspp_mobilenet_v3_large"
    )


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"--{name} must be at least 1, got {value}")


def _not_negative(name: str, value: int) -> None:
    if value < 0:
        raise UserError(f"--{name} must be 0 or more, got {value}")


def _one_way(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise UserError("--overwrite starts again and --resume goes on; give one of them")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """On which videos of a data set detections are measured, and by which rule."""

    rename: Annotated[
        tuple[str, ...], Parameter(help="the model's class = the data set's, cow=cattle …", consume_multiple=True)
    ] = ()
    iou: Annotated[str, Parameter(help="what finds an object: vid (ImageNet VID's rule) or an IoU")] = "vid"
    videos: Annotated[int | None, Parameter(help="only so many, evenly spread")] = None

    def __post_init__(self) -> None:
        _at_least_one("videos", self.videos)
        _ = self.finds, self.renamed

    @property
    def finds(self) -> float | Literal["vid"]:
        """`iou` as a number, or "vid"."""
        if self.iou == "vid":
            return "vid"
        try:
            value = float(self.iou)
        except ValueError:
            value = 0.0
        if not 0 < value <= 1:
            raise UserError(f"--iou must be vid or a number above 0 and up to 1, got {self.iou!r}")
        return value

    @property
    def renamed(self) -> dict[str, str]:
        """`rename` as a dictionary."""
        for each in self.rename:
            if not re.fullmatch(r"[^=]+=[^=]+", each):
                raise UserError(f"--rename takes MODELS=DATASETS, such as cow=cattle, got {each!r}")
        return dict(each.split("=") for each in self.rename)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions, MeasureOptions):
    """What is measured on a data set, and how."""

    model: Annotated[str, Parameter(help="name or file of a model; or give --results")] = ""
    results: Annotated[
        tuple[Path, ...],
        Parameter(
            help="stored detections instead: of evaluate or detect, COCO's results JSON, or lines "
            '"frame class score x1 y1 x2 y2"',
            consume_multiple=True,
        ),
    ] = ()
    postprocess: Annotated[
        tuple[str, ...],
        LIST,
        Parameter(help="none, seq-nms, seq-nms+; several give a row each"),
    ] = ("none",)
    oracle: Annotated[bool, Parameter(help="key frames where ground truth would choose them")] = False
    score: Annotated[float, Parameter(help="detections from here on count for steadiness, delay, worst frames")] = 0.5
    motion_file: Annotated[Path | None, Parameter(help="motion IoU of ImageNet VID's objects, .mat")] = None
    l_pairs: Annotated[
        int | None, Parameter(help="segmentation: also mIoU with key frames 0 … this − 1 frames before each label")
    ] = None
    worst: Annotated[int, Parameter(help="so many of the worst frames are drawn")] = 12
    threads: Annotated[int | None, Parameter(help="of the networks on the CPU")] = None
    output: Annotated[Path, Parameter(help="folder of tables, pictures and detections")] = Path("runs/evaluate")
    overwrite: Annotated[bool, Parameter(help="replace an evaluation that exists")] = False
    resume: Annotated[bool, Parameter(help="go on with an interrupted evaluation")] = False

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        MeasureOptions.__post_init__(self)
        _one_way(self.overwrite, self.resume)
        if not 0 <= self.score <= 1:
            raise UserError(f"--score must be 0 to 1, got {self.score:g}")
        _not_negative("worst", self.worst)
        _at_least_one("l-pairs", self.l_pairs)
        _at_least_one("threads", self.threads)
        if not self.postprocess:
            raise UserError("--postprocess needs a name: none, seq-nms, seq-nms+")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TradeoffOptions(MeasureOptions):
    """What is measured against each other."""

    models: Annotated[
        tuple[str, ...], Parameter(help="weight files, or names as of --model of detect", consume_multiple=True)
    ] = ()
    intervals: Annotated[tuple[int, ...], LIST, Parameter(help="key frame intervals l")] = (
        1,
        2,
        5,
        10,
        20,
    )
    radii: Annotated[tuple[int, ...], LIST, Parameter(help="of window methods")] = (1, 2, 5, 10)
    gammas: Annotated[tuple[float, ...], LIST, Parameter(help="γ of adaptive key frames")] = (
        0.05,
        0.1,
        0.2,
        0.4,
        0.8,
    )
    oracle: Annotated[bool, Parameter(help="also the key frames that ground truth would choose")] = False
    postprocess: Annotated[str, Parameter(help="none, seq-nms, seq-nms+")] = "none"
    threads: Annotated[int, Parameter(help="1: CPU time is measured; more: wall time")] = 1
    batch: Annotated[int, Parameter(help="frames computed together")] = 8
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto"
    output: Annotated[Path, Parameter(help="folder of the plot, tables and detections")] = Path("runs/tradeoff")
    overwrite: Annotated[bool, Parameter(help="replace a measurement that exists")] = False
    resume: Annotated[bool, Parameter(help="go on with an interrupted measurement")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_way(self.overwrite, self.resume)
        for name in ("threads", "batch"):
            _at_least_one(name, getattr(self, name))
        for name, values in (("intervals", self.intervals), ("radii", self.radii)):
            if min(values, default=1) < 1:
                raise UserError(f"--{name} must be 1 or more, got {list(values)}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """Which detections are kept, and in which further files."""

    classes: Annotated[tuple[str, ...], Parameter(help="only these, by name or id: person,car")] = ()
    threshold: Annotated[float, Parameter(help="smallest score, 0 to 1, that is drawn and listed")] = 0.5
    csv: Annotated[bool, Parameter(help="also NAME.csv, a row a detection")] = False
    mot: Annotated[bool, Parameter(help="also NAME.txt in the MOT challenge's format")] = False
    postprocess: Annotated[
        str, Parameter(help="none, seq-nms or seq-nms+: boxes linked over time, rescored, with track ids")
    ] = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold must be 0 to 1, got {self.threshold:g}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a user can ask of `train`. What is left out is the recipe's."""

    data: Annotated[
        tuple[str, ...], Parameter(help="data sets, FOLDER or FOLDER:SPLIT; several are mixed", consume_multiple=True)
    ]
    val: Annotated[str | None, Parameter(help="validated on; default: the split val of the first data set")] = None
    val_videos: Annotated[int | None, Parameter(help="only so many of its videos")] = None
    recipe: Annotated[str | None, Parameter(help="a name, or FILE.py:FUNCTION; default: the method's paper")] = None
    output: Annotated[Path, Parameter(help="folder of weights, checkpoints and logs")] = Path("runs/train")
    resume: Annotated[bool, Parameter(help="go on with an interrupted run")] = False
    init: Annotated[str | None, Parameter(help="a weight file to start from, or demo: all of it that fits")] = None
    init_backbone: Annotated[str | None, Parameter(help="imagenet (downloads), or a weight file")] = None
    init_flow: Annotated[str | None, Parameter(help="a flow network's weight file, of `keywarp train-flow`")] = None
    backbone: Annotated[str | None, Parameter(help="feature network")] = None
    flow: Annotated[str | None, Parameter(help="flow network")] = None
    interval: Annotated[int | None, Parameter(help="key frame duration l, of which clips are drawn")] = None
    shorter: Annotated[int | None, Parameter(help="shorter side of the network's input, pixels")] = None
    longer: Annotated[int | None, Parameter(help="its longer side at most")] = None
    task: Annotated[str, Parameter(help="detection or segmentation")] = "detection"
    steps: Annotated[int | None, Parameter(help="the recipe's course in so many steps")] = None
    images_per_step: Annotated[int | None, Parameter(help="over all processes; the learning rate is scaled")] = None
    rate: Annotated[float | None, Parameter(help="learning rate per image")] = None
    accumulate: Annotated[int | None, Parameter(help="parts that a step's images are computed in")] = None
    clip_norm: Annotated[float | None, Parameter(help="largest norm of the gradient")] = None
    precision: Annotated[str | None, Parameter(help="32 or bf16")] = None
    ema: Annotated[float | None, Parameter(help="decay of a running mean of the weights; 0 = none")] = None
    validate_every: Annotated[int | None, Parameter(help="steps")] = None
    save_every: Annotated[int | None, Parameter(help="steps between checkpoints")] = None
    patience: Annotated[int | None, Parameter(help="stop after so many validations without a better one")] = None
    seed: int | None = None
    workers: Annotated[int, Parameter(help="processes that read data; 0 = none")] = 1
    threads: Annotated[int | None, Parameter(help="threads of the networks on the CPU")] = None
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto"

    def __post_init__(self) -> None:
        for name in ("threads", "shorter", "longer", "val_videos"):
            _at_least_one(name.replace("_", "-"), getattr(self, name))
        if not self.data:
            raise UserError("--data must name a data set; `keywarp data synthesize FOLDER` makes one")
        if self.task not in ("detection", "segmentation"):
            raise unknown("task", self.task, ("detection", "segmentation"))
        if self.precision not in (None, "32", "bf16"):
            raise unknown("precision", self.precision, ("32", "bf16"))
        _not_negative("workers", self.workers)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainFlowOptions:
    """What a user can ask of `train-flow`. What is left out is the recipe's."""

    data: Annotated[str, Parameter(help="folder laid out as Flying Chairs, FlyingThings3D or Sintel")]
    val: Annotated[str | None, Parameter(help="folder whose split val is validated on; default: that of --data")] = None
    recipe: Annotated[str, Parameter(help="chairs (FlowNet's), synthetic (for the CPU), FILE.py:FUNCTION")] = "chairs"
    output: Annotated[Path, Parameter(help="folder of weights, checkpoints and logs")] = Path("runs/train-flow")
    resume: Annotated[bool, Parameter(help="go on with an interrupted run")] = False
    init: Annotated[str | None, Parameter(help="a weight file of this flow network to start from")] = None
    steps: Annotated[int | None, Parameter(help="the recipe's course in so many steps")] = None
    images_per_step: Annotated[int | None, Parameter(help="pairs, over all processes; the rate is scaled")] = None
    rate: Annotated[float | None, Parameter(help="learning rate per pair of a step")] = None
    crop: Annotated[tuple[int, int] | None, Parameter(help="height and width, multiples of 64")] = None
    precision: Annotated[str | None, Parameter(help="32 or bf16")] = None
    validate_every: Annotated[int | None, Parameter(help="steps")] = None
    save_every: Annotated[int | None, Parameter(help="steps between checkpoints")] = None
    seed: int | None = None
    workers: Annotated[int, Parameter(help="processes that read data; 0 = none")] = 1
    threads: Annotated[int | None, Parameter(help="threads of the network on the CPU")] = None
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto"

    def __post_init__(self) -> None:
        _at_least_one("threads", self.threads)
        if self.precision not in (None, "32", "bf16"):
            raise unknown("precision", self.precision, ("32", "bf16"))
        _not_negative("workers", self.workers)
