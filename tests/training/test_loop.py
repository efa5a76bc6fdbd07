"""The loop: resumed and parallel runs give what unbroken and single ones give; what goes wrong is survived or told."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keywarp.errors import InterruptedWorkError, UserError
from keywarp.methods import METHODS
from keywarp.networks.resnet import freeze
from keywarp.training.checkpoints import read_checkpoint
from keywarp.training.clips import TrainingClips, collate
from keywarp.training.config import TrainConfig
from keywarp.training.loop import Run, build_optimiser, fit
from keywarp.training.tasks import VideoTask
from test_papers import TINY, tiny_flow
from training.toy import toy

CONFIG = TrainConfig(
    steps=8, images_per_step=2, rate_per_image=1e-3, save_every=3, validate_every=100, drops=(6,), warmup=2, ema=0.5
)
OPTIONS = TINY | {"anchor_scales": (1, 1.5, 2), "bins": 3}


def run_of(folder, config=CONFIG, method="dff", data=None, workers=0, **more) -> Run:
    torch.manual_seed(config.seed)
    model = METHODS[method](**(OPTIONS | tiny_flow(method, {})))
    if config.frozen_norms:
        freeze(model, stages=0)
    saved = folder / "saved"
    saved.mkdir(parents=True, exist_ok=True)

    def save(network, name, measures, step):
        torch.save(network.state_dict(), saved / f"{name}.pt")

    data = [toy()] if data is None else data
    clips = TrainingClips(data, model.training_plan, model.transform, config)
    return Run(VideoTask(model.train()), clips, collate, config, folder, save, workers=workers, **more)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(folder) if "loss" in row}


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "saved" / "model.pt", weights_only=True)


def test_a_resumed_run_is_the_unbroken_one(tmp_path):
    fit(run_of(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    broken = run_of(tmp_path / "broken")
    original = broken.samples.__class__.__getitem__

    def until(self, n):
        if n >= 10:  # in step 6; the last checkpoint is of step 3
            raise StoppedError
        return original(self, n)

    broken.samples.__class__ = type("Broken", (TrainingClips,), {"__getitem__": until})
    with pytest.raises(StoppedError):
        fit(broken)
    assert max(losses(tmp_path / "broken")) == 5
    fit(run_of(tmp_path / "broken", resume=True))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_course_of_the_learning_rate(tmp_path):
    fit(run_of(tmp_path))
    rates = [row["rate"] for row in rows(tmp_path) if "rate" in row]
    full = 2 * 1e-3
    assert rates == pytest.approx([0.1 * full, 0.55 * full, *[full] * 4, full / 10, full / 10])


def test_a_resume_with_other_settings_is_refused(tmp_path):
    fit(run_of(tmp_path, replace(CONFIG, steps=1)))
    with pytest.raises(UserError, match=r"--resume: the run was started with weight_decay 0.0005 \(now 0.1\)"):
        fit(run_of(tmp_path, replace(CONFIG, steps=1, weight_decay=0.1), resume=True))


def test_a_loss_that_is_no_number_names_the_clip(tmp_path):
    run = run_of(tmp_path)
    with torch.no_grad():
        run.task.network.head.score_maps.cls.bias.fill_(float("nan"))
    with pytest.raises(InterruptedWorkError, match=r"loss cls is not a number at step 0, on toy-\d frame \d+, toy-"):
        fit(run)


def test_unreadable_frames_cost_their_clip_and_a_warning(tmp_path, capsys):
    fit(run_of(tmp_path, data=[toy(broken=(3, 4, 5))]))
    assert max(losses(tmp_path)) == CONFIG.steps
    assert "warning: toy-" in capsys.readouterr().err
    assert any("is broken; another clip is taken" in row.get("warning", "") for row in rows(tmp_path))


def test_a_full_disk_costs_the_checkpoint_and_a_warning(tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keywarp.training.loop.write_checkpoint", full)
    fit(run_of(tmp_path))
    assert "warning: checkpoint could not be written (No space left on device); training goes on" in (
        capsys.readouterr().err
    )
    assert max(losses(tmp_path)) == CONFIG.steps


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path):
    values = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    run = run_of(
        tmp_path, replace(CONFIG, validate_every=1, patience=2), validate=lambda network: {"mAP": next(values)}
    )
    progress = fit(run)
    assert (progress.step, progress.best, progress.stale) == (4, 0.5, 2)
    best, last = torch.load(tmp_path / "saved" / "best.pt", weights_only=True), weights(tmp_path)
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert fit(replace(run, resume=True)) == progress  # it stays over


def test_a_validation_that_was_interrupted_is_done_on_resuming(tmp_path):
    def interrupted(network):
        raise KeyboardInterrupt

    run = run_of(tmp_path, replace(CONFIG, validate_every=2), validate=interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    values = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    progress = fit(replace(run, resume=True, validate=lambda network: {"mAP": next(values)}))
    steps = [row["step"] for row in rows(tmp_path) if "validation" in row]
    assert steps == [s for s in range(1, CONFIG.steps + 1) if s % 2 == 0 or s == CONFIG.steps]
    assert progress.measures["mAP"] == [0.2, 0.5, 0.4, 0.3, 0.9][len(steps) - 1]


def test_accumulated_parts_add_up_to_the_whole(tmp_path):
    # So few anchors that all take part: nothing is drawn.
    config = replace(CONFIG, images_per_step=4, zoom=(1.0, 1.0), ema=0.0)
    fit(run_of(tmp_path / "whole", config))
    fit(run_of(tmp_path / "parts", replace(config, accumulate=4)))
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert [parts[s] for s in whole] == pytest.approx(list(whole.values()), rel=2e-3)


def test_bfloat16_trains(tmp_path):
    fit(run_of(tmp_path, replace(CONFIG, precision="bf16", steps=2)))
    assert all(value == value for value in losses(tmp_path).values())


def test_parameter_groups():
    model = METHODS["dff"](**(OPTIONS | tiny_flow("dff", {})))
    model.head.requires_grad_(False)
    config = replace(CONFIG, rates={"feature_network.": 0.1, "feature_network.layer4.": 0.5})
    groups = build_optimiser(VideoTask(model), config).param_groups
    found = {(g["share"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(found.values()) == sum(p.numel() for p in trained)
    assert {share for share, _ in found} == {0.1, 0.5, 1.0}
    vectors = sum(p.numel() for p in trained if p.ndim < 2)
    assert sum(size for (_, decay), size in found.items() if decay == 0) == vectors


def test_rates_go_by_the_beginning_of_a_name_and_by_what_occurs_in_it():
    config = replace(CONFIG, rates={"feature_network.": 0.1, "feature_network.layer4.": 0.5, ".offset.": 0.01})
    assert config.share("head.cls.weight") == 1
    assert config.share("feature_network.layer3.weight") == 0.1
    assert config.share("feature_network.layer4.2.conv2.offset.weight") == pytest.approx(0.005)
    assert config.share("head.offset.bias") == 0.01
    names = [name for name, _ in METHODS["iff-f"](**(OPTIONS | {"backbone": "resnet-18"})).named_parameters()]
    assert sum(".offset." in name for name in names) == 6


def test_nothing_to_train_is_told():
    model = METHODS["dff"](**(OPTIONS | tiny_flow("dff", {}))).requires_grad_(False)
    with pytest.raises(UserError, match="nothing trains"):
        build_optimiser(VideoTask(model), CONFIG)


def test_stills_teach_a_model_with_fixed_networks_nothing(tmp_path):
    config = replace(CONFIG, steps=2, ema=0.0)
    run = run_of(tmp_path, config, "dff-fix-n", [toy(length=1, first=0)])
    before = {name: p.clone() for name, p in run.task.network.named_parameters()}
    fit(run)
    assert max(losses(tmp_path)) == 2
    after = dict(run.task.network.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("aligner."))


SCRIPT = """
import sys, torch
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from training.test_loop import CONFIG, run_of
from keywarp.training.loop import fit
from keywarp.training.processes import Processes
torch.set_num_threads(1)
config = replace(CONFIG, images_per_step=4, steps={steps}, ema=0.0, save_every=2)
fit(run_of(Path({folder!r}), config, processes=Processes("cpu"), resume={resume}, workers={workers}))
"""


def script(folder: Path, *, steps: int = 6, resume: bool = False, workers: int = 0) -> Path:
    path = folder.with_suffix(".py")
    tests = str(Path(__file__).parents[1])
    path.write_text(SCRIPT.format(tests=tests, folder=str(folder), steps=steps, resume=resume, workers=workers))
    return path


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = subprocess.run(
        [*launch, script(tmp_path / "two")], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert two.returncode == 0, two.stderr[-2000:]
    subprocess.run([sys.executable, script(tmp_path / "one")], check=True, capture_output=True, env=ENVIRONMENT)
    one = losses(tmp_path / "one")
    assert list(losses(tmp_path / "two").values()) == pytest.approx(list(one.values()), rel=2e-3)


def test_it_trains_outside_the_main_thread(tmp_path):
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(fit(run_of(tmp_path, replace(CONFIG, steps=2, drops=()))).step)
    )
    thread.start()
    thread.join()
    assert ended == [2]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_weights(how, tmp_path):
    subprocess.run([sys.executable, script(tmp_path / "whole", steps=12)], check=True, env=ENVIRONMENT)
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, script(folder, steps=12)], env=ENVIRONMENT)
    deadline = time.time() + 120
    while not (folder / "last.ckpt").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, how)
    child.wait()
    assert not (folder / "saved" / "model.pt").exists()
    subprocess.run([sys.executable, script(folder, steps=12, resume=True)], check=True, env=ENVIRONMENT)
    assert losses(folder) == losses(tmp_path / "whole")
    whole, resumed = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def stopped(run, step, times=1):
    """Fit a run to which Ctrl-C comes in the middle of a step, so many times."""
    forward, steps = run.task.forward, iter(range(10**6))

    def interrupted(batch):
        found = forward(batch)
        if next(steps) == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return found

    run.task.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        fit(run)


@pytest.mark.parametrize(("times", "kept"), [(1, 5), (2, 3)])
def test_ctrl_c_in_a_step_lets_it_end_and_at_once_where_it_comes_twice(times, kept, tmp_path):
    config = replace(CONFIG, frozen_norms=False)
    fit(run_of(tmp_path / "whole", config))
    stopped(run_of(tmp_path / "cut", config), 4, times)
    assert read_checkpoint(tmp_path / "cut" / "last.ckpt").progress["step"] == kept
    fit(run_of(tmp_path / "cut", config, resume=True))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_sigterm_to_the_whole_job_is_an_interruption(tmp_path):
    file = script(tmp_path / "job", steps=1000, workers=1)
    child = subprocess.Popen(
        [sys.executable, file],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.time() + 120
    while not (tmp_path / "job" / "last.ckpt").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGTERM)
    said, _ = child.communicate(timeout=60)
    assert "interrupted at step" in said
    assert "DataLoader worker" not in said


def test_what_stops_a_reading_process_is_one_line_and_ends_it(tmp_path):
    broken = toy(1, broken=tuple(range(12)))
    with pytest.raises(InterruptedWorkError, match=r"^\d+ training clips in a row are of no use: ") as error:
        fit(run_of(tmp_path, data=[broken], workers=1))
    assert "Traceback" not in str(error.value)
    assert not multiprocessing.active_children()
