"""Does the study's work, some pieces at a time, and measures speeds after it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import cv2
import torch

from keywarp.benchmarking.timing import clock_for
from keywarp.data.reading import open_dataset
from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.evaluation.results_files import class_map
from keywarp.files import write_atomically
from keywarp.listing import parameters_mi
from keywarp.loading import load
from keywarp.oracle import scheduled_by_truth
from keywarp.running import detect_video
from study_rows import ROWS, Row
from study_work import Job, Study


class Runner:
    """Does jobs, `count` at a time; those that are done leave a file and are not done again."""

    def __init__(self, study: Study, count: int) -> None:
        self.study, self.count = study, count
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def done(self, job: Job) -> Path:
        """The file that tells that it is done."""
        return self.study.done / f"{job.name}.json"

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
    rows = (row for group in ROWS.values() for row in group)
    return [row for row in rows if study.weights(row.training, study.first).exists()]


def measure_speed(study: Study, rounds: int = 3) -> None:
    """Milliseconds a frame of every trained row on one clip of test: all rows in turn, `rounds` times, CPU time of one
    thread or the GPU's wall time; the median. An oracle's key frames are known before. Kept in OUTPUT/speed.json."""
    seed = study.first
    test = open_dataset(study.data, "test")
    video = test.videos[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clock, reads = clock_for(torch.device(study.device), threads=1)
    models = {}
    for row in timed_rows(study):
        study.describe(row, seed)
        model = load(study.model(row, seed), device=study.device, **study.options(row))
        if row.oracle:
            model = scheduled_by_truth(model, video, class_map(model.classes, test, {}))
        models[row.name] = model
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
