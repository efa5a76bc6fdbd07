"""Does each idea help, as its paper says? Trains and measures every row of docs/study.md, and writes the tables.

    python recipes/study.py --output study [--quick] [--jobs 2] [--backbone FILE] [--device cuda] [--seeds 0 1 2]
    python recipes/study.py --tables RESULTS.json …

Every piece of work is a `keywarp` command, whose output is in OUTPUT/logs; what is done is not done again, so the same
command goes on after an interruption. `results.json` and, made of it, `tables.md` are written anew after each piece,
with what is known by then; --tables makes them of the results of several runs together.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from keywarp.errors import UserError
from keywarp.files import write_atomically
from study_running import Runner, measure_speed, speeds_are_old
from study_tables import read_results, results, tables
from study_work import QUICK, Budget, Study, wanted


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


if __name__ == "__main__":
    raise SystemExit(main())
