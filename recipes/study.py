"""Does each idea help, as its paper says? Trains and measures every row of docs/study.md, and writes the tables.

    python recipes/study.py --output study [--quick] [--jobs 2] [--backbone FILE] [--device cuda] [--seeds 0 1 2]
    python recipes/study.py --tables RESULTS.json …

Every piece of work is a `keywarp` command, whose output is in OUTPUT/logs; what is done is not done again, so the same
command goes on after an interruption. `results.json` and, made of it, `tables.md` are written anew after each piece,
with what is known by then; --tables makes them of the results of several runs together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import save

from keywarp.benchmarking.timing import clock_for
from keywarp.data.reading import open_dataset
from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.files import laid_out_as, read_json, write_atomically
from keywarp.listing import parameters_mi
from keywarp.loading import load, options_of
from keywarp.methods import preset
from keywarp.networks.download import sha256_of
from keywarp.networks.weight_files import read_description, read_state_dict
from keywarp.running import detect_video
from keywarp.training.config import TrainConfig
from keywarp.training.recipes import SMALL, synthetic

FLOW = "flownet-matching"

# ---------------------------------------------------------------------------------------------- how rows are trained


def video() -> TrainConfig:
    """From a per-frame network and a flow network that are trained already: these at 1/25 and 1/5 of the rate of what
    is new, the backbone slower still. At higher rates features and head get worse on every frame by themselves."""
    trained = {"feature_network.": 0.04, "feature_network.features.": 0.008, "head.": 0.04, "aligner.": 0.2}
    trained |= {"aligner.scale.": 1.0, "aligner.quality.": 1.0}  # a flow network's new layers
    return replace(
        synthetic(),
        steps=400,
        images_per_step=2,
        rate_per_image=1e-3 / 4,
        warmup=20,
        rates=trained | {".offset.": 0.05},
        validate_every=10**6,
        save_every=100,
        model=SMALL | {"flow": FLOW},
    )


def settled() -> TrainConfig:
    """The detector once more, at five times the rates of `video`."""
    return replace(video(), rates={"feature_network.": 0.2, "feature_network.features.": 0.04, "head.": 0.2})


def with_arguments(config: TrainConfig, **arguments: Any) -> TrainConfig:
    """A recipe whose model has further arguments."""
    return replace(config, model={**config.model, **arguments})


def long(config: TrainConfig) -> TrainConfig:
    """A recipe of four times the steps."""
    return replace(config, steps=4 * config.steps)


def partial() -> TrainConfig:
    """`video`, with λ = 0.2 in 001, Eq. 12: at the paper's 2 nothing is computed anew after 400 steps."""
    return with_arguments(video(), area_weight=0.2)


def without_scale() -> TrainConfig:
    """`video`, of Deep Feature Flow without the scale field."""
    return with_arguments(video(), scale_field=False)


def attention() -> TrainConfig:
    """`video`, of methods whose aligner is not trained before: attention (of unit vectors), feature flow."""
    return with_arguments(replace(video(), rates={**video().rates, "aligner.": 1.0}), cosine=25.0)


def video_long() -> TrainConfig:
    """`video` of four times the steps."""
    return long(video())


def attention_long() -> TrainConfig:
    """`attention` of four times the steps."""
    return long(attention())


def displacement_2() -> TrainConfig:
    """`attention` with d = 2."""
    return with_arguments(attention(), displacement=2)


def displacement_3() -> TrainConfig:
    """`attention` with d = 3."""
    return with_arguments(attention(), displacement=3)


def displacement_5() -> TrainConfig:
    """`attention` with d = 5."""
    return with_arguments(attention(), displacement=5)


