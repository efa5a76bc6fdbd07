"""The study's pieces of work, each a `keywarp` command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

import study_trainings
from keywarp.files import write_atomically
from keywarp.loading import options_of
from keywarp.methods import preset
from keywarp.networks.download import sha256_of
from keywarp.networks.weight_files import read_description, read_state_dict
from keywarp.training.recipes import synthetic
from study_rows import CURVES, LINKINGS, ROWS, Row
from study_trainings import FLOW, TRAININGS, video


@dataclass(frozen=True)
class Budget:
    """What the study costs. videos, curve: of test, measured for the rows and for the curves, evenly spread. radius: of
    windows."""

    size: str = "full"
    videos: int = 60
    curve: int = 20
    pairs: int = 5000
    flow: int = 5000
    detector: int = 4000
    steps: int = 400
    shorter: int = 192
    longer: int = 320
    radius: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)


QUICK = Budget("tiny", 2, 1, 20, 5, 8, 4, 96, 160, 1, (0,))
"""To see that everything runs; its figures say nothing."""
PAIRS = ("--seed", 1, "--apart", 10, "--objects", 0.8)
"""Of the flow network's pairs."""


Words = tuple[object, ...]
"""Of a command line, or of a part of it."""


@dataclass(frozen=True)
class Job:
    """One piece of work: a keywarp command, after others; prepare: done first. recipe: of a training."""

    name: str
    command: Words
    needs: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Study:
    """Where everything lies, and with which budget. backbone: file or name of its weights; "" = random ones."""

    folder: Path
    budget: Budget
    backbone: str = ""
    device: str = "cpu"

    @property
    def first(self) -> int:
        """The seed whose speeds and curves are measured: the lowest, of this call or an earlier one."""
        return min(self.seeds)

    @property
    def backbone_digest(self) -> str:
        """Which weights the detectors start from: a file's SHA-256, or a name."""
        return sha256_of(Path(self.backbone)) if Path(self.backbone).is_file() else self.backbone

    @property
    def data(self) -> Path:
        """The benchmark."""
        return self.folder / "data"

    @property
    def done(self) -> Path:
        """Of each job that is done a file, with its command and the seconds that it took."""
        return self.folder / "done"

    def weights(self, training: str, seed: int) -> Path:
        """The last weights of a training."""
        return self.folder / f"seed{seed}" / training / "model.safetensors"

    def model(self, row: Row, seed: int) -> Path:
        """The weights of a row: its training's, under another description where it has another method or arguments."""
        if row.method == "sff" or not (row.method or row.arguments):
            return self.weights(row.training, seed)
        return self.folder / f"seed{seed}" / "described" / f"{row.folder}.safetensors"

    def describe(self, row: Row, seed: int) -> None:
        """Write the row's weights, if they are not its training's."""
        source, target = self.weights(row.training, seed), self.model(row, seed)
        if target != source:
            described(source, target, row.method, row.arguments)

    def options(self, row: Row) -> dict[str, Any]:
        """How the row's weights are loaded, as `load` and, with dashes, `evaluate` take it."""
        chosen: dict[str, Any] = {}
        if row.method == "sff":
            chosen = {"method": "sff", "flow": row.arguments["flow"], "interval": 10, "key_position": 0}
        if "radius" in options_of(TRAININGS[row.training][0]):
            chosen["radius"] = self.budget.radius
        return chosen

    @property
    def run(self) -> Words:
        """How every long command runs."""
        return (*(("--threads", 1) if self.device == "cpu" else ()), "--device", self.device, "--resume")

    @property
    def seeds(self) -> list[int]:
        """This call's, and those that the folder holds of earlier ones."""
        earlier = (int(each.name[4:]) for each in self.folder.glob("seed*") if each.name[4:].isdecimal())
        return sorted({*self.budget.seeds, *earlier})

    def protocol(self, row: Row) -> str:
        """A digest of how the row's weights came about and run: rows of unlike ones are not to be averaged."""
        trained = [self._trained(name, 0).recipe for name in ("settled", row.training)]
        methods = [(name, preset(name)) for name in (TRAININGS[row.training][0], row.method) if name]
        how = [PAIRS, FLOW, synthetic().to_json(), *trained, methods, dict(row.arguments), self.options(row)]
        return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:12]

    def results(self, row: Row, seed: int) -> Path:
        """The evaluation of a row."""
        return self.folder / f"seed{seed}" / "test" / row.folder

    def jobs(self) -> Iterator[Job]:
        """All work, in an order that fits."""
        b, pairs, flow, run = self.budget, self.folder / "pairs", self.folder / "flow", self.run
        yield Job("data", ("data", "synthesize", self.data, "--size", b.size, "--seed", 0))
        yield Job("pairs", ("data", "synthesize-pairs", pairs, "--pairs", b.pairs, *PAIRS))
        given: Words = ("--data", pairs, "--recipe", "synthetic", "--steps", b.flow, "--validate-every", 1000)
        yield Job("flow", ("train-flow", FLOW, *given, "--output", flow, *run), ("pairs",))
        for seed in b.seeds:
            given = ("--data", self.data, "--recipe", "synthetic", "--steps", b.detector, "--validate-every", 10**6)
            start: Words = ("--output", self.weights("detector", seed).parent)
            start += ("--init-backbone", self.backbone) if self.backbone else ()
            command = ("train", "rfcn", *given, *start, *self._shape(seed), *run)
            yield Job(f"{seed} detector", command, ("data",), recipe=synthetic().to_json())
        for name in TRAININGS:  # row by row, each of all seeds: what is done when it is stopped has its spread
            for seed in b.seeds:
                yield self._trained(name, seed)
                for row in (row for rows in ROWS.values() for row in rows if row.training == name):
                    yield self._measured(row, seed)

    def curves(self) -> Iterator[Job]:
        """The trade-offs, which measure time: to be done one by one, after all else."""
        seed = self.first
        for name, names in CURVES.items():
            rows = [row for group in ROWS.values() for row in group if row.name in names]

            def prepare(rows: Sequence[Row] = rows) -> None:
                for row in rows:
                    self.describe(row, seed)

            models = (self.model(row, seed) for row in rows)
            given = ("--videos", self.budget.curve, "--intervals", "2,5,10,20", "--radii", "1,2,4")
            command = ("tradeoff", f"{self.data}:test", "--models", *models, *given)
            place = ("--output", self.folder / f"seed{seed}" / "curves" / name)
            yield Job(f"curve {name}, seed {seed}", (*command, *place, *self.run), (), prepare)

    def _shape(self, seed: int) -> Words:
        return ("--shorter", self.budget.shorter, "--longer", self.budget.longer, "--val-videos", 1, "--seed", seed)

    def _trained(self, name: str, seed: int) -> Job:
        method, recipe = TRAININGS[name]
        config = recipe()
        named = f"recipes/{Path(study_trainings.__file__).name}:{recipe.__name__}"
        steps = self.budget.steps * config.steps // video().steps
        given = ("--data", self.data, "--recipe", named, "--steps", steps)
        before = "detector" if name == "settled" else "settled"
        start: Words = ("--init", self.weights(before, seed))
        needs: tuple[str, ...] = (f"{seed} {before}",)
        if method.startswith(("dff", "fgfa", "thp", "impression", "optflow")):
            start, needs = (*start, "--init-flow", self.folder / "flow" / "best.safetensors"), (*needs, "flow")
        place = ("--output", self.weights(name, seed).parent)
        command = ("train", method, *given, *start, *place, *self._shape(seed), *self.run)
        return Job(f"{seed} {name}", command, needs, recipe=config.to_json())

    def _measured(self, row: Row, seed: int) -> Job:
        b, needs = self.budget, (f"{seed} {row.training}",)
        common = (f"{self.data}:test", "--videos", b.videos, "--output", self.results(row, seed), *self.run)
        chosen: Words = ("--model", self.model(row, seed), "--postprocess", *LINKINGS, "--worst", 0)
        chosen += ("--oracle",) if row.oracle else ()
        for name, value in self.options(row).items():
            chosen = (*chosen, f"--{name.replace('_', '-')}", value)
        return Job(f"{seed} {row.name}, test", ("evaluate", *common, *chosen), needs, lambda: self.describe(row, seed))


def described(source: Path, target: Path, method: str | None, arguments: Mapping[str, Any]) -> None:
    """The weights of `source` under a description with another method, or further arguments."""
    about: dict[str, Any] = dict(read_description(source))
    about |= {"method": method or about["method"], "arguments": about["arguments"] | dict(arguments)}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, save(read_state_dict(source), metadata={"keywarp": json.dumps(about)}))


def wanted(jobs: list[Job], beginnings: Sequence[str]) -> list[Job]:
    """The jobs whose names begin so, and those that they need; all where nothing is given."""
    by_name = {job.name: job for job in jobs}
    names = {job.name for job in jobs if not beginnings or job.name.startswith(tuple(beginnings))}
    while more := {need for name in names for need in by_name[name].needs} - names:
        names |= more
    return [job for job in jobs if job.name in names]
