"""Accuracy against speed: which candidates there are, what is measured of them, and going on after a stop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from keywarp import tradeoff as trading
from keywarp.errors import UserError
from keywarp.evaluate import evaluate
from keywarp.evaluation.results_files import load
from keywarp.methods import METHODS
from keywarp.networks.weight_files import save_model
from keywarp.options import EvaluateOptions, TradeoffOptions
from keywarp.tradeoff import candidates, tradeoff
from keywarp.tradeoff_plot import ORACLE, PER_FRAME
from test_papers import tiny_flow
from toy_files import CLASSES, write_toy

NETWORK = {
    "backbone": "resnet-tiny",
    "shorter": 64,
    "longer": 96,
    "num_classes": 3,
    "anchor_scales": (2, 3, 4),
    "bins": 3,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy", videos=2, length=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weight files of tiny untrained models by method."""
    folder = tmp_path_factory.mktemp("weights")

    def weights(method):
        torch.manual_seed(0)
        path = folder / f"{method}.safetensors"
        if not path.exists():
            model = METHODS[method](**(NETWORK | tiny_flow(method, {})), classes=CLASSES)
            save_model(path, model, model.description | {"classes": CLASSES})
        return str(path)

    return weights


def options(folder, *models, **given):
    return TradeoffOptions(
        **({"models": models, "intervals": (1, 2, 4), "radii": (1,), "gammas": (0.1, 0.9), "output": folder} | given)
    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rfcn", []),
        ("dff", [("l=2", 2), ("l=4", 4)]),
        ("fgfa", [("r=1", 1)]),
        ("thp-c2", [("l=2", 2), ("l=4", 4)]),
        ("thp-c3", [("γ=0.1", 0.1), ("γ=0.9", 0.9)]),
        ("psla-c", [("l=2", 2), ("l=4", 4)]),
    ],
)
def test_each_method_is_varied_in_what_it_has(weights, tmp_path, method, settings):
    entries = list(candidates(options(tmp_path, weights(method))))
    assert [(e.label, e.parameter) for e in entries] == [(PER_FRAME, 1), *settings]
    assert len({e.folder for e in entries}) == len(entries)
    for entry in entries[1:]:
        scheduler = entry.model.scheduler
        value = next(getattr(scheduler, name) for name in ("interval", "radius", "gamma") if hasattr(scheduler, name))
        assert value == entry.parameter
        # The weights are shared, not copied.
        assert entry.model.feature_network is entries[-1].model.feature_network


def test_the_oracle_is_for_methods_whose_key_frames_come_first(weights, tmp_path):
    def notes(method):
        return [e.note for e in candidates(options(tmp_path, weights(method), oracle=True))]

    assert notes("dff")[-1] == ORACLE
    assert notes("thp-c3")[-1] == ORACLE
    assert ORACLE not in notes("psla-c") + notes("fgfa") + notes("rfcn")