TRAININGS: dict[str, tuple[str, Callable[[], TrainConfig]]] = {
    "settled": ("rfcn", settled),
    "frame": ("rfcn", video),
    "dff": ("dff", video),
    "psla-c": ("psla-c", attention),
    "fgfa": ("fgfa", video),
    "impression-d": ("impression-d", video),
    "thp": ("thp-c3", partial),
    "impression-b": ("impression-b", video),
    "dff-separate": ("dff-separate", video),
    "frame-long": ("rfcn", video_long),
    "psla-c-long": ("psla-c", attention_long),
    "iff-b": ("iff-b", attention),
    "iff-c": ("iff-c", attention),
    "iff-a": ("iff-a", attention),
    "optflow-a": ("optflow-a", video),
    "optflow-b": ("optflow-b", video),
    "psla-a": ("psla-a", attention),
    "psla-b": ("psla-b", attention),
    "dff-fix-n": ("dff-fix-n", video),
    "dff-fix-f": ("dff-fix-f", video),
    "dff-without-scale": ("dff", without_scale),
    "impression-c": ("impression-c", video),
    "impression-e": ("impression-e", video),
    "psla-nonlocal-s": ("psla-nonlocal-s", attention),
    "psla-matchtrans-s": ("psla-matchtrans-s", attention),
    "psla-dense-s": ("psla-dense-s", attention),
    "psla-nonlocal-f": ("psla-nonlocal-f", attention),
    "psla-matchtrans-f": ("psla-matchtrans-f", attention),
    "psla-dense-f": ("psla-dense-f", attention),
    "psla-a-d2": ("psla-a", displacement_2),
    "psla-a-d3": ("psla-a", displacement_3),
    "psla-a-d5": ("psla-a", displacement_5),
}
"""Method and recipe by name. The first starts from the detector, the others from the first; those that the papers' main
claims compare come before the rest."""


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """A row of the tables. training: whose weights run. method, arguments: in place of those. against: the row that it
    is compared with; published: that difference in the paper, in points of mAP, where it has one; claim: what it says
    otherwise. source: where."""

    name: str
    training: str
    against: str = ""
    published: float | None = None
    source: str = ""
    claim: str = ""
    method: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = False

    @property
    def folder(self) -> str:
        """Its results' folder."""
        return re.sub(r"\W+", "-", self.name.lower())


def position(k: int, published: float) -> Row:
    """Impression Network with another key frame of its ten."""
    of = "impression-d"
    return Row(f"Impression d, key {k}", of, "Impression d", published, "003, Table 2", arguments={"key_position": k})


FRAME = "per frame"
FRAME_LONG, PSLA_LONG = f"{FRAME}, four times the steps", "PSLA c, four times the steps"
ROWS: dict[str, tuple[Row, ...]] = {
    "Deep Feature Flow (004)": (
        Row(FRAME, "frame", source="the per-frame network, trained on as long"),
        Row("SFF, DIS", "frame", FRAME, -4.2, "004, Table 4, SFF-fast", method="sff", arguments={"flow": "dis"}),
        Row("SFF, codec motion", "frame", FRAME, None, "not in a paper", method="sff", arguments={"flow": "codec"}),
        Row("DFF", "dff", FRAME, -0.8, "004, Table 4"),
        Row("DFF fix N", "dff-fix-n", "DFF", -0.8, "004, Table 4"),
        Row("DFF fix F", "dff-fix-f", "DFF", -4.3, "004, Table 4"),
        Row("DFF separate", "dff-separate", "DFF", -5.7, "004, Table 4"),
        Row("DFF without scale field", "dff-without-scale", "DFF", None, "004, 5.2", "less than 1 lower"),
    ),
    "Towards High Performance (001)": (
        Row("FGFA", "fgfa", FRAME, 2.9, "001, 5.1, ± 10 frames"),
        Row("THP c1", "thp", "DFF", None, "001, 5.1, at equal speed", "almost 1 higher", method="thp-c1"),
        Row("THP c2", "thp", "DFF", None, "001, 5.1, at equal speed", "almost 2 higher", method="thp-c2"),
        Row("THP c3", "thp", "DFF", None, "001, 5.1, at equal speed", "nearly 2 higher"),
        Row("THP oracle", "thp", "THP c3", None, "001, 3.3 and Table 2", "3.1 higher at equal speed", oracle=True),
    ),
    "Impression Network (003)": (
        Row("Impression b", "impression-b", FRAME, -0.6, "003, Table 1"),
        Row("Impression c", "impression-c", FRAME, 1.0, "003, Table 1"),
        Row("Impression d", "impression-d", FRAME, 1.3, "003, Table 1"),
        Row("Impression e", "impression-e", "Impression d", -5.2, "003, Table 1"),
        Row("Impression d, g = 0", "impression-d", "Impression d", None, "003, Figure 7", "lower", None, {"gate": 0.0}),
        Row(
            "Impression d, g = 0.5", "impression-d", "Impression d", None, "003, Figure 7", "lower", None, {"gate": 0.5}
        ),
        *(position(k, p) for k, p in ((0, -1.6), (1, -1.1), (2, -0.6), (3, -0.3), (4, 0.0))),
    ),
    "PSLA (002)": (
        Row("PSLA a", "psla-a", "DFF", None, "002, Table 4", "0.7 to 1.0 higher at l = 15 to 35"),
        Row("PSLA b", "psla-b", "PSLA a", 1.4, "002, Table 5"),
        Row("PSLA c", "psla-c", "PSLA b", 1.3, "002, Table 5"),
        Row(FRAME_LONG, "frame-long", FRAME, source="trained as long as the next row"),
        Row(PSLA_LONG, "psla-c-long", FRAME_LONG, 3.2, "002, Table 1"),
        Row("Nonlocal S", "psla-nonlocal-s", "PSLA a", -2.3, "002, Table 3"),
        Row("MatchTrans S", "psla-matchtrans-s", "PSLA a", -1.9, "002, Table 3"),
        Row("DensePSLA S", "psla-dense-s", "PSLA a", -0.8, "002, Table 3"),
        Row("Nonlocal F", "psla-nonlocal-f", "PSLA c", -3.0, "002, Table 5"),
        Row("MatchTrans F", "psla-matchtrans-f", "PSLA c", -1.9, "002, Table 5"),
        Row("DensePSLA F", "psla-dense-f", "PSLA c", -1.4, "002, Table 5"),
        Row("PSLA a, d = 2", "psla-a-d2", "PSLA a", -0.8, "002, Table 3"),
        Row("PSLA a, d = 3", "psla-a-d3", "PSLA a", -0.1, "002, Table 3"),
        Row("PSLA a, d = 5", "psla-a-d5", "PSLA a", -0.6, "002, Table 3"),
    ),
    "IFF-Net (000)": (
        Row("OptFlow-A", "optflow-a", FRAME, 0.3, "000, Table 1"),
        Row("OptFlow-B", "optflow-b", FRAME, 1.3, "000, Table 1"),
        Row("IFF-Net-A", "iff-a", FRAME, 1.9, "000, Table 2"),
        Row("IFF-Net-B", "iff-b", "IFF-Net-A", 0.4, "000, Table 2"),
        Row("IFF-Net-C", "iff-c", "IFF-Net-B", 0.7, "000, Table 2"),
    ),
}
"""The papers' rows. IFF-Net-D and -E are IFF-Net-C after Seq-NMS and Seq-NMS+, which every row has as columns."""


