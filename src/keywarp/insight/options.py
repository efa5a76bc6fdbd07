"""What a user can ask of `visualize`; checked when built, before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keywarp.errors import UserError, unknown
from keywarp.options import LIST, ModelOptions, RunOptions

KINDS = {
    "features": "a key frame's features, the same carried to the frame, and what the head gets, as colours",
    "flow": "the motion that features are carried by",
    "weights": "how much each candidate counts where features are joined",
    "updates": "how far carried features are trusted, and what is computed anew",
    "keys": "key frames, references and the share of computed cells over time",
}
"""What `--show` takes, with what it shows."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class VisualizeOptions(ModelOptions):
    """Which model is looked into, or which two are compared, and what is shown."""

    show: Annotated[
        tuple[str, ...],
        LIST,
        Parameter(help="features, flow, weights, updates, keys; default: all that the method has"),
    ] = ()
    level: Annotated[int, Parameter(help="of features at several levels, counted from the finest, 0")] = 0
    against: Annotated[str | None, Parameter(help="a second model: results side by side instead")] = None
    against_method: Annotated[str | None, Parameter(help="the second model's --method")] = None
    against_interval: Annotated[int | None, Parameter(help="the second model's --interval")] = None
    against_flow: Annotated[str | None, Parameter(help="the second model's --flow")] = None
    results: Annotated[
        tuple[Path, ...],
        LIST,
        Parameter(help="two JSON files of `detect` on the video: these side by side instead"),
    ] = ()
    threshold: Annotated[float, Parameter(help="smallest score, 0 to 1, that is drawn")] = 0.5
    frames: Annotated[str | None, Parameter(help="A:B, only frames A to B − 1; either may be left out")] = None
    stride: Annotated[int, Parameter(help="only every so many frames")] = 1
    pictures: Annotated[
        tuple[int, ...],
        LIST,
        Parameter(help="frames also kept as PNG, counted from the first one shown; default: 4"),
    ] = ()
    output: Annotated[Path, Parameter(help="folder of the results")] = Path("runs/visualize")
    overwrite: Annotated[bool, Parameter(help="replace results that exist")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.span
        for kind in self.show:
            if kind not in KINDS:
                raise unknown("thing to show", kind, KINDS)
        if self.level < 0 or any(number < 0 for number in self.pictures):
            raise UserError("--level and --pictures count from 0; give 0 or more")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold must be 0 to 1, got {self.threshold:g}")
        if self.results and len(self.results) != 2:
            raise UserError(f"--results takes two files, A.json B.json, got {len(self.results)}")
        if self.results and (self.compares_models or self.frames or self.stride > 1):
            raise UserError("--results tell their own frames and models; leave --against, --frames and --stride out")
        if self.show and (self.results or self.compares_models):
            raise UserError("--show looks into one model; leave it out beside --against and --results")

    @property
    def span(self) -> tuple[int, int | None]:
        """(start, stop) of `frames`."""
        return RunOptions(frames=self.frames, stride=self.stride).span

    @property
    def compares_models(self) -> bool:
        """Whether a second model was asked for; without a name of its own it is the first one otherwise set."""
        return any(v is not None for v in (self.against, self.against_method, self.against_interval, self.against_flow))
