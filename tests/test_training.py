"""One training step of every method: everything that trains gets a gradient, what is fixed gets none."""

import pytest
import torch

from keywarp.methods import METHODS
from keywarp.plans import SINGLE
from test_papers import TINY, tiny_flow

SMALL_ANCHORS = {"anchor_scales": (1, 1.5, 2)}
"""They fit into the images here."""


def step(model, batch: int, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The losses of one step on noise, with a box in every clip's last frame; gradients are left in the parameters."""
    torch.manual_seed(1)
    clips = torch.randint(0, 256, (batch, model.training_plan.length, 3, *size), dtype=torch.uint8)
    height, width = size
    box = torch.tensor([[width * 0.2, height * 0.2, width * 0.8, height * 0.9]])
    targets = [{"boxes": box, "labels": torch.tensor([n % 3]), "mask": torch.randint(0, 3, size)} for n in range(batch)]
    losses = model.loss(clips, model.training_plan.steps, targets)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def check_gradients(model, losses) -> None:
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def alive(model):
    """Biases above zero: a ReLU that is never open would have no gradient, for no fault of the method's."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.requires_grad:
            parameter.data += 0.05
    return model.train()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"sff"}))
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    options = TINY | SMALL_ANCHORS | tiny_flow(name, {}) | ({"deformable": 3} if name == "iff-h" else {})
    model = alive(METHODS[name](**options))
    # A third of the clips each is propagated, computed anew, and updated where the quality says so.
    losses = step(model, 9 if name.startswith("thp") else 2, (64, 96))
    check_gradients(model, losses)
    assert ("update_area" in losses) == name.startswith("thp")
    assert ("transformation_residual" in losses) == (name.startswith("iff") and name != "iff-a")


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"sff"}))
def test_resnet_101_trains(name):
    torch.manual_seed(0)
    model = alive(METHODS[name](num_classes=3, **SMALL_ANCHORS))
    check_gradients(model, step(model, 6 if name.startswith("thp") else 1, (64, 64)))


@pytest.mark.parametrize("name", ["dff", "fgfa", "thp-c3", "impression-d", "psla-c", "iff-c"])
def test_segmentation_trains(name):
    torch.manual_seed(0)
    model = alive(METHODS[name](**(TINY | tiny_flow(name, {}) | {"task": "segmentation"})))
    check_gradients(model, step(model, 9 if name.startswith("thp") else 2, (64, 96)))


@pytest.mark.parametrize("name", ["dff", "fgfa", "thp-c3", "impression-d", "psla-c", "iff-c"])
def test_a_still_trains_every_method(name):
    """Of an image without a video the features are used as they are (004: key and current frame are the same)."""
    model = METHODS[name](**(TINY | tiny_flow(name, {}))).eval()
    still = torch.randint(0, 256, (1, 1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(still, SINGLE.steps).features, model.feature_network(still[:, 0]))


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("dff-fix-n", {"aligner"}),
        ("dff-fix-f", {"feature_network", "head"}),
        ("dff-separate", {"feature_network", "head"}),
        ("impression-e", {"aggregator", "head"}),
        ("optflow-a", {"feature_network", "aggregator", "head"}),
        ("optflow-b", {"feature_network", "aligner", "aggregator", "head"}),
    ],
)
def test_what_is_fixed(name, trains):
    model = METHODS[name](**(TINY | tiny_flow(name, {})))
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == trains
    assert (model.training_plan is SINGLE) == (name == "dff-separate")


def test_optical_flow_is_all_that_tells_optflow_from_iff_net():
    optflow, iff = (METHODS[name](**(TINY | tiny_flow(name, {}))) for name in ("optflow-b", "iff-a"))
    assert optflow.training_plan == iff.training_plan
    assert optflow.scheduler == iff.scheduler
    assert optflow.align_current == iff.align_current
    assert type(optflow.aggregator) is type(iff.aggregator)
    assert optflow.losses == iff.losses
