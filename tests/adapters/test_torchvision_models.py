import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection, get_model, get_model_weights, list_models, mobilenet_v2, segmentation
from torchvision.models._api import WeightsEnum
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops import MultiScaleRoIAlign

from keywarp.adapters.torchvision_models import WITHOUT_EPSILON, split_torchvision, torchvision_parts
from keywarp.errors import UserError
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.transform import ImageTransform

SIZE = (64, 90)  # 90 is no multiple of 32: the width is padded
FIT = {"min_size": 64, "max_size": 200}


def pyramid():
    """A small backbone with a feature pyramid of three levels."""
    return mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6, norm_layer=nn.BatchNorm2d
    )


def anchors(levels=3):
    return AnchorGenerator(((16, 32),) * levels, ((0.5, 1.0),) * levels)


def faster_rcnn():
    return get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        weights=None,
        weights_backbone=None,
        num_classes=4,
        rpn_score_thresh=0.0,
        box_score_thresh=0.0,
        **FIT,
    )


def faster_rcnn_of_one_level():
    backbone = mobilenet_v2(weights=None).features[:7]
    backbone.out_channels = 32
    pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
    return detection.FasterRCNN(
        backbone, 4, rpn_anchor_generator=anchors(1), box_roi_pool=pool, box_score_thresh=0.0, **FIT
    )


def mask_rcnn():
    return detection.MaskRCNN(pyramid(), 4, rpn_anchor_generator=anchors(), box_score_thresh=0.0, **FIT)


def keypoint_rcnn():
    return detection.KeypointRCNN(pyramid(), 2, rpn_anchor_generator=anchors(), box_score_thresh=0.0, **FIT)


def retinanet():
    return detection.RetinaNet(pyramid(), 4, anchor_generator=anchors(), score_thresh=0.0, topk_candidates=50, **FIT)


def fcos():
    one = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return detection.FCOS(pyramid(), 4, anchor_generator=one, score_thresh=0.0, topk_candidates=50, **FIT)


class Levels(nn.Module):
    """Two levels at strides 4 and 8."""

    out_channels = (8, 8)

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)

    def forward(self, x):
        x = self.first(x)
        return {"a": x, "b": self.second(x)}


def ssd():
    boxes = DefaultBoxGenerator([[2], [2]])
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    return detection.ssd.SSD(
        Levels(), boxes, (SIZE[1], SIZE[0]), 4, image_mean=mean, image_std=std, score_thresh=0.0, topk_candidates=50
    )


def ssdlite():
    return get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4, score_thresh=0.0
    )


DETECTORS = [faster_rcnn, faster_rcnn_of_one_level, mask_rcnn, keypoint_rcnn, retinanet, fcos, ssd, ssdlite]


@pytest.mark.parametrize("build", DETECTORS, ids=lambda build: build.__name__)
def test_the_halves_give_what_the_detector_gives(build):
    model = build().eval()
    size = (320, 320) if build is ssdlite else SIZE
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(list(image.float() / 255))
        parts = split_torchvision(model)
        place = parts.transform.place(*size)
        assert place.resized == size
        features = parts.feature_network(image)
        found = parts.head(features, [place.resized] * 2)
        again = parts.head(tuple(f.to(memory_format=torch.channels_last) for f in features), [size] * 2)
    first = 0 if build in (retinanet, fcos) else 1
    for ours, theirs, other in zip(found, expected, again, strict=True):
        assert len(ours) > 10
        torch.testing.assert_close(ours.boxes, theirs["boxes"], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.scores, theirs["scores"], rtol=0, atol=1e-5)
        assert torch.equal(ours.labels, theirs["labels"] - first)
        assert len(other) == len(ours)


def segmentation_model(name):
    return get_model(name, weights=None, weights_backbone=None, num_classes=5)


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_the_halves_give_what_the_segmentation_model_gives(name):
    model = segmentation_model(name).eval()
    image = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        expected = model((image.float() / 255 - mean) / std)["out"]
        parts = split_torchvision(model, ["__background__", "a", "b", "c", "d"])
        scores = parts.head(parts.feature_network(image), [SIZE] * 2)
    assert scores.shape[:2] == (2, 5)
    assert scores.shape[-1] < SIZE[1]
    scores = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert parts.classes[0] == "__background__"  # a class of its own here
    assert parts.transform.place(480, 640).resized == (520, 693)


def test_the_model_stays_as_it_is():
    model = retinanet()
    before = list(model.state_dict())
    parts = split_torchvision(model)
    assert list(model.state_dict()) == before
    assert not model.training
    assert not any("backbone" in name for name in parts.head.state_dict())
    shared = {id(p) for p in model.parameters()}
    assert {id(p) for half in parts[:2] for p in half.parameters()} == shared


