"""`detect` with post-processing of the whole video: two passes, tracks, resuming."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch

from keywarp.annotate import annotate
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.model import TaskHead, VideoModel
from keywarp.ops.nms import suppress_frames
from keywarp.options import BoxOptions, RunOptions
from keywarp.postprocess import apply
from keywarp.postprocess.streaming import StreamingSeqNMS
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.structures import Detections, VideoDetections
from keywarp.transform import ImageTransform
from test_annotate import clip, content, killed, pictures, stop_after, use  # noqa: F401 (fixtures)
from tiny import TinyFeatures, TinyFlow

NAME = "street"


class TubeHead(TaskHead):
    """Three boxes a frame whose scores change with the picture; two of them overlap."""

    def __init__(self, suppress=True):
        super().__init__()
        self.suppress = suppress

    def forward(self, features, image_sizes):
        boxes = torch.tensor([[2.0, 2, 20, 20], [3, 2, 21, 20], [25, 5, 40, 30]])
        labels = torch.tensor([0, 0, 1])
        results = []
        for fine in features[0]:
            scores = torch.sigmoid(4 * fine.mean() * torch.tensor([1.0, 2.0, -1.5]) - torch.tensor([0.2, 1.0, 0.5]))
            found = Detections(boxes, scores, labels)
            if self.suppress:
                found = suppress_frames(VideoDetections.of([found]), threshold=0.5, keep=9).by_frame(1)[0]
            results.append(found)
        return results

    def unsuppressed(self):
        return TubeHead(suppress=False), lambda found: suppress_frames(found, threshold=0.5, keep=9)


def model():
    torch.manual_seed(0)
    return VideoModel(
        TinyFeatures(),
        TubeHead(),
        scheduler=FixedInterval(4),
        aligner=TinyFlow(),
        transform=ImageTransform(size=(32, 48)),
        classes=("a", "b"),
    ).eval()


def boxes(**options):
    return BoxOptions(**({"threshold": 0.2, "csv": True, "mot": True, "postprocess": "seq-nms"} | options))


def run(clip, output, given, **options):  # noqa: F811
    return annotate([str(clip)], RunOptions(output=output, batch=3, **options), given)


@pytest.mark.parametrize("name", ["seq-nms", "seq-nms+"])
def test_the_files_hold_what_post_processing_gives(clip, tmp_path, use, name, capsys):  # noqa: F811
    plain = use(model())
    assert run(clip, tmp_path, boxes(postprocess=name)) == 0
    everything = model()
    everything.head, _ = plain.head.unsuppressed()
    with open_video(clip) as video:
        found = VideoDetections.of([r.detections for r in VideoPredictor(everything).run(video)])
    expected = apply(name, found)
    expected = expected[expected.scores >= 0.2]
    document = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert len(document["annotations"]) == len(expected) > 0
    ours = [(a["image_id"], a["category_id"], a["track_id"]) for a in document["annotations"]]
    assert ours == list(zip(expected.frames.tolist(), expected.labels.tolist(), expected.tracks.tolist(), strict=True))
    assert np.allclose([a["score"] for a in document["annotations"]], expected.scores, atol=2e-4)
    assert document["info"]["settings"]["postprocess"] == name
    assert len(pictures(tmp_path / f"{NAME}.mp4")) == len(document["images"]) == 23
    with open(tmp_path / f"{NAME}.csv") as file:
        assert [int(row["track_id"]) for row in csv.DictReader(file)] == expected.tracks.tolist()
    lines = (tmp_path / f"{NAME}.txt").read_text().splitlines()
    assert [int(line.split(",")[1]) - 1 for line in lines] == expected.tracks.tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{NAME}.{end}" for end in ("csv", "json", "mp4", "txt")]
    assert f"a {(expected.labels == 0).sum()}" in capsys.readouterr().out


@pytest.mark.parametrize("killed_at", [7, 30])  # in the first pass, and while the video is drawn in the second
def test_a_killed_run_goes_on_to_the_same_end(clip, tmp_path, use, monkeypatch, killed_at):  # noqa: F811
    use(model())
    run(clip, tmp_path / "whole", boxes())
    killed(monkeypatch, killed_at, [str(clip)], RunOptions(output=tmp_path / "cut", batch=3), boxes())
    assert run(clip, tmp_path / "cut", boxes(), resume=True) == 0
    assert content(tmp_path / "cut/street.json") == content(tmp_path / "whole/street.json")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_a_stopped_run_leaves_post_processed_boxes_and_no_video(clip, tmp_path, use, monkeypatch):  # noqa: F811
    use(model())
    with monkeypatch.context() as patch:
        stop_after(patch, 9, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(clip, tmp_path, boxes()) == 130
    document = json.loads((tmp_path / "street.json").read_text())
    assert 0 < len(document["images"]) < 23
    assert all("track_id" in each for each in document["annotations"])
    assert not (tmp_path / "street.mp4").exists()
    assert run(clip, tmp_path, boxes(), resume=True) == 0
    assert len(pictures(tmp_path / "street.mp4")) == 23


def test_a_run_stopped_while_its_video_is_drawn_leaves_the_rest_and_draws_it_later(clip, tmp_path, use, monkeypatch):  # noqa: F811
    use(model())
    run(clip, tmp_path / "whole", boxes())
    with monkeypatch.context() as patch:
        stop_after(patch, 30, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(clip, tmp_path / "cut", boxes()) == 130
    left = sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert left == [".street.partial.jsonl", "street.csv", "street.json", "street.txt"]
    stopped, whole = (content(tmp_path / each / "street.json") for each in ("cut", "whole"))
    assert stopped["info"].pop("complete") is False
    assert whole["info"].pop("complete") is True
    assert stopped == whole
    assert run(clip, tmp_path / "cut", boxes(), resume=True) == 0
    assert content(tmp_path / "cut/street.json")["info"]["complete"] is True
    assert len(pictures(tmp_path / "cut/street.mp4")) == 23
    assert not (tmp_path / "cut/.street.partial.jsonl").exists()


def test_a_live_source_is_linked_frame_by_frame(clip, tmp_path, use, monkeypatch):  # noqa: F811
    plain = use(model())

    def live(*arguments, **options):
        video = open_video(*arguments, **options)
        video.is_live, video.frame_count = True, None
        return video

    monkeypatch.setattr("keywarp.annotate.open_video", live)
    assert run(clip, tmp_path, boxes()) == 0
    document = json.loads((tmp_path / "street.json").read_text())
    everything, linking, expected = model(), StreamingSeqNMS(plus=False), []
    everything.head, _ = plain.head.unsuppressed()
    with open_video(clip) as video:
        for result in VideoPredictor(everything).run(video):
            found, tracks = linking.push(result.detections)
            rows = zip(found.scores.tolist(), tracks.tolist(), strict=True)
            expected += [(result.index, track) for score, track in rows if score >= 0.2]
    assert [(a["image_id"], a["track_id"]) for a in document["annotations"]] == expected
    assert len(expected) > 20
    assert len(pictures(tmp_path / "street.mp4")) == 23


def test_unknown_names_are_refused(clip, tmp_path, use):  # noqa: F811
    use(model())
    with pytest.raises(UserError, match="unknown post-processing 'seqnms'; did you mean seq-nms"):
        run(clip, tmp_path, boxes(postprocess="seqnms"))
    with pytest.raises(UserError, match="--stream tells frames as they finish"):
        run(clip, tmp_path, boxes(), stream=True)
    assert not list(tmp_path.iterdir())
