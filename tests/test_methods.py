import numpy as np
import pytest
import torch
from torchvision.models import get_model

from keywarp.errors import UserError
from keywarp.listing import cost
from keywarp.loading import load
from keywarp.methods import METHODS, dff, rfcn, wrap
from keywarp.networks.weight_files import save_model
from keywarp.predictor import VideoPredictor
from keywarp.structures import Frame, Memory, Step

SMALL = {"shorter": 96, "longer": 160, "num_classes": 3, "anchor_scales": (2, 4, 8)}


def frames(count=5, size=(96, 128)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def results(model, count=5):
    return list(VideoPredictor(model.eval()).run(frames(count)))


def test_the_auxiliary_loss_needs_features():
    with pytest.raises(UserError, match="leave one of them out"):
        rfcn("resnet-tiny", task_layers=0, auxiliary=True, **SMALL)


@pytest.mark.parametrize("task_layers", [0, 1, 5])
def test_dff_is_rfcn_on_key_frames(task_layers):
    backbone = "resnet-tiny" if task_layers < 5 else "resnet-18"
    torch.manual_seed(0)
    video_model = dff(backbone, flow="flownet-tiny", interval=3, task_layers=task_layers, **SMALL)
    per_frame = rfcn(backbone, task_layers=task_layers, **SMALL)
    per_frame.load_state_dict({k: v for k, v in video_model.state_dict().items() if not k.startswith("aligner")})
    for ours, single in zip(results(video_model), results(per_frame), strict=True):
        same = ours.detections.boxes.shape == single.detections.boxes.shape and torch.allclose(
            ours.detections.boxes, single.detections.boxes, atol=1e-3
        )
        assert same == ours.is_key


def test_dff_with_zero_flow_copies_the_key_features():
    torch.manual_seed(0)
    model = dff("resnet-tiny", flow="flownet-tiny", **SMALL).eval()
    torch.nn.init.zeros_(model.aligner.flow.weight)
    key, other = (torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8) for _ in range(2))
    with torch.inference_mode():
        memory = model.run(Step((0,), True), Frame(key), {}).memory
        carried = model.run(Step((1,), False, (0,)), Frame(other), {0: memory}).features
    assert torch.equal(carried[0], memory.features[0]), "zero flow and a scale field of ones change nothing"


def test_a_still_image_is_one_key_step_in_training():
    torch.manual_seed(0)
    model = dff("resnet-tiny", flow="flownet-tiny", **SMALL).eval()
    clip = torch.randint(0, 256, (1, 1, 3, 96, 128), dtype=torch.uint8)
    assert torch.equal(model(clip, [Step((0,), True)]).features[0], model.feature_network(clip[:, 0])[0])


def test_training_reaches_every_network():
    torch.manual_seed(0)
    model = dff("resnet-tiny", flow="flownet-tiny", **SMALL).train()
    torch.nn.init.normal_(model.aligner.scale.weight, std=0.01)
    clip = torch.randint(0, 256, (2, 2, 3, 96, 128), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[20.0, 20, 70, 60]]), "labels": torch.tensor([1])}
    losses = model.loss(clip, [Step((0,), True), Step((1,), False, (0,))], [target, target])
    sum(losses.values()).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert dict(model.named_parameters()).keys() - trained.keys() == {"aligner.scale.bias"}, "fixed at 1"
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(p.grad.abs().sum() for name, p in trained.items() if name.startswith("aligner.")) > 0


@pytest.mark.parametrize("flow", ["dis", "codec"])
def test_any_torchvision_detector_runs_on_key_frames(flow):
    torch.manual_seed(0)
    detector = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=5).eval()
    model = wrap(detector, flow=flow, interval=4)
    out = results(model, 8)
    assert [r.index for r in out if r.is_key] == [2, 6], "the middle of the segment"
    per_frame = results(wrap(detector, interval=1), 8)
    for a, b in zip(out, per_frame, strict=True):
        if a.is_key:
            torch.testing.assert_close(a.detections.boxes, b.detections.boxes, atol=1e-2, rtol=0)


def test_our_own_detector_runs_on_key_frames(tmp_path):
    torch.manual_seed(0)
    model = rfcn("resnet-tiny", classes=("a", "b", "c"), **SMALL)
    path = tmp_path / "mine.safetensors"
    save_model(path, model, model.description | {"classes": model.classes})
    carried = load(path, method="sff", flow="dis", interval=4, key_position=0, device="cpu")
    assert carried.classes == ("a", "b", "c")
    for a, b in zip(results(carried), results(load(path, device="cpu")), strict=True):
        assert a.is_key == (a.index % 4 == 0)
        if a.is_key:
            torch.testing.assert_close(a.detections.boxes, b.detections.boxes, atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="no radius"):
        load(path, method="sff", radius=2, device="cpu")
    with pytest.raises(UserError, match="comes with its weights; leave --weights out"):
        load(path, weights="other.safetensors", device="cpu")
    for option in ({"backbone": "resnet-18"}, {"num_classes": 7}):
        with pytest.raises(UserError, match="is a whole detector; leave --"):
            load("torchvision/ssdlite320_mobilenet_v3_large", weights="random", device="cpu", **option)