Measured = Mapping[tuple[int, str], Mapping[str, Mapping[str, float]]]
"""Of a row, by run and seed: by post-processing, by measure, in percent."""


@dataclass(frozen=True)
class Claim:
    """A difference that a paper claims: of a row from another one, or of a row after two post-processings. published:
    what the paper says, its sign first."""

    row: str
    other: str
    published: str
    source: str
    measure: str = "mAP"
    linking: tuple[str, str] = ("none", "none")

    @property
    def title(self) -> str:
        """What is compared with what."""
        own, other = (f"{name} with {way}" if way != "none" else name for name, way in self.sides)
        return f"{own} − {other}" + (", fast objects" if self.measure == FAST else "")

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Row and post-processing of both."""
        return (self.row, self.linking[0]), (self.other, self.linking[1])


def differences(
    own: Measured, other: Measured, measure: str, linking: tuple[str, str] = ("none", "none")
) -> list[float]:
    """Of a row from another one, each after its post-processing, by run and seed where both are measured."""
    pairs = [(own[run].get(linking[0], {}), other[run].get(linking[1], {})) for run in own if run in other]
    return [a[measure] - b[measure] for a, b in pairs if measure in a and measure in b]


def verdict(found: Sequence[float], published: str) -> str:
    """Whether the differences' sign is the published one, and whether mean ± standard deviation leaves out zero."""
    mean = statistics.mean(found)
    if mean == 0:
        return "no difference"
    same = "yes" if (mean < 0) == published.startswith("-") else "no"
    if len(found) == 1:
        return f"{same}, one seed"
    return f"{same}, {'beyond' if abs(mean) > statistics.stdev(found) else 'within'} the spread"


