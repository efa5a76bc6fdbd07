"""The command line: parses, then calls one function for each command. What is slow to import is imported there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from keywarp import __version__
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.insight.options import VisualizeOptions
from keywarp.interruption import terminable
from keywarp.options import (
    LIST,
    BoxOptions,
    EvaluateOptions,
    RunOptions,
    SegmentOptions,
    TradeoffOptions,
    TrainFlowOptions,
    TrainOptions,
)

app = App(
    name="keywarp",
    help="Fast, steady object detection and segmentation in video.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

data = App(name="data", help="Annotated videos: make them, check them, convert them.")
app.command(data)
speed = App(name="benchmark", help="Measure speed, side by side in one run.")
app.command(speed)

models = App(name="models", help="List methods with what they cost; show, pull and push weight files.")
app.command(models)

WRONG_PATH = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
RUN, SEGMENTS, BOXES, LOOK = RunOptions(), SegmentOptions(), BoxOptions(), VisualizeOptions()  # the defaults
EVALUATION, TRADEOFF = EvaluateOptions(), TradeoffOptions()


Sources = Annotated[
    list[str],
    Parameter(
        name="--source",
        help="files, folders, quoted patterns, addresses, camera:0",
        negative=(),
        allow_leading_hyphen=False,
    ),
]


@app.command
def detect(source: Sources, run: RunOptions = RUN, boxes: BoxOptions = BOXES) -> int:
    """Find objects: an annotated NAME.mp4 and NAME.json (COCO's layout) for every video.

    Results appear when a video is done; Ctrl-C leaves valid files of the frames so far.
    """
    from keywarp.annotate import annotate

    return annotate(source, run, boxes)


@app.command
def segment(source: Sources, run: SegmentOptions = SEGMENTS) -> int:
    """Label every pixel: an annotated NAME.mp4, NAME.json, and label maps NAME/000000.png … for every video."""
    from keywarp.annotate import annotate

    return annotate(source, run)


@app.command
def demo(
    *,
    output: Annotated[Path, Parameter(help="folder of the results")] = Path("out"),
    overwrite: Annotated[bool, Parameter(help="replace results that exist")] = False,
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto",
) -> int:
    """Run the model that ships on the clip that ships: per frame and as two video methods, side by side."""
    from keywarp.demo import demo

    return demo(output, overwrite=overwrite, device=device)


@app.command
def evaluate(dataset: str, options: EvaluateOptions = EVALUATION) -> None:
    """Measure a model, or stored detections, on annotated videos: a table, curves, the worst frames, a report.

    DATASET is FOLDER or FOLDER:SPLIT, by default its split val. Ctrl-C keeps what is done; --resume goes on.
    """
    from keywarp.evaluate import evaluate

    evaluate(dataset, options)


@app.command
def compare(
    evaluation: list[Path], *, output: Annotated[Path | None, Parameter(help="also as an HTML page")] = None
) -> None:
    """Show evaluations side by side, with their differences to the first."""
    from keywarp.compare import compare

    compare(evaluation, output)


@app.command
def postprocess(
    file: Path,
    *,
    output: Path,
    method: Annotated[str, Parameter(help="seq-nms+ or seq-nms")] = "seq-nms+",
    rescore: Annotated[str | None, Parameter(help="of seq-nms: mean or max of a path's scores; default mean")] = None,
    overwrite: Annotated[bool, Parameter(help="replace --output if it is there")] = False,
) -> None:
    """Link a video's boxes over time and rescore them: of a file of `detect`, or anybody's COCO results list.

    It works best on boxes down to a score of 0.01: `keywarp detect … --threshold 0.01`.
    """
    from keywarp.postprocess.command import postprocess

    postprocess(file, method=method, rescore=rescore, output=output, overwrite=overwrite)


@app.command
def tradeoff(dataset: str, options: TradeoffOptions = TRADEOFF) -> None:
    """Draw accuracy against speed: models at several intervals, window radii or γ, measured side by side.

    What is decided in training (λ, d, the flow network) is compared by giving several weight files.
    """
    from keywarp.tradeoff import tradeoff

    tradeoff(dataset, options)


@app.command
def train(method: str, options: TrainOptions) -> None:
    """Train a method on annotated videos: a weight file that `detect` takes, checkpoints and a log.

    Under `torchrun --nproc-per-node N -m keywarp train …` on several GPUs or machines.
    """
    from keywarp.training.train import train

    train(method, options)


@app.command
def train_flow(network: str, options: TrainFlowOptions) -> None:
    """Train a flow network on pairs with exact flow, for the option --init-flow of `train`.

    Networks: flownet-s, flownet-half, flownet-inception, flownet-c, flownet-tiny, flownet-matching.
    """
    from keywarp.training.train_flow import train_flow

    train_flow(network, options)


@models.default
@models.command(name="list")
def list_models(*, json: Annotated[bool, Parameter(help="as JSON")] = False) -> None:
    """List methods and variants with what they cost; what `keywarp models` alone does."""
    from keywarp.listing import print_models

    print_models(json)


@models.command
def show(
    model: Annotated[str, Parameter(help="a weight file, demo, or a pulled model's name")],
    *,
    json: Annotated[bool, Parameter(help="as JSON")] = False,
) -> None:
    """Show what a weight file says of its model: method, classes, training, metrics, SHA-256."""
    from keywarp.listing import show_model

    show_model(model, json)


@models.command(name="pull")
def pull_model(
    address: str,
    *,
    name: Annotated[str | None, Parameter(help="for --model; default: the file's or the repository's")] = None,
    sha256: Annotated[str | None, Parameter(help="what the file must have")] = None,
) -> None:
    """Download a weight file: https://…, or owner/repo or owner/repo/FILE.safetensors on the Hugging Face Hub."""
    from keywarp import listing

    listing.pull_model(address, name, sha256)


@models.command(name="push")
def push_model(
    file: Path, address: str, *, private: Annotated[bool, Parameter(help="if the repository is made now")] = False
) -> None:
    """Publish a weight file: to owner/repo on the Hugging Face Hub with a README.md, or by PUT to https://…."""
    from keywarp import listing

    listing.push_model(file, address, private)


@app.command
def explain(
    method: str,
    *,
    interval: Annotated[int | None, Parameter(help="a key frame every so many frames")] = None,
    radius: Annotated[int | None, Parameter(help="of methods with a window")] = None,
    frames: Annotated[int, Parameter(help="how many to plan")] = 25,
    svg: Annotated[Path | None, Parameter(help="also draw it into this file")] = None,
) -> None:
    """Show a method's plan: which frames are key frames, what refers to what, when each result is out."""
    from keywarp import explain as explaining

    explaining.explain(method, interval=interval, radius=radius, frames=frames, svg=svg)


@app.command
def visualize(video: str, options: VisualizeOptions = LOOK) -> int:
    """Show what happens inside a method, or two models side by side: NAME.mp4 of panels, PNGs of some frames."""
    from keywarp.insight.command import visualize

    return visualize(video, options)


@speed.default
def benchmark(
    video: str | None = None,
    *,
    size: Annotated[str | None, Parameter(help="HxW, e.g. 600x1000: a synthetic moving picture, no video")] = None,
    methods: Annotated[
        tuple[str, ...],
        LIST,
        Parameter(name=("--methods", "--models"), help="methods, or names and files as for --model"),
    ] = ("dff",),
    flows: Annotated[
        tuple[str, ...],
        LIST,
        Parameter(help="flownet-s, flownet-half, flownet-inception; dis, codec, raft"),
    ] = ("flownet-s", "flownet-half", "flownet-inception"),
    intervals: Annotated[
        tuple[int, ...],
        LIST,
        Parameter(help="a key frame every so many frames; 1, every frame, is always measured"),
    ] = (10, 20),
    radii: Annotated[tuple[int, ...], LIST, Parameter(help="window methods gather from so many each side")] = (2, 4),
    backbone: Annotated[str, Parameter(help="of the methods")] = "resnet-101",
    rounds: Annotated[int, Parameter(help="each candidate runs once a round; medians are reported")] = 3,
    threads: Annotated[int, Parameter(help="1: CPU time is measured; more: wall time")] = 1,
    batch: Annotated[int, Parameter(help="non-key frames computed together; 1 = live")] = 8,
    device: str = "auto",
    keep_memory: Annotated[bool, Parameter(help="keep freed memory: faster on the CPU, with glibc")] = False,
    memory: Annotated[bool, Parameter(help="also each candidate's peak memory, in a process of its own")] = False,
    postprocess: Annotated[str | None, Parameter(help="seq-nms or seq-nms+, timed too")] = None,
    output: Annotated[Path | None, Parameter(help="also write the figures to this JSON file")] = None,
    plot: Annotated[Path | None, Parameter(help="also draw them, into a .png, .svg or .pdf file")] = None,
) -> None:
    """Measure how much faster key frames make a model, interleaved with the same model on every frame.

    VIDEO or --size says on what. Lists take commas as well as spaces: --intervals 2,5,10.
    """
    from keywarp import benchmark as measuring

    measuring.benchmark(
        video,
        size=size,
        methods=methods,
        flows=flows,
        intervals=intervals,
        radii=radii,
        backbone=backbone,
        rounds=rounds,
        threads=threads,
        batch=batch,
        device=device,
        keep_memory=keep_memory,
        memory=memory,
        postprocess=postprocess,
        output=output,
        plot=plot,
    )


@speed.command(name="data")
def benchmark_data(
    dataset: str,
    *,
    method: str = "dff",
    recipe: Annotated[str | None, Parameter(help="as of `train`")] = "synthetic",
    workers: Annotated[tuple[int, ...], Parameter(help="processes that read data", consume_multiple=True)] = (0, 1, 2),
    steps: Annotated[int, Parameter(help="of each measurement")] = 20,
    rounds: Annotated[int, Parameter(help="each count of workers is measured once a round")] = 3,
    threads: Annotated[int, Parameter(help="of the networks on the CPU")] = 1,
    output: Annotated[Path | None, Parameter(help="also write the figures to this JSON file")] = None,
) -> None:
    """Measure how fast training clips are read, and the share of time that training waits for them."""
    from keywarp.training import data_speed

    data_speed.benchmark_data(
        dataset,
        method=method,
        recipe_name=recipe,
        workers=workers,
        steps=steps,
        rounds=rounds,
        threads=threads,
        output=output,
    )


@speed.command(name="postprocess")
def benchmark_postprocess(
    *,
    frames: Annotated[int, Parameter(help="of the video")] = 1000,
    boxes: Annotated[int, Parameter(help="proposals of a frame, each with a score for every class")] = 300,
    classes: int = 30,
    score: Annotated[float, Parameter(help="what lies above takes part")] = 0.01,
    seed: Annotated[int, Parameter(help="the same seed makes the same boxes")] = 0,
    rounds: Annotated[int, Parameter(help="each method runs once a round; medians are reported")] = 3,
    output: Annotated[Path | None, Parameter(help="also write the figures to this JSON file")] = None,
) -> None:
    """Measure how fast Seq-NMS+ and Seq-NMS link the boxes of a video, on random moving objects."""
    from keywarp.benchmarking import postprocessing

    postprocessing.benchmark_postprocess(
        frames=frames, boxes=boxes, classes=classes, score=score, seed=seed, rounds=rounds, output=output
    )


@data.command
def synthesize(
    output: Path,
    *,
    size: Annotated[str, Parameter(help="tiny (seconds), small (minutes) or full")] = "small",
    seed: Annotated[int, Parameter(help="the same seed makes the same videos")] = 0,
    flow: Annotated[bool, Parameter(help="also the exact flow of every frame to the one before")] = False,
    masks: Annotated[bool, Parameter(help="also the class of every pixel, for segmentation")] = False,
    font: Annotated[Path | None, Parameter(help="a colour emoji font; default: the system's")] = None,
    workers: Annotated[int | None, Parameter(help="processes; default: the machine's cores")] = None,
) -> None:
    """Make a synthetic video benchmark: ImageNet VID's 30 classes as moving pictures, with exact boxes and tracks."""
    from keywarp.data.synthesize import synthesize

    synthesize(output, size=size, seed=seed, flow=flow, masks=masks, font=font, workers=workers)


@data.command(name="synthesize-pairs")
def synthesize_pairs(
    output: Path,
    *,
    pairs: Annotated[int, Parameter(help="how many; every tenth is held out")] = 2000,
    seed: int = 0,
    size: Annotated[tuple[int, int] | None, Parameter(help="height and width in pixels; default: 192 256")] = None,
    apart: Annotated[
        int | None, Parameter(help="frames of clips as of the benchmark, 1 to so many apart; default: things at random")
    ] = None,
    objects: Annotated[float, Parameter(help="share of the pairs in which only the motion of things is known")] = 0.0,
    font: Annotated[Path | None, Parameter(help="a colour emoji font; default: the system's")] = None,
    workers: Annotated[int | None, Parameter(help="processes; default: the machine's cores")] = None,
) -> None:
    """Make frame pairs with exact flow, laid out like Flying Chairs, to pre-train flow networks on."""
    from keywarp.data.synthesize import synthesize_pairs

    synthesize_pairs(
        output, pairs=pairs, seed=seed, size=size, apart=apart, objects=objects, font=font, workers=workers
    )


@data.command
def check(
    dataset: str,
    *,
    split: Annotated[str, Parameter(help="train, val, test; all: every one that is there")] = "all",
    sheet: Annotated[Path | None, Parameter(help="where the contact sheet goes")] = None,
    json: Annotated[bool, Parameter(help="as JSON")] = False,
) -> int:
    """Look a data set through: counts, broken files, wrong boxes, missing frames, classes, and a contact sheet."""
    from keywarp.data.checking import check

    return check(dataset, split=split, sheet=sheet, as_json=json)


@data.command
def convert(
    dataset: str,
    output: Path,
    *,
    to: Annotated[str, Parameter(help="coco-vid, youtube-vis, mot, csv or imagenet-vid")] = "coco-vid",
    split: Annotated[str, Parameter(help="train, val, test; all: every one that is there")] = "all",
) -> None:
    """Write a data set in another format; videos are not touched, their paths are kept or linked to."""
    from keywarp.data.converting import convert

    convert(dataset, output, to=to, split=split)


@data.command
def motion(
    address: str,
    *,
    split: Annotated[str, Parameter(help="train, val, test; all: every one that is there")] = "all",
    json: Annotated[bool, Parameter(help="as JSON")] = False,
) -> None:
    """Show the shares of slow, medium and fast objects: of a data set with tracks, or of ImageNet VID's .mat file."""
    from keywarp.evaluation.motion_file import show_motion

    show_motion(address, split=split, as_json=json)


@app.command
def doctor() -> None:
    """Show what this installation can do: versions, devices, codecs, speed."""
    from keywarp.doctor import examine

    examine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. 0: done, 1: failed midway, 2: a mistake in what was asked, 130: interrupted.

    A failure is one line on standard error. KEYWARP_DEBUG=1 shows the traceback of an unexpected one.
    """
    # OpenMP's threads wait by spinning: beside other work on the machine that takes twenty times as long. It is read
    # when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with terminable():
            return app(arguments, exit_on_error=False, print_error=False) or 0
    except (CycloptsError, UserError) as error:
        return _fail(str(error), 2)
    except InterruptedWorkError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of standard output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("KEYWARP_DEBUG"):
            raise
        if isinstance(error, WRONG_PATH) and error.filename is not None:
            return _fail(f"cannot read or write {error.filename}: {error.strerror}; check the path and its rights", 2)
        hint = "(run with KEYWARP_DEBUG=1 for the traceback)"
        return _fail(f"unexpected {type(error).__name__}: {error} {hint}", 1)


def _fail(message: str, code: int) -> int:
    print(f"keywarp: {' '.join(message.split())}", file=sys.stderr)
    return code