def test_published_sizes():
    """Within 0.3 Mi and 5 % of what is published; Table 2 of 004 is rounded r."""
    single, video = cost("", rfcn), cost("", dff)
    assert single.parameters_mi == pytest.approx(59.6, abs=0.3)
    assert video.parameters_mi == pytest.approx(96.6, abs=0.3)
    r = video.gmac_non_key / video.gmac_key
    assert video.predicted_speedup == pytest.approx(10 / (1 + 9 * r), rel=0.01)  # Eq. 7


@pytest.mark.parametrize(
    ("flow", "published"),
    [("flownet-s", (9.20, 12.71)), ("flownet-half", (33.56, 46.30)), ("flownet-inception", (68.97, 95.24))],
)
def test_complexity_ratios_of_table_2(flow, published):
    from keywarp.alignment.flownet import FLOW_NETWORKS
    from keywarp.listing import gmac
    from keywarp.networks.resnet import ResNet

    with torch.device("meta"):
        image = torch.zeros(1, 3, 600, 1000)
        network = FLOW_NETWORKS[flow](scale_channels=1024)
        of_flow = gmac(lambda: network(Memory(image, ()), Frame(image)))
        for depth, ratio in zip((50, 101), published, strict=True):
            features = ResNet(depth, stride_in_1x1=True)
            assert gmac(lambda f=features: f(image)) / of_flow == pytest.approx(ratio, rel=0.05)


def test_a_file_builds_its_own_model(tmp_path):
    torch.manual_seed(0)
    model = dff("resnet-tiny", flow="flownet-tiny", interval=4, classes=("a", "b", "c"), **SMALL)
    path = tmp_path / "mine.safetensors"
    save_model(path, model, model.description | {"classes": model.classes})
    loaded = load(path, device="cpu")
    assert loaded.classes == ("a", "b", "c")
    assert loaded.scheduler.interval == 4
    for a, b in zip(results(loaded), results(model), strict=True):
        torch.testing.assert_close(a.detections.scores, b.detections.scores, atol=1e-4, rtol=0)
    assert load(path, interval=2, key_position=1, device="cpu").scheduler.key == 1
    single = load(path, method="rfcn", device="cpu")
    assert single.aligner is None
    assert all(r.is_key for r in results(single))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yolox-nan",), "did you mean yolox-nano"),
        (("nothing-like-it.safetensors",), "no model file"),
        (("dff",), "--weights random"),
        (("demo.onnx",), "demo.onnx"),
        (("torchvision/fasterrcnn_resnet50_fpm",), "did you mean"),
    ],
)
def test_unknown_models_suggest_what_to_do(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dfff"}, "did you mean dff"),
        ({"backbone": "resnet-100"}, "did you mean resnet-10"),
        ({"flow": "flownet"}, "did you mean flownet-s"),
        ({"device": "gpu0"}, "device must be"),
        ({"interval": 0}, "at least 1"),
        ({"key_position": 10}, "position must be"),
        ({"half": True, "device": "cpu"}, "needs a CUDA device"),
    ],
)
def test_unknown_options_suggest_the_nearest(options, message):
    with pytest.raises(UserError, match=message):
        load("dff", weights="random", **({"backbone": "resnet-tiny"} | options))


def test_weights_of_another_model_are_named(tmp_path):
    other = rfcn("resnet-tiny", num_classes=7)
    path = tmp_path / "other.safetensors"
    save_model(path, other, {})
    with pytest.raises(UserError, match=r"of another shape: head.score_maps.cls"):
        load("rfcn", backbone="resnet-tiny", weights=str(path))


def test_the_methods_are_listed():
    names = (
        "rfcn dff dff-half dff-inception dff-fix-n dff-fix-f dff-separate sff fgfa thp-c1 thp-c2 thp-c3 impression-a "
        "impression-b impression-c impression-d impression-e psla-a psla-b psla-c psla-nonlocal-s psla-nonlocal-f "
        "psla-matchtrans-s psla-matchtrans-f psla-dense-s psla-dense-f iff-a iff-b iff-c iff-d iff-e iff-f iff-g iff-h "
        "optflow-a optflow-b"
    )
    assert list(METHODS) == names.split()
