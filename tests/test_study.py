"""recipes/study.py: its work is well-formed, goes on where it stopped, and its tables say what was measured."""

import json
import sys
import time
from dataclasses import replace

import pytest
import torch

from keywarp.cli import app
from keywarp.errors import UserError
from keywarp.loading import load, options_of
from keywarp.methods import METHODS, impression
from keywarp.networks.weight_files import save_model
from keywarp.training.recipes import recipe
from recipe_files import recipe_module

study = recipe_module("study")
study_rows, study_running, study_tables, study_trainings, study_work = (
    recipe_module(f"study_{part}") for part in ("rows", "running", "tables", "trainings", "work")
)


def evaluation(folder, **percent):
    """An evaluation's figures, on disk."""
    rows = [
        {"name": name, "measures": {"mAP": value / 100, "mAP fast": value / 200, "delay": 7.0, "mAP slow": None}}
        for name, value in percent.items()
    ]
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps({"rows": rows}))


@pytest.fixture
def whole(tmp_path):
    return study_work.Study(tmp_path, study_work.Budget())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_command_is_one_of_keywarp(tmp_path, device):
    whole = study_work.Study(tmp_path, study_work.Budget(), device=device)
    jobs = [*whole.jobs(), *whole.curves()]
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for number, job in enumerate(jobs):
        assert set(job.needs) <= set(names[:number]), job.name
        app.parse_args([str(word) for word in job.command], exit_on_error=False, print_error=False)


def test_every_row_is_measured_for_every_seed(whole):
    names = {job.name for job in whole.jobs()}
    rows = [row for group in study_rows.ROWS.values() for row in group]
    assert len({row.name for row in rows}) == len({row.folder for row in rows}) == len(rows)
    for row in rows:
        assert all(f"{seed} {row.name}, test" in names for seed in (0, 1, 2))
        assert row.training in study_trainings.TRAININGS
        assert not row.against or row.against in {other.name for other in rows}


def test_long_trainings_have_four_times_the_steps(tmp_path):
    for budget, steps in ((study_work.Budget(), 400), (study_work.QUICK, 4)):
        commands = {job.name: job.command for job in study_work.Study(tmp_path, budget).jobs()}
        for name, times in (("frame", 1), ("psla-c", 1), ("frame-long", 4), ("psla-c-long", 4)):
            words = commands[f"0 {name}"]
            assert words[words.index("--steps") + 1] == times * steps


def test_recipes_are_of_their_methods():
    others = [("iff-c", study_trainings.strong_residual), ("iff-c", study_trainings.strong_residual_fixed)]
    for method, function in [*study_trainings.TRAININGS.values(), *others]:
        assert method in METHODS
        config = recipe(f"{study_trainings.__file__}:{function.__name__}", method)
        assert config == function()
        special = set(config.model) - set(study_trainings.SMALL) - {"flow"}
        left_out = {"cosine"} if method.startswith("iff") else set()  # no attention, which `attention` is named after
        assert special - options_of(method) == left_out


def test_what_is_done_is_not_done_again_and_a_failure_keeps_what_needs_it(whole, capfd):
    jobs = [
        study_work.Job("good", ("--version",)),
        study_work.Job("bad", ("no-such-command",)),
        study_work.Job("after bad", ("--version",), ("bad",)),
        study_work.Job("after good", ("--version",), ("good",)),
    ]
    seen = []
    assert study_running.Runner(whole, 2).run(jobs, lambda: seen.append(1)) == ["bad", "after bad"]
    assert len(seen) == 2
    assert "bad failed" in capfd.readouterr().out
    again = study_running.Runner(whole, 1)
    assert again.run(jobs[:1] + jobs[3:], lambda: seen.append(1)) == []
    assert len(seen) == 2
    with pytest.raises(UserError, match=r"other settings \(good: --version, now --help\)"):
        again.run([study_work.Job("good", ("--help",))], lambda: None)
    trained = study_work.Job("trained", ("--version",), recipe={"steps": 4, "rates": {"head.": 1}})
    assert again.run([trained], lambda: None) == []
    with pytest.raises(UserError, match=r"other settings \(trained: steps 4, now steps 5\)"):
        again.run([replace(trained, recipe={"steps": 5, "rates": {"head.": 1}})], lambda: None)


def test_only_takes_what_is_needed_too(whole):
    names = [job.name for job in study_work.wanted(list(whole.jobs()), ["1 DFF, test"])]
    assert names == ["data", "pairs", "flow", "1 detector", "1 settled", "1 dff", "1 DFF, test"]
    assert [job.name for job in study_work.wanted(list(whole.curves()), ["1 DFF, test", "curve thp"])] == [
        "curve thp, seed 0"
    ]