FAST = "mAP fast"
SEQ_NMS, SEQ_NMS_PLUS = ("seq-nms", "none"), ("seq-nms+", "seq-nms")
CLAIMS = (
    Claim("FGFA", FRAME, "+2.9", "001, 5.1, ± 10 frames"),
    Claim("FGFA", FRAME, "+6, about", "001, 2.1", FAST),
    Claim("IFF-Net-B", FRAME, "+2.3", "000, Table 2"),
    Claim("IFF-Net-B", FRAME, "+3.4", "000, Table 2", FAST),
    Claim("IFF-Net-C", FRAME, "+3.0", "000, Table 2"),
    Claim("IFF-Net-C", FRAME, "+6.5", "000, Table 2", FAST),
    Claim("PSLA c", FRAME, "+3.2", "002, Table 1"),
    Claim("PSLA c", FRAME, "+, not published", "", FAST),
    Claim(PSLA_LONG, FRAME_LONG, "+3.2", "002, Table 1"),
    Claim(PSLA_LONG, FRAME_LONG, "+, not published", "", FAST),
    Claim("DFF", FRAME, "-0.8", "004, Table 4"),
    Claim("DFF", "DFF separate", "+5.7", "004, Table 4"),
    Claim("Impression d", FRAME, "+1.3", "003, Table 1"),
    Claim("Impression d", "Impression b", "+1.9", "003, Table 1"),
    Claim("THP c2", "THP c1", "+0.8, both at 3 times per frame's speed", "001, 5.1"),
    Claim("THP c3", "THP c2", "+0.5 to 1 at high speed", "001, 5.1"),
    Claim("IFF-Net-B", "IFF-Net-A", "+0.4", "000, Table 2"),
    Claim("IFF-Net-B", "OptFlow-A", "+2.0", "000, Table 1"),
    Claim("IFF-Net-B", "OptFlow-B", "+1.0", "000, Table 1"),
    Claim(FRAME, FRAME, "+, not published", "", linking=SEQ_NMS),
    Claim(FRAME, FRAME, "+, not published", "", linking=SEQ_NMS_PLUS),
    Claim("IFF-Net-C", "IFF-Net-C", "+1.8", "000, Table 2", linking=SEQ_NMS),
    Claim("IFF-Net-C", "IFF-Net-C", "+0.8", "000, Table 2", linking=SEQ_NMS_PLUS),
)
"""The papers' main claims, as differences."""

CURVES = {
    "impression": (FRAME, "DFF", "Impression d"),
    "thp": (FRAME, "DFF", "FGFA", "THP c1", "THP c2", "THP c3"),
}
"""Accuracy against speed of these rows, as in 003, Figure 8, and 001, Figure 3."""
BEYOND = (
    "Beyond the spread: mean ± standard deviation leaves out zero. Chance alone does that in 39 % of cases with two "
    "seeds, in 23 % with three (Student's t)."
)
CLAIM_COLUMNS = ("", "seeds", "difference", "the paper's", "source", "its sign")
LINKINGS = ("none", "seq-nms", "seq-nms+")
COLUMNS = (
    *("", "seeds", "mAP", "slow", "medium", "fast", "Seq-NMS", "Seq-NMS+", "frames/s", "Mi parameters"),
    *("against", "difference", "on fast", "the paper's", "source"),
)


# ------------------------------------------------------------------------------------------------------------- work


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
        named = f"recipes/{Path(__file__).name}:{recipe.__name__}"
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


