"""Evaluations from end to end: a model or stored detections in, tables and reports out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from data.coco_files import write_image
from keywarp import evaluate as evaluating
from keywarp.cli import main
from keywarp.compare import compare, named
from keywarp.data.reading import open_dataset
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.evaluate import evaluate
from keywarp.evaluation.measures import Measures
from keywarp.evaluation.results_files import load
from keywarp.evaluation.truth import Truth
from keywarp.interfaces import TaskHead
from keywarp.loading import DEMO
from keywarp.networks.download import sha256_of
from keywarp.options import EvaluateOptions
from keywarp.running import detect_video
from keywarp.scheduling import SlidingWindow
from toy_files import colour_model, write_toy
from training.toy import toy as toy_videos


@pytest.fixture
def toy(tmp_path):
    return write_toy(tmp_path / "toy")


@pytest.fixture
def use(monkeypatch):
    """Make `evaluate` run this model, whatever it is asked for."""

    def use(model):
        monkeypatch.setattr(evaluating, "load_model", lambda *_, **__: model)
        return model

    return use


def options(folder, **given):
    return EvaluateOptions(**({"model": "toy", "output": folder} | given))


def document(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_the_table_is_that_of_the_models_detections(toy, tmp_path, use, capsys):
    model = use(colour_model())
    (row,) = evaluate(str(toy), options(tmp_path / "out"))
    dataset, measures = open_dataset(toy, "val"), Measures(("red", "green", "blue"))
    for video in dataset.videos:
        measures.add(detect_video(model, video, 8).detections, Truth.of(video))
    expected = measures.result("none")
    assert row.measures == pytest.approx(expected.measures, nan_ok=True)
    assert 0.3 < row.measures["mAP"] < 1  # boxes stand still between key frames
    stored = document(tmp_path / "out")
    assert stored["rows"][0]["measures"]["mAP"] == pytest.approx(row.measures["mAP"], abs=1e-6)
    assert stored["setting"]["key_frame_share"] == pytest.approx(1 / 12, abs=1e-4)
    assert stored["setting"]["frames"] == 36
    assert f"{100 * row.measures['mAP']:.1f}" in capsys.readouterr().out
    assert set(row.by_class) == {"red", "green", "blue"}


def test_the_report_holds_everything(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "out", worst=2))
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page
    for text in ("mAP fast", "green", "drop-outs", "toy-0, frame"):
        assert text in page
    assert (tmp_path / "out/curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "out/worst").iterdir())) == 2


def test_a_perfect_model_has_a_perfect_table(toy, tmp_path, use):
    use(colour_model(interval=1))
    (row,) = evaluate(str(toy), options(tmp_path / "out"))
    wanted = {"mAP": 1, "COCO AP": 1, "fragmentation": 0, "centre jitter": 0, "delay mean": 0, "never found": 0}
    assert {name: row.measures[name] for name in wanted} == pytest.approx(wanted)
    assert document(tmp_path / "out")["worst"] == []


def test_each_post_processing_has_its_row_and_its_detections(toy, tmp_path, use):
    use(colour_model())
    rows = evaluate(str(toy), options(tmp_path / "out", postprocess=("none", "seq-nms+")))
    assert [row.name for row in rows] == ["none", "seq-nms+"]
    tracks = [load(tmp_path / "out" / name / "00000.npz")[0].tracks for name in ("none", "seq-nms+")]
    assert tracks[0] is None
    assert set(tracks[1]) == {0, 1}
    for name in ("none", "seq-nms+"):
        assert len(list((tmp_path / "out" / name).glob("*.npz"))) == 3


def test_stored_detections_give_the_same_table(toy, tmp_path, use):
    use(colour_model())
    (first,) = evaluate(str(toy), options(tmp_path / "out"))
    again = EvaluateOptions(results=(tmp_path / "out",), output=tmp_path / "again", postprocess=("none", "seq-nms"))
    rows = evaluate(str(toy), again)
    assert [row.name for row in rows] == ["out", "out seq-nms"]
    assert rows[0].measures == pytest.approx(first.measures, nan_ok=True)
    for given, message in (
        ({"results": (tmp_path / "out", tmp_path / "out")}, "several results are named out"),
        ({"results": (tmp_path / "again",)}, "holds no detections of keywarp evaluate; give the output of a run"),
        ({"results": (tmp_path / "out",), "output": tmp_path / "out", "overwrite": True}, "is read and would be"),
        ({"results": (tmp_path / "out",), "interval": 3}, "--interval chooses a model, and --results runs none"),
        ({"results": (tmp_path / "out",), "key_position": 0}, "--key-position chooses a model, and --results runs"),
        ({"results": (tmp_path / "out",), "output": toy / "val.json"}, "is no folder that can be written"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(str(toy), EvaluateOptions(**({"output": tmp_path / "b"} | given)))
        assert not (tmp_path / "b").exists()
    assert len(list((tmp_path / "out/none").glob("*.npz"))) == 3


def test_linked_detections_are_not_linked_again(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "out", postprocess=("none", "seq-nms")))
    given = {"results": (tmp_path / "out",), "output": tmp_path / "again"}
    with pytest.raises(UserError, match="out holds linked detections; leave --postprocess out"):
        evaluate(str(toy), EvaluateOptions(**given, postprocess=("seq-nms",)))
    assert [row.name for row in evaluate(str(toy), EvaluateOptions(**given))] == ["out", "out seq-nms"]


def test_a_folder_that_is_not_of_an_evaluation_is_left_alone(toy, tmp_path, use):
    use(colour_model())
    mine = tmp_path / "out" / "worst" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="worst exists and is not of an evaluation"):
        evaluate(str(toy), options(tmp_path / "out"))
    assert mine.read_text() == "mine"


def test_the_row_without_post_processing_is_the_same_beside_others(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "alone"))
    evaluate(str(toy), options(tmp_path / "beside", postprocess=("none", "seq-nms")))
    for number in range(3):
        alone, beside = (load(tmp_path / name / f"none/{number:05d}.npz")[0] for name in ("alone", "beside"))
        assert np.array_equal(alone.boxes, beside.boxes)
        assert np.array_equal(alone.scores, beside.scores)


def test_stored_detections_of_a_part_are_of_the_right_videos(toy, tmp_path, use):
    use(colour_model())
    rows = []
    for video, row in enumerate(document["id"] for document in json.loads((toy / "val.json").read_text())["videos"]):
        truth = open_dataset(toy, "val").videos[video]
        for frame in truth.labelled:
            boxes = truth.annotation(frame).boxes[0]
            rows.append(" ".join(map(str, (12 * row + frame + 1, row % 3 + 1, 0.9, *boxes))))
    (tmp_path / "found.txt").write_text("\n".join(rows))
    given = EvaluateOptions(results=(tmp_path / "found.txt",), videos=2, output=tmp_path / "out")
    (row,) = evaluate(str(toy), given)
    assert row.measures["mAP"] == pytest.approx(1)


def test_a_motion_file_must_be_of_the_data_set(toy, tmp_path, use):
    model = use(colour_model())
    cells = np.empty((36, 1), object)
    for frame in range(36):
        cells[frame, 0] = np.full((1, 1), 0.95)
    savemat(tmp_path / "m.mat", {"motion_iou": cells})
    (row,) = evaluate(str(toy), options(tmp_path / "out", motion_file=tmp_path / "m.mat", videos=2))
    assert row.measures["mAP slow"] == pytest.approx(row.measures["mAP"])
    assert np.isnan(row.measures["mAP fast"])
    evaluate(str(toy), options(tmp_path / "plain", videos=2))
    with pytest.raises(UserError, match="differ in --motion-file"):
        compare([tmp_path / "out", tmp_path / "plain"])
    model.feature_network.images = 0
    with pytest.raises(UserError, match=r"m2.mat"):
        evaluate(str(toy), options(tmp_path / "c", motion_file=tmp_path / "m2.mat"))
    savemat(tmp_path / "m3.mat", {"motion_iou": cells[:30]})
    with pytest.raises(UserError, match="of 30 frames, the 3 videos have 36"):
        evaluate(str(toy), options(tmp_path / "c", motion_file=tmp_path / "m3.mat"))
    assert model.feature_network.images == 0


def test_an_interrupted_evaluation_resumed_gives_the_identical_table(toy, tmp_path, use, monkeypatch):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "whole"))
    calls = iter(range(9))

    def stops(*arguments, **options):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return detect_video(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "detect_video", stops)
        with pytest.raises(KeyboardInterrupt):
            evaluate(str(toy), options(tmp_path / "cut"))
    assert len(list((tmp_path / "cut/none").glob("*.npz"))) == 1
    with pytest.raises(UserError, match="go on with --resume"):
        evaluate(str(toy), options(tmp_path / "cut"))
    with pytest.raises(UserError, match=r"iou was 'vid' and is '0.5' now"):
        evaluate(str(toy), options(tmp_path / "cut", resume=True, iou="0.5"))
    model = use(colour_model())
    evaluate(str(toy), options(tmp_path / "cut", resume=True))
    assert model.feature_network.images == 2  # key frames of the two videos that were left
    assert document(tmp_path / "cut")["rows"] == document(tmp_path / "whole")["rows"]


def test_overwriting_starts_anew(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "out"))
    use(colour_model(interval=1))
    (row,) = evaluate(str(toy), options(tmp_path / "out", overwrite=True))
    assert row.measures["mAP"] == pytest.approx(1)


def test_overwriting_takes_the_old_tables_away_first(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "out"))
    (toy / "data/toy-1/004.png").write_bytes(b"no image")
    with pytest.raises(InterruptedWorkError):
        evaluate(str(toy), options(tmp_path / "out", overwrite=True))
    assert not (tmp_path / "out/evaluation.json").exists()


def test_an_unreadable_frame_stops_it_and_resuming_goes_on(toy, tmp_path, use):
    use(colour_model())
    frame = toy / "data/toy-1/004.png"
    whole = frame.read_bytes()
    frame.write_bytes(b"no image")
    with pytest.raises(InterruptedWorkError, match=r"toy-1: .*004.png cannot be read.*--resume") as error:
        evaluate(str(toy), options(tmp_path / "out"))
    assert "\n" not in str(error.value)
    frame.write_bytes(whole)
    evaluate(str(toy), options(tmp_path / "out", resume=True))
    assert document(tmp_path / "out")["setting"]["frames"] == 36


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": ""}, "give either --model, a model to run, or --results"),
        ({"results": ("a.json",)}, "give either --model, a model to run, or --results"),
        ({"postprocess": ("seqnms",)}, "unknown post-processing 'seqnms'; did you mean seq-nms"),
        ({"rename": ("red=grene",)}, "'grene'; did you mean green"),
    ],
)
def test_mistakes_get_one_line(toy, tmp_path, use, given, message):
    use(colour_model())
    with pytest.raises(UserError, match=message) as error:
        evaluate(str(toy), options(tmp_path / "out", **given))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out/none/00000.npz").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iou": "half"}, "--iou must be vid or a number"),
        ({"iou": "0"}, "--iou must be vid or a number"),
        ({"rename": ("red",)}, "--rename takes MODELS=DATASETS"),
        ({"videos": 0}, "--videos must be at least 1"),
        ({"score": 2}, "--score must be 0 to 1"),
        ({"threads": -1}, "--threads must be at least 1"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_options_are_checked_when_built(given, message):
    with pytest.raises(UserError, match=message):
        EvaluateOptions(**given)


def test_missing_videos_are_told_before_any_work(toy, tmp_path, use):
    model = use(colour_model())
    for path in (toy / "data/toy-2").iterdir():
        path.unlink()
    (toy / "data/toy-2").rmdir()
    with pytest.raises(UserError, match=r"1 of the 3 videos of .* are missing, first .*toy-2"):
        evaluate(str(toy), options(tmp_path / "out"))
    assert model.feature_network.images == 0


def test_other_classes_than_the_data_sets(toy, tmp_path, use, capsys):
    model = use(colour_model(interval=1))
    model.classes = ("red", "verde", "sky")
    (row,) = evaluate(str(toy), options(tmp_path / "out"))
    assert row.measures["mAP"] == pytest.approx(1 / 3)
    assert "does not know 2 of the 3 classes: green, blue" in capsys.readouterr().err
    (row,) = evaluate(str(toy), options(tmp_path / "b", rename=("verde=green", "sky=blue")))
    assert row.measures["mAP"] == pytest.approx(1)


def test_fewer_videos_are_spread_over_the_set(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "out", videos=2))
    assert json.loads((tmp_path / "out/run.json").read_text())["videos"] == ["toy-0", "toy-2"]


def test_the_command_line_says_it_in_one_line(toy, tmp_path, capsys):
    (tmp_path / "found.txt").write_text("99 1 0.5 0 0 1 1\n")
    arguments = ["evaluate", str(toy), "--results", str(tmp_path / "found.txt"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "frame 99 is not in 1 to 36" in capsys.readouterr().err
    write_image(tmp_path / "x.png")
    assert main([*arguments[:3], str(tmp_path / "x.png")]) == 2
    assert main(["evaluate", str(tmp_path / "absent"), "--model", "demo"]) == 2


def test_comparing_shows_differences_to_the_first(toy, tmp_path, use, capsys):
    for name, interval in (("a", 12), ("b", 1)):
        use(colour_model(interval))
        evaluate(str(toy), options(tmp_path / name))
    capsys.readouterr()
    compare([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html")
    a, b = (document(tmp_path / name)["rows"][0]["measures"]["mAP"] for name in "ab")
    printed = capsys.readouterr().out
    assert f"{100 * a:.1f}" in printed
    assert f"100.0 (+{100 * (b - a):.1f})" in printed
    assert "data:image/png" in (tmp_path / "both.html").read_text()


def test_evaluations_in_folders_of_one_name_are_told_apart():
    folders = [Path("runs/a/test"), Path("runs/b/test/evaluation.json")]
    row = {"name": "none", "measures": {}}
    assert [each["name"] for each in named(folders, [{"rows": [row]}] * 2)] == ["a/test", "b/test"]
    assert [each["name"] for each in named(folders[:1] * 2, [{"rows": [row]}] * 2)] == ["test", "test"]


def test_evaluations_of_other_data_are_not_compared(toy, tmp_path, use):
    use(colour_model())
    evaluate(str(toy), options(tmp_path / "a"))
    evaluate(str(toy), options(tmp_path / "b", videos=2))
    for folders, message in (
        (["a", "b"], "differ in number of videos: 3 and 2"),
        (["a"], "two evaluations or more"),
        (["a", "toy"], "holds no evaluation.json"),
    ):
        with pytest.raises(UserError, match=message):
            compare([tmp_path / name for name in folders])
    with pytest.raises(UserError, match=r"must be an \.html file in a folder that exists"):
        compare([tmp_path / "a", tmp_path / "a"], tmp_path / "absent/x.html")
    (tmp_path / "b/evaluation.json").write_text("[]")
    with pytest.raises(UserError, match="was not written by keywarp evaluate"):
        compare([tmp_path / "a", tmp_path / "b"])


def test_curves_are_the_best_precision_at_each_recall(toy, tmp_path, use):
    use(colour_model())
    (row,) = evaluate(str(toy), options(tmp_path / "out"))
    for label, curve in row.curves.items():
        assert len(curve) == 101
        assert (np.diff(curve) <= 0).all()
        # The area under the kept curve is the AP, up to the grid.
        assert np.mean(curve) == pytest.approx(row.by_class[label]["all"], abs=0.02)


class MaskHead(TaskHead):
    """The class of each strongly coloured cell, 0 elsewhere."""

    segments = True

    def forward(self, features, image_sizes):
        (image,) = features
        strong = (image.amax(1, keepdim=True) - image.amin(1, keepdim=True)) > 100
        return torch.cat([~strong * 300.0, strong * image], dim=1)


def test_segmentation_is_measured_by_pixels(tmp_path, use, monkeypatch):
    model = use(colour_model(interval=12))
    model.head, model.classes = MaskHead(), ("ground", "red", "green", "blue")
    model.description = {"method": "sff", "arguments": {}}
    monkeypatch.setattr(evaluating, "open_dataset", lambda *_: toy_videos(masks=True, length=6))
    monkeypatch.setattr(evaluating, "split_of", lambda *_: ())
    monkeypatch.setattr(evaluating, "chosen", lambda dataset, _: dataset)
    (row,) = evaluate("toy", options(tmp_path / "out", l_pairs=3))
    assert 0.5 < row.measures["mIoU"] < 1
    offsets = [row.measures[f"mIoU, key frame {o} before"] for o in range(3)]
    assert offsets[0] == 1 > offsets[1] > offsets[2] > row.measures["mIoU"]
    assert row.measures["mIoU of l-pairs"] == pytest.approx(sum(offsets) / 3)
    assert set(row.by_class) == {"ground", "red", "green", "blue"}
    model.feature_network.images = 0
    again = evaluate("toy", options(tmp_path / "out", resume=True))
    assert model.feature_network.images == 0
    assert again[0].measures["mIoU"] == row.measures["mIoU"]
    assert "IoU" in (tmp_path / "out/report.html").read_text()
    model.scheduler = SlidingWindow(2)
    with pytest.raises(UserError, match="gathers from a window and has no key frames; leave --l-pairs out"):
        evaluate("toy", options(tmp_path / "b", l_pairs=3))
    with pytest.raises(UserError, match="--postprocess is for detections"):
        evaluate("toy", options(tmp_path / "b", postprocess=("seq-nms",)))


@pytest.mark.parametrize("oracle", [False, True])
def test_a_file_that_ends_before_its_listing_is_told(tmp_path, use, oracle):
    listed = json.loads(DEMO.with_suffix(".json").read_text())
    (last,) = [image for image in listed["images"] if image["frame_id"] == len(listed["images"]) - 1]
    listed["images"].append(last | {"id": last["id"] + 10**6, "frame_id": last["frame_id"] + 1})
    listed["videos"][0]["length"] += 1
    listed["categories"][0]["name"] = "red"
    (tmp_path / "val.json").write_text(json.dumps(listed))
    shutil.copy(DEMO.with_suffix(".mp4"), tmp_path)
    use(colour_model())
    with pytest.raises(InterruptedWorkError, match=r"ends after 48 of the 49 frames that are listed; mend it"):
        evaluate(str(tmp_path), options(tmp_path / "out", oracle=oracle))


def test_what_ran_is_told_by_its_file_and_precision():
    model = colour_model()
    model.half_precision = True
    about = evaluating.described(model, "demo")
    assert about["sha256"] == {"demo.safetensors": sha256_of(DEMO)}
    assert about["half"] is True


def test_classes_of_pixels_are_the_same_by_name(tmp_path, use, monkeypatch):
    model = use(colour_model(interval=12))
    model.head, model.classes = MaskHead(), ("ground", "red", "green", "blue")
    data = toy_videos(masks=True, length=6)
    monkeypatch.setattr(evaluating, "split_of", lambda *_: ())
    monkeypatch.setattr(evaluating, "chosen", lambda dataset, _: dataset)

    def measured(name, classes, **given):
        monkeypatch.setattr(evaluating, "open_dataset", lambda *_: replace(data, mask_classes=classes))
        (row,) = evaluate("toy", options(tmp_path / name, **given))
        return row

    whole = measured("same", ("ground", "red", "green", "blue"))
    renamed = measured("renamed", ("ground", "rot", "green", "blue"), rename=("red=rot",))
    assert renamed.measures == whole.measures
    lacking = measured("lacking", ("ground", "rot", "green", "blue"))
    assert lacking.by_class["ground"] == whole.by_class["ground"]
    assert "rot" not in lacking.by_class or lacking.by_class["rot"]["IoU"] == 0
    assert lacking.measures["mIoU"] < whole.measures["mIoU"]
    with pytest.raises(UserError, match="unknown class to rename 'foo'"):
        measured("unknown", ("ground", "red", "green", "blue"), rename=("foo=red",))
    assert not (tmp_path / "unknown").exists()
    model.head = colour_model().head
    monkeypatch.setattr(evaluating, "open_dataset", lambda *_: replace(data, classes=()))
    with pytest.raises(UserError, match="has label maps and no boxes; give a segmentation model"):
        evaluate("toy", options(tmp_path / "boxes"))