def lines_of(table):
    """A table's lines by row."""
    return {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line[:1] == "|"}


def test_tables_tell_means_spreads_and_paired_differences(whole):
    rows = {row.name: row for group in study_rows.ROWS.values() for row in group}
    for seed, (base, own) in enumerate([(60.0, 58.0), (50.0, 49.0)]):
        evaluation(whole.results(rows["per frame"], seed), **{"none": base, "seq-nms": base + 1})
        evaluation(whole.results(rows["DFF"], seed), none=own)
    table = study_tables.tables([study_tables.results(whole)])
    lines = lines_of(table)
    assert "| 2 | 55.0 ± 7.1 | – | – | 27.5 ± 3.5 | 56.0 ± 7.1 | – |" in lines["per frame"]
    assert "| 53.5 ± 6.4 |" in lines["DFF"]
    assert "| per frame | -1.5 ± 0.7 | -0.8 ± 0.4 | -0.8 |" in lines["DFF"]
    assert "DFF fix N" not in lines
    assert "Not measured: SFF, DIS; SFF, codec motion; DFF fix N; " in table
    of_claims, of_rows = table.split("### Deep Feature Flow (004)")
    for part in (of_claims, of_rows):
        assert len({line.count("|") for line in lines_of(part).values()}) == 1
    assert "| 2 | -1.5 ± 0.7 | -0.8 | 004, Table 4 | yes, beyond the spread |" in lines["DFF − per frame"]
    assert "| 2 | +1.0 ± 0.0 |" in lines["per frame with seq-nms − per frame"]
    assert "Not measured: FGFA − per frame; FGFA − per frame, fast objects; " in of_claims


@pytest.mark.parametrize(
    ("differences", "published", "told"),
    [
        ([1.0, 2.0, 3.0], "+2", "yes, beyond the spread"),
        ([0.0, 2.0, 1.0], "+, not published", "yes, within the spread"),
        ([-1.0, -2.0, -3.0], "+2", "no, beyond the spread"),
        ([-1.0, -2.0], "-0.8", "yes, beyond the spread"),
        ([0.5], "-0.8", "no, one seed"),
        ([0.0], "+2", "no difference"),
    ],
)
def test_a_claim_holds_by_sign_and_spread(differences, published, told):
    assert study_tables.verdict(differences, published) == told


def test_all_claims_are_of_rows():
    names = {row.name for group in study_rows.ROWS.values() for row in group}
    assert {name for claim in study_rows.CLAIMS for name in (claim.row, claim.other)} <= names
    assert all(claim.published[0] in "+-" for claim in study_rows.CLAIMS)
    ways = {way for claim in study_rows.CLAIMS for _, way in claim.sides}
    assert ways == set(study_rows.LINKINGS)


def test_seeds_of_earlier_calls_are_in_the_results_too(tmp_path):
    row = next(row for group in study_rows.ROWS.values() for row in group)
    for seed in (0, 2):
        evaluation(study_work.Study(tmp_path, study_work.Budget()).results(row, seed), none=50.0)
    later = study_work.Study(tmp_path, study_work.Budget(seeds=(1,)))
    assert set(study_tables.results(later)["rows"]["per frame"]) == {"0", "2"}
    assert later.first == 0
    earlier = study_work.Study(tmp_path, study_work.Budget(seeds=(0,)))
    assert [job.command for job in later.curves()] == [job.command for job in earlier.curves()]


def test_curves_stay_when_a_lower_seed_is_added(tmp_path):
    runs = [study_work.Study(tmp_path, study_work.Budget(seeds=seeds)) for seeds in ((1,), (0,))]
    for run in runs:
        study_running.Runner(run, 1).run(
            [replace(job, command=("--version",), prepare=print) for job in run.curves()], print
        )
    assert len(list((tmp_path / "done").iterdir())) == 2 * len(study_rows.CURVES)


def test_a_seed_that_is_named_twice_runs_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        study_running.Runner, "run", lambda self, jobs, _: seen.append([job.name for job in jobs]) or []
    )
    given = ("--quick", "--output", str(tmp_path), "--seeds", "0", "0", "--only", "0 per frame, test")
    monkeypatch.setattr(sys, "argv", ["study.py", *given])
    assert study.main() == 0
    assert seen[0] == ["data", "0 detector", "0 settled", "0 frame", "0 per frame, test"]