class Runner:
    """Does jobs, `count` at a time; those that are done leave a file and are not done again."""

    def __init__(self, study: Study, count: int) -> None:
        self.study, self.count = study, count
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def done(self, job: Job) -> Path:
        """The file that tells that it is done, with its command and the seconds that it took."""
        return self.study.folder / "done" / f"{job.name}.json"

    def run(self, jobs: Sequence[Job], after: Callable[[], None]) -> list[str]:
        """Do all; returns the names of those that failed or could not begin. after: called when one is done.

        Raises UserError where one was done with another command.
        """
        self.check(jobs)
        finished = {job.name for job in jobs if self.done(job).exists()}
        left = [job for job in jobs if job.name not in finished]
        failed: list[str] = []
        at_work: dict[Future[float], Job] = {}
        with ThreadPoolExecutor(self.count) as pool:
            try:
                while left or at_work:
                    for job in [job for job in left if finished.issuperset(job.needs)][: self.count - len(at_work)]:
                        left.remove(job)
                        at_work[pool.submit(self._do, job)] = job
                    if not at_work:
                        break
                    for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                        job = at_work.pop(future)
                        try:
                            seconds = future.result()
                        except subprocess.CalledProcessError as error:
                            failed.append(job.name)
                            print(f"{job.name} failed ({error.returncode}): see {self._log(job)}", flush=True)
                            continue
                        finished.add(job.name)
                        print(f"[{len(finished)}/{len(jobs)}] {job.name}: {seconds:.0f} s", flush=True)
                        after()
            except KeyboardInterrupt:
                self.stopped = True
                for process in list(self.running):
                    process.terminate()
                raise
        return failed + [job.name for job in left]

    def check(self, jobs: Iterable[Job]) -> None:
        """Raises UserError where one of these was done with another command or recipe."""
        for job in (job for job in jobs if self.done(job).exists()):
            done = json.loads(self.done(job).read_text())
            was, now = done["command"], [str(word) for word in job.command]
            for recipe, words in ((done.get("recipe"), was), (job.recipe, now)):
                words += [f"{name} {value}" for name, value in (recipe or {}).items()]
            if was != now:
                differing = next((pair for pair in zip(was, now, strict=False) if pair[0] != pair[1]), (was, now))
                raise UserError(
                    f"{self.study.folder} holds a study with other settings ({job.name}: {differing[0]}, now "
                    f"{differing[1]}); give another --output"
                )

    def _log(self, job: Job) -> Path:
        return self.study.folder / "logs" / f"{job.name}.log"

    def _do(self, job: Job) -> float:
        start = time.perf_counter()
        if self.stopped:
            return 0.0
        job.prepare()
        words = [str(word) for word in job.command]
        single = {"OMP_NUM_THREADS": "1"} if self.count > 1 else {}
        self._log(job).parent.mkdir(parents=True, exist_ok=True)
        with self._log(job).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "keywarp", *words],
                cwd=Path(__file__).parents[1],
                stdout=log,
                stderr=log,
                env=os.environ | single,
                start_new_session=True,  # Ctrl-C reaches the study alone, which ends each once
            )
            self.running.add(process)
            if self.stopped:
                process.terminate()
            code = process.wait()
            self.running.discard(process)
        if code:
            raise subprocess.CalledProcessError(code, words)
        seconds = time.perf_counter() - start
        self.done(job).parent.mkdir(parents=True, exist_ok=True)
        about = {"command": words, "seconds": round(seconds, 1), "recipe": job.recipe}
        write_atomically(self.done(job), json.dumps(about))
        return seconds


def timed_rows(study: Study) -> list[Row]:
    """Those whose speed can be measured: trained, for the first seed."""
    rows = (row for group in ROWS.values() for row in group if not row.oracle)
    return [row for row in rows if study.weights(row.training, study.first).exists()]