def test_background_is_no_class_of_a_detector():
    names = ["__background__", "cat", "N/A", "dog"]
    image = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    for build in (faster_rcnn, retinanet):
        model = build()
        parts = split_torchvision(model, names)
        assert parts.classes == ("cat", "N/A", "dog")
        with torch.inference_mode():
            (found,) = parts.head(parts.feature_network(image), [SIZE])
            (expected,) = model(list(image.float() / 255))
        assert torch.equal(found.labels, expected["labels"][expected["labels"] > 0] - 1)
        assert split_torchvision(model, names[1:]).classes == ("cat", "N/A", "dog")


def test_size_rule_and_padding_are_the_models():
    assert split_torchvision(faster_rcnn()).transform == ImageTransform(64, 200)
    assert split_torchvision(ssd()).transform == ImageTransform(size=SIZE)
    features = split_torchvision(faster_rcnn()).feature_network(torch.zeros(1, 3, *SIZE))
    assert features[0].shape[-2:] == (2, 3)  # 90 padded to 96, stride 32


def test_runs_on_video():
    parts = split_torchvision(faster_rcnn())
    model = VideoModel(parts.feature_network, parts.head, scheduler=FixedInterval(1), transform=parts.transform)
    frames = [torch.randint(0, 256, (48, 80, 3), dtype=torch.uint8).numpy() for _ in range(3)]
    results = list(VideoPredictor(model, batch=2).run(frames))
    assert [len(r.detections) > 0 for r in results] == [True] * 3
    assert all((r.boxes <= torch.tensor([80, 48, 80, 48])).all() for r in results)


def test_by_name():
    parts = torchvision_parts("fasterrcnn_mobilenet_v3_large_320_fpn", None)
    assert len(parts.classes) == 90
    assert (parts.classes[0], parts.classes[11], parts.classes[89]) == ("person", "N/A", "toothbrush")
    again = torchvision_parts("fasterrcnn_mobilenet_v3_large_320_fpn", None)
    assert all(torch.equal(a, b) for a, b in zip(parts.head.parameters(), again.head.parameters(), strict=True))
    assert torchvision_parts("lraspp_mobilenet_v3_large", None).classes[:2] == ("__background__", "aeroplane")
    with pytest.raises(UserError, match="did you mean ssd300_vgg16"):
        torchvision_parts("ssd300_vgg", None)
    with pytest.raises(UserError, match="unknown torchvision model 'resnet50'"):
        torchvision_parts("resnet50", None)
    with pytest.raises(UserError, match="got Conv2d"):
        split_torchvision(nn.Conv2d(3, 3, 1))


def test_weights_from_a_file(tmp_path):
    name = "ssdlite320_mobilenet_v3_large"
    state = get_model(name, weights=None, weights_backbone=None, num_classes=91).state_dict()
    torch.save(state, tmp_path / "ssd.pth")
    save_file(state, tmp_path / "ssd.safetensors")
    for file in ("ssd.pth", "ssd.safetensors"):
        parts = torchvision_parts(name, tmp_path / file)
        own = parts.head.state_dict()
        assert own
        assert all(torch.equal(t, state[n.removeprefix("detector.")]) for n, t in own.items())
    wrong = dict(list(state.items())[5:]) | {"extra": torch.zeros(1)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=r"missing.*unknown: extra"):
        torchvision_parts(name, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match="no weight file"):
        torchvision_parts(name, tmp_path / "absent.pth")
    with pytest.raises(UserError, match="unknown weights 'COCO_V9'"):
        torchvision_parts(name, "COCO_V9")


def test_segmentation_files_may_hold_the_auxiliary_classifier(tmp_path):
    name = "deeplabv3_mobilenet_v3_large"
    torch.save(get_model(name, weights=None, weights_backbone=None, aux_loss=True).state_dict(), tmp_path / "net.pth")
    assert len(torchvision_parts(name, tmp_path / "net.pth").classes) == 21


def test_no_network_for_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(UserError, match=r"https://download.*unreachable.*give the file") as error:
        torchvision_parts("ssdlite320_mobilenet_v3_large")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*list_models(detection), *list_models(segmentation)])
def test_published_weights_run_as_torchvision_runs_them(name, monkeypatch):
    """The library's own builder changes details with its weights (batch norm's epsilon): so do we."""
    classes = len(get_model_weights(name).DEFAULT.meta["categories"])
    torch.manual_seed(1)
    aux = {"aux_loss": True} if name in list_models(segmentation) and "lraspp" not in name else {}
    state = get_model(name, weights=None, weights_backbone=None, num_classes=classes, **aux).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(state))
    theirs = get_model(name, weights="DEFAULT").eval()
    ours = torchvision_parts(name, "DEFAULT").feature_network.backbone
    eps = [[m.eps for m in b.modules() if hasattr(m, "eps")] for b in (ours, theirs.backbone)]
    assert eps[0] == eps[1]
    assert (0.0 in eps[0]) == (name in WITHOUT_EPSILON)
    assert all(
        torch.equal(t, theirs.backbone.state_dict()[n]) for n, t in ours.state_dict().items() if "num_b" not in n
    )