def test_an_interruption_ends_all_that_runs(whole):
    long = ("data", "synthesize-pairs", whole.folder / "pairs", "--pairs", 10**6)
    runner = study_running.Runner(whole, 2)

    def interrupt():
        while not (whole.folder / "pairs/data/00001_flow.flo").exists():
            time.sleep(0.1)
        raise KeyboardInterrupt

    processes = []
    monitor = runner.running
    with pytest.raises(KeyboardInterrupt):
        runner.run(
            [study_work.Job("short", ("--version",)), study_work.Job("long", long)],
            lambda: (processes.extend(monitor), interrupt()),
        )
    (process,) = processes
    assert process.returncode not in (None, 0)
    assert [path.name for path in (whole.folder / "done").iterdir()] == ["short.json"]


def test_seeds_of_another_recipe_are_not_added_to(tmp_path, capsys, monkeypatch):
    before = study_work.Study(tmp_path, study_work.QUICK)
    (job,) = (job for job in before.jobs() if job.name == "0 dff")
    (tmp_path / "seed0").mkdir()
    (tmp_path / "done").mkdir()
    about = {"command": [str(word) for word in job.command], "recipe": {**job.recipe, "steps": 7}}
    (tmp_path / "done" / "0 dff.json").write_text(json.dumps(about))
    given = ("--quick", "--output", str(tmp_path), "--seeds", "1", "--only", "1 per frame, test")
    monkeypatch.setattr(sys, "argv", ["study.py", *given])
    assert study.main() == 2
    assert "a study with other settings (0 dff: steps 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--jobs", "0"), "--jobs must be at least 1"),
        (("--backbone", "none.pt"), "no file none.pt"),
        (("--device", "auto"), "--device must be cpu or cuda, got auto"),
        (("--seeds", "0", "-1"), "--seeds must be 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_told_before_any_work(tmp_path, capsys, monkeypatch, given, told):
    monkeypatch.setattr(sys, "argv", ["study.py", "--output", str(tmp_path / "study"), *given])
    with pytest.raises(SystemExit, match="2"):
        study.main()
    assert told in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_the_speeds_are_measured_again_when_more_is_trained(whole):
    for name in ("frame", "dff"):
        file = whole.weights(name, 0)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        assert study_running.speeds_are_old(whole)
        rows = [row.name for row in study_running.timed_rows(whole)]
        (whole.folder / "speed.json").write_text(json.dumps({"milliseconds": dict.fromkeys(rows, 1.0)}))
        assert not study_running.speeds_are_old(whole)
    assert "DFF" in rows


def test_a_row_runs_from_nothing_without_a_network(tmp_path, capsys, monkeypatch):
    given = ("--quick", "--output", str(tmp_path), "--jobs", "1", "--only", "0 per frame, test")
    monkeypatch.setattr(sys, "argv", ["study.py", *given])
    assert study.main() == 0, capsys.readouterr().out
    assert "[5/5] 0 per frame, test" in capsys.readouterr().out
    known = json.loads((tmp_path / "results.json").read_text())
    assert known["rows"]["per frame"]["0"].keys() == set(study_rows.LINKINGS)
    assert "| per frame | 1 | " in (tmp_path / "tables.md").read_text()


def test_tables_of_runs_together_pair_within_each(tmp_path, capsys, monkeypatch):
    rows = {row.name: row for group in study_rows.ROWS.values() for row in group}
    files = []
    for name, figures in {"a": {"per frame": 60.0, "DFF": 58.0}, "b": {"per frame": 40.0, "FGFA": 41.0}}.items():
        run = study_work.Study(tmp_path / name, study_work.Budget(seeds=(0,)))
        for row, value in figures.items():
            evaluation(run.results(rows[row], 0), none=value)
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(study_tables.results(run)))
    monkeypatch.setattr(sys, "argv", ["study.py", "--tables", *map(str, files)])
    assert study.main() == 0
    lines = lines_of(capsys.readouterr().out)
    assert "| 50.0 ± 14.1 |" in lines["per frame"]
    assert "| per frame | -2.0 |" in lines["DFF"]
    assert "| per frame | +1.0 |" in lines["FGFA"]