def measure_speed(study: Study, rounds: int = 3) -> None:
    """Milliseconds a frame of every trained row on one clip of test: all rows in turn, `rounds` times, CPU time of one
    thread or the GPU's wall time; the median. Kept in OUTPUT/speed.json."""
    seed = study.first
    video = open_dataset(study.data, "test").videos[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clock, reads = clock_for(torch.device(study.device), threads=1)
    models = {}
    for row in timed_rows(study):
        study.describe(row, seed)
        models[row.name] = load(study.model(row, seed), device=study.device, **study.options(row))
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            run = detect_video(model, video, 8, clock=clock)
            if turn:  # the first warms up
                times[name].append(1000 * run.seconds / run.frames)
    about = {
        "milliseconds": {name: statistics.median(each) for name, each in times.items()},
        "parameters": {name: parameters_mi(model) for name, model in models.items()},
        "machine": machine(torch.device(study.device)),
        "clock": reads + (", one thread" if study.device == "cpu" else ""),
    }
    write_atomically(study.folder / "speed.json", json.dumps(about, indent=1))


def speeds_are_old(study: Study) -> bool:
    """Whether rows were trained since the speeds were measured, if they were."""
    file = study.folder / "speed.json"
    return not file.exists() or set(json.loads(file.read_text())["milliseconds"]) != {r.name for r in timed_rows(study)}


# ----------------------------------------------------------------------------------------------------------- tables


def measures(study: Study, row: Row, seed: int) -> dict[str, dict[str, float]] | None:
    """Measures in percent by post-processing; None where they are not there yet."""
    file = study.results(row, seed) / "evaluation.json"
    if not file.exists():
        return None
    document = json.loads(file.read_text())
    return {each["name"]: _percent(each["measures"]) for each in document["rows"]}


def _percent(values: Mapping[str, float | None]) -> dict[str, float]:
    known = {name: value for name, value in values.items() if name.startswith("mAP") and value is not None}
    return {name: round(100 * value, 3) for name, value in known.items()}


def spread(values: Sequence[float], sign: bool = False) -> str:
    """Mean ± standard deviation; empty of nothing."""
    if not values:
        return ""
    shown = f"{statistics.mean(values):+.1f}" if sign else f"{statistics.mean(values):.1f}"
    return shown + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def results(study: Study) -> dict[str, Any]:
    """All that is measured by now: measures in percent by row, seed and post-processing; the speeds; whose weights, and
    a digest of how each row is trained."""
    seeds, budget = study.seeds, asdict(study.budget)
    rows = {row.name: row for group in ROWS.values() for row in group}
    measured = {
        name: {str(seed): found for seed in seeds if (found := measures(study, row, seed))}
        for name, row in rows.items()
    }
    measured = {name: found for name, found in measured.items() if found}
    trainings = {
        (name, int(seed))
        for row, found in measured.items()
        for name in ("detector", "settled", rows[row].training)
        for seed in found
    }
    files = (study.weights(*each) for each in trainings)
    commits = {read_description(file)["versions"].get("commit", "unknown") for file in files if file.exists()}
    speed = study.folder / "speed.json"
    return {
        "budget": {name: value for name, value in budget.items() if name != "seeds"},
        "backbone": study.backbone_digest,
        "commits": sorted(commits),
        "machine": machine(torch.device(study.device)),
        "rows": measured,
        "protocols": {name: study.protocol(rows[name]) for name in measured},
        "speed": json.loads(speed.read_text()) if speed.exists() else {},
    }


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of claims and rows, as Markdown, of the `results` of one run or of several: then each run's seeds are further
    seeds.

    Differences are of rows of the same run and seed. Speeds are of the first run that has them.
    """
    known = {
        row.name: {(n, seed): own for n, run in enumerate(runs) for seed, own in run["rows"].get(row.name, {}).items()}
        for group in ROWS.values()
        for row in group
    }
    speed: Mapping[str, Any] = next((run["speed"] for run in runs if run["speed"]), {})
    milliseconds, parameters = (speed.get(name, {}) for name in ("milliseconds", "parameters"))
    lines = claims(known)
    for title, group in ROWS.items():
        measured = [row for row in group if known[row.name]]
        lines += [f"### {title}", ""]
        if measured:
            lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for row in measured:
            own = known[row.name]

            def column(linking: str, name: str, own: Measured = own) -> str:
                return spread([found[linking][name] for found in own.values() if name in found.get(linking, {})]) or "–"

            other = known.get(row.against, {})

            cells = [
                row.name,
                str(len(own)),
                *(column("none", name) for name in ("mAP", "mAP slow", "mAP medium", "mAP fast")),
                *(column(linking, "mAP") for linking in LINKINGS[1:]),
                f"{1000 / milliseconds[row.name]:.1f}" if row.name in milliseconds else "–",
                f"{parameters[row.name]:.2f}" if row.name in parameters else "–",
                row.against or "–",
                *(spread(differences(own, other, name), sign=True) or "–" for name in ("mAP", FAST)),
                f"{row.published:+.1f}" if row.published is not None else row.claim or "–",
                row.source,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if measured:
            lines.append("")
        if len(measured) < len(group):
            missing = (row.name for row in group if row not in measured)
            lines += [f"Not measured: {'; '.join(missing)}.", ""]
    for run in runs:
        count = max((len(found) for found in run["rows"].values()), default=0)
        lines.append(f"Seeds: {count}; {run['machine']}; commits {', '.join(each[:7] for each in run['commits'])}.")
    if speed:
        lines.append(f"frames/s: {speed['clock']}; {speed['machine']}.")
    return "\n".join([*lines, ""])


def claims(known: Mapping[str, Measured]) -> list[str]:
    """The lines of a table of the papers' main claims, as far as their rows are measured."""
    lines = ["### The papers' main claims", ""]
    missing = []
    for claim in CLAIMS:
        found = differences(known[claim.row], known[claim.other], claim.measure, claim.linking)
        if not found:
            missing.append(claim.title)
            continue
        if len(lines) == 2:
            lines += [f"| {' | '.join(CLAIM_COLUMNS)} |", "|---" * len(CLAIM_COLUMNS) + "|"]
        cells = (claim.title, str(len(found)), spread(found, sign=True), claim.published, claim.source or "–")
        lines.append(f"| {' | '.join((*cells, verdict(found, claim.published)))} |")
    if len(lines) > 2:
        lines += ["", BEYOND]
    return [*lines, "", *([f"Not measured: {'; '.join(missing)}.", ""] if missing else [])]


def read_results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Of several runs' `results.json`, all different and of one budget, backbone and protocol. Raises UserError."""
    runs: list[dict[str, Any]] = []
    for file in files:
        run = read_json(file)
        with laid_out_as("the results.json of a study", file):
            tables([run])
            for other, of_other in zip(runs, files, strict=False):
                if run["rows"] and run["rows"] == other["rows"]:
                    raise UserError(f"{file} and {of_other} hold the same results; give each run once")
                for name in ("budget", "backbone"):
                    if run[name] != other[name]:
                        raise UserError(f"--tables takes runs of one {name}; {file} and {of_other} have two")
                for name, protocol in run["protocols"].items():
                    if protocol != other["protocols"].get(name, protocol):
                        raise UserError(f"--tables takes runs of one protocol; in {file} {name} was trained otherwise")
        runs.append(run)
    return runs


def main() -> int:
    """Runs the study, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("study"))
    parser.add_argument("--quick", action="store_true", help="everything in minutes; the figures say nothing")
    parser.add_argument("--jobs", type=int, default=2, help="pieces of work at a time")
    parser.add_argument("--backbone", help="MobileNetV2's ImageNet weights: a file; default: downloaded (quick: none)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names of work, what it needs too; speed")
    parser.add_argument("--tables", type=Path, nargs="+", help="only print the tables of these runs' results.json")
    options = parser.parse_args()
    if options.tables:
        try:
            print(tables(read_results(options.tables)))
        except UserError as error:
            print(f"study: {error}", file=sys.stderr)
            return 2
        return 0
    budget = QUICK if options.quick else Budget()
    if options.seeds:
        budget = replace(budget, seeds=tuple(dict.fromkeys(options.seeds)))
    if min(budget.seeds) < 0:
        parser.error(f"--seeds must be 0 or more, got {min(budget.seeds)}")
    try:
        torch.device(options.device)
    except RuntimeError:
        parser.error(f"--device must be cpu or cuda, got {options.device}")
    backbone = options.backbone or ("" if options.quick else "imagenet")
    if Path(backbone).is_file():
        backbone = str(Path(backbone).resolve())
    elif backbone not in ("", "imagenet"):
        parser.error(f"--backbone wants a file, or imagenet; there is no file {backbone}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    study = Study(options.output.resolve(), budget, backbone, options.device)
    study.folder.mkdir(parents=True, exist_ok=True)
    jobs = wanted(list(study.jobs()), options.only)
    curves = wanted(list(study.curves()), options.only)
    timed = "speed" in options.only or not options.only
    if not (jobs or curves or timed):
        parser.error(f"no work is named {' or '.join(options.only)}")
    all_seeds = replace(study, budget=replace(budget, seeds=tuple(study.seeds)))

    def write() -> None:
        known = results(study)
        write_atomically(study.folder / "results.json", json.dumps(known, indent=1))
        write_atomically(study.folder / "tables.md", tables([known]))

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, interrupt)
    try:
        Runner(study, 1).check([*all_seeds.jobs(), *study.curves()])  # as the tables hold all of them
        missing = Runner(study, options.jobs).run(jobs, write)
        missing += Runner(study, 1).run(curves, write) if not missing else [job.name for job in curves]
        if not missing and timed and ("speed" in options.only or speeds_are_old(study)):
            measure_speed(study)
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    write()
    print(study.folder / "tables.md")
    return 1 if missing else 0


def interrupt(*_: object) -> None:
    """What ends a cluster's job, SIGTERM, or a lost connection, SIGHUP, is as Ctrl-C here."""
    raise KeyboardInterrupt


def wanted(jobs: list[Job], beginnings: Sequence[str]) -> list[Job]:
    """The jobs whose names begin so, and those that they need; all where nothing is given."""
    by_name = {job.name: job for job in jobs}
    names = {job.name for job in jobs if not beginnings or job.name.startswith(tuple(beginnings))}
    while more := {need for name in names for need in by_name[name].needs} - names:
        names |= more
    return [job for job in jobs if job.name in names]


if __name__ == "__main__":
    raise SystemExit(main())