def test_points_tables_and_pictures(toy, weights, tmp_path, capsys):
    points = tradeoff(str(toy), options(tmp_path / "out", weights("dff"), oracle=True))
    document = json.loads((tmp_path / "out/tradeoff.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["dff per frame", "dff l=2", "dff l=4", "dff oracle"]
    shares = [row["key_frame_share"] for row in rows.values()]
    assert shares[:3] == [1, 0.6, 0.4]  # of clips of five frames
    assert 0.2 <= shares[3] <= 1
    assert rows["dff per frame"]["speedup"] == 1
    assert [(p.label, p.note) for p in points] == [
        (PER_FRAME, PER_FRAME),
        ("l=2", ""),
        ("l=4", ""),
        (ORACLE, ORACLE),
    ]
    assert all(p.speed_ms > 0 and 0 <= p.accuracy <= 1 for p in points)
    assert (tmp_path / "out/tradeoff.png").read_bytes()[:4] == b"\x89PNG"
    assert "l=4" in (tmp_path / "out/tradeoff.html").read_text()
    assert "dff l=4" in capsys.readouterr().out


def test_evaluate_s_oracle_is_the_tradeoff_s(toy, weights, tmp_path):
    tradeoff(str(toy), options(tmp_path / "out", weights("dff"), oracle=True))
    drawn = json.loads((tmp_path / "out/tradeoff.json").read_text())["rows"][-1]
    given = {"model": weights("dff"), "device": "cpu", "postprocess": ("none", "seq-nms")}
    none, linked = evaluate(str(toy), EvaluateOptions(**given, oracle=True, output=tmp_path / "oracle"))
    assert none.as_json()["measures"] == drawn["measures"]
    setting = json.loads((tmp_path / "oracle/evaluation.json").read_text())["setting"]
    assert setting["oracle"] is True
    assert linked.name == "seq-nms"
    with pytest.raises(UserError, match="oracle was True"):
        evaluate(str(toy), EvaluateOptions(**given, output=tmp_path / "oracle", resume=True))


def test_evaluate_s_oracle_is_refused_where_it_cannot_choose(toy, weights, tmp_path):
    for name in ("psla-c", "rfcn"):
        with pytest.raises(UserError, match="--oracle is for detectors that carry key frames"):
            evaluate(str(toy), EvaluateOptions(model=weights(name), device="cpu", oracle=True, output=tmp_path / "no"))
    with pytest.raises(UserError, match="--results runs none; leave it out"):
        evaluate(str(toy), EvaluateOptions(results=(tmp_path,), oracle=True, output=tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_going_on_keeps_what_is_measured(toy, weights, tmp_path, monkeypatch):
    given = options(tmp_path / "out", weights("dff"))
    whole = trading.detect_video
    calls = iter(range(99))

    def stops(*arguments, **options):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trading, "detect_video", stops)
        with pytest.raises(KeyboardInterrupt):
            tradeoff(str(toy), given)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert len(kept) == 2  # three runs before them warm up
    with pytest.raises(UserError, match="go on with --resume"):
        tradeoff(str(toy), given)
    with pytest.raises(UserError, match="videos was "):
        tradeoff(str(toy), options(tmp_path / "out", weights("dff"), videos=1, resume=True))
    with pytest.raises(UserError, match="clock was 'CPU time' and is 'wall time' now"):
        tradeoff(str(toy), options(tmp_path / "out", weights("dff"), threads=2, resume=True))
    tradeoff(str(toy), options(tmp_path / "out", weights("dff"), resume=True, iou="0.5"))
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_other_weights_are_not_gone_on_with(toy, weights, tmp_path):
    path = tmp_path / "dff.safetensors"
    path.write_bytes(Path(weights("dff")).read_bytes())
    tradeoff(str(toy), options(tmp_path / "out", str(path), intervals=(), videos=1))
    torch.manual_seed(1)
    model = METHODS["dff"](**(NETWORK | tiny_flow("dff", {})), classes=CLASSES)
    save_model(path, model, model.description | {"classes": CLASSES})
    with pytest.raises(UserError, match="sha256"):
        tradeoff(str(toy), options(tmp_path / "out", str(path), intervals=(), videos=1, resume=True))
    before = (tmp_path / "out/tradeoff.json").read_text()
    tradeoff(str(toy), options(tmp_path / "out", str(path), intervals=(), videos=1, overwrite=True))
    assert (tmp_path / "out/tradeoff.json").read_text() != before


def test_post_processing_starts_before_the_heads_suppression(toy, weights, tmp_path):
    given = options(tmp_path / "out", weights("rfcn"), postprocess="seq-nms", videos=1)
    tradeoff(str(toy), given)
    evaluate(
        str(toy),
        EvaluateOptions(model=weights("rfcn"), postprocess=("seq-nms",), videos=1, output=tmp_path / "same"),
    )
    ours, theirs = (load(tmp_path / name / "00000.npz")[0] for name in ("out/rfcn_per_frame", "same/seq-nms"))
    assert np.array_equal(ours.scores, theirs.scores)
    assert len(ours) > 0


def test_mistakes_get_one_line(toy, weights, tmp_path):
    for given, message in (
        (options(tmp_path / "out"), "--models must name"),
        (options(tmp_path / "out", weights("dff"), weights("dff")), "several candidates are named"),
        (options(tmp_path / "out", "demo"), "none of the classes airplane"),
    ):
        with pytest.raises(UserError, match=message):
            tradeoff(str(toy), given)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--intervals must be 1 or more"):
        TradeoffOptions(intervals=(0,))


def test_intervals_that_hold_the_key_frame_alone_are_measured(tmp_path):
    torch.manual_seed(0)
    made = NETWORK | tiny_flow("impression-d", {}) | {"key_position": 3}
    model = METHODS["impression-d"](**made, classes=CLASSES)
    save_model(tmp_path / "late.safetensors", model, model.description | {"classes": CLASSES})
    found = candidates(options(tmp_path / "out", str(tmp_path / "late.safetensors"), device="cpu"))
    assert [each.label for each in found] == [PER_FRAME, "l=4"]