def test_the_results_tell_what_the_work_took(whole, tmp_path):
    runner = study_running.Runner(whole, 1)
    for name, words, hours in [
        ("data", ["data", "synthesize", "there", "--size", "full"], 0.5),
        ("0 detector", ["train", "rfcn"], 1.0),
        ("0 frame", ["train", "rfcn"], 0.25),
    ]:
        done = runner.done(study_work.Job(name, ()))
        done.parent.mkdir(exist_ok=True)
        done.write_text(json.dumps({"command": words, "seconds": 3600 * hours}))
    known = study_tables.results(whole)
    assert known["work"] == {
        "data synthesize": {"pieces": 1, "hours": 0.5},
        "train": {"pieces": 2, "hours": 1.25},
    }
    told = "Hours (pieces of work): train 1.2 (2), data synthesize 0.5 (1); 1.8 in all."
    assert told in study_tables.tables([known])
    del known["work"]  # as results of before it was kept
    assert "Hours" not in study_tables.tables([known])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [], "speed": {}}', '{"rows": {"DFF": 1}, "speed": {}}'])
def test_what_is_no_results_file_is_told(tmp_path, capsys, monkeypatch, text):
    (tmp_path / "other.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["study.py", "--tables", str(tmp_path / "other.json")])
    assert study.main() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"study: {tmp_path / 'other.json'} is no")
    assert told.count("\n") == 1


def test_a_run_is_given_once(tmp_path):
    row = next(row for group in study_rows.ROWS.values() for row in group)
    run = study_work.Study(tmp_path, study_work.Budget(seeds=(0,)))
    evaluation(run.results(row, 0), none=50.0)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text(json.dumps(study_tables.results(run)))
    with pytest.raises(UserError, match="hold the same results; give each run once"):
        study_tables.read_results(files)


def test_runs_from_other_imagenet_weights_share_no_table(tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    (tmp_path / "backbone.pth").write_bytes(b"weights")
    for file, backbone in zip(files, ("imagenet", str(tmp_path / "backbone.pth")), strict=True):
        file.write_text(json.dumps(study_tables.results(study_work.Study(tmp_path, study_work.Budget(), backbone))))
    with pytest.raises(UserError, match="runs of one backbone"):
        study_tables.read_results(files)


def test_runs_of_two_budgets_share_no_table(tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, steps in zip(files, (400, 800), strict=True):
        file.write_text(json.dumps(study_tables.results(study_work.Study(tmp_path, study_work.Budget(steps=steps)))))
    with pytest.raises(UserError, match="runs of one budget"):
        study_tables.read_results(files)


def test_runs_of_two_protocols_share_no_row(tmp_path):
    known = study_tables.results(study_work.Study(tmp_path, study_work.Budget()))
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for file, protocols in zip(files, ({"DFF": "1", "FGFA": "1"}, {"DFF": "1"}, {"FGFA": "2"}), strict=True):
        file.write_text(json.dumps(known | {"protocols": protocols}))
    assert len(study_tables.read_results(files[:2])) == 2
    with pytest.raises(UserError, match=r"one protocol; in .*c\.json FGFA was trained otherwise"):
        study_tables.read_results(files)


def test_a_protocol_is_of_the_recipe_and_what_it_starts_from(whole, monkeypatch):
    rows = {row.name: row for group in study_rows.ROWS.values() for row in group}
    before = {name: whole.protocol(rows[name]) for name in ("DFF", "PSLA c")}
    assert len(set(before.values())) == 2
    monkeypatch.setitem(study_trainings.TRAININGS, "dff", ("dff", study_trainings.settled))
    assert whole.protocol(rows["DFF"]) != before["DFF"]
    assert whole.protocol(rows["PSLA c"]) == before["PSLA c"]
    monkeypatch.setitem(study_trainings.TRAININGS, "settled", ("rfcn", study_trainings.video))
    assert whole.protocol(rows["PSLA c"]) != before["PSLA c"]
    gate = rows["Impression d, g = 0"]
    assert whole.protocol(gate) != whole.protocol(replace(gate, arguments={"gate": 0.1}))
    assert whole.protocol(rows["THP c1"]) != whole.protocol(replace(rows["THP c1"], method="thp-c2"))


def test_the_same_weights_under_another_description(tmp_path):
    torch.manual_seed(0)
    model = impression("resnet-tiny", flow="flownet-tiny", num_classes=3, shorter=64, longer=96)
    save_model(tmp_path / "d.safetensors", model, model.description | {"classes": ["a", "b", "c"]})
    study_work.described(tmp_path / "d.safetensors", tmp_path / "new/g0.safetensors", None, {"gate": 0.0})
    assert load(tmp_path / "d.safetensors", device="cpu").memory_gate == 1
    assert load(tmp_path / "new/g0.safetensors", device="cpu").memory_gate == 0
