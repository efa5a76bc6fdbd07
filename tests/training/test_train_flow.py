"""Flow training: the loss against its definition, samples whose flow fits their images, weights that reach a method."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.test_flow_pairs import write_chairs, write_flo
from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.cli import main
from keywarp.data.flow_pairs import FlowPair, open_flow_pairs
from keywarp.errors import UserError
from keywarp.methods import METHODS
from keywarp.networks.weight_files import save_model
from keywarp.options import TrainFlowOptions
from keywarp.structures import Frame, Memory
from keywarp.training import flow_weights
from keywarp.training.flow_recipes import flow_recipe, synthetic
from keywarp.training.flow_samples import FlowBatch, FlowSamples, augmented, collate_flow
from keywarp.training.processes import Processes
from keywarp.training.train_flow import (
    STRIDES,
    WEIGHTS,
    FlowTask,
    end_point_error,
    in_pixels,
    load_flow,
    multi_scale_error,
    train_flow,
)
from test_papers import TINY

CONFIG = replace(synthetic(), model={"crop": (64, 64)})


def tiny(**options):
    return FLOW_NETWORKS["flownet-tiny"](**({"scale_channels": None} | options))


def levels(size, batch=1):
    return [torch.randn(batch, 2, -(-size[0] // s), -(-size[1] // s)) for s in STRIDES]


def test_the_loss_as_it_reads():
    flow = torch.randn(2, 2, 128, 192) * 10
    flow[0, :, 20:90, 30:100] = float("nan")
    predictions = levels((128, 192), 2)
    losses = multi_scale_error(predictions, flow)
    for loss, prediction, stride, weight in zip(losses.values(), predictions, STRIDES, WEIGHTS, strict=True):
        total = area = 0.0
        for n in range(2):
            for i in range(prediction.shape[2]):
                for j in range(prediction.shape[3]):
                    cell = flow[n, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].flatten(1)
                    known = cell[:, ~cell.isnan().any(0)]
                    if known.shape[1]:
                        share = known.shape[1] / cell.shape[1]
                        area += share
                        total += share * (prediction[n, :, i, j] * stride - known.mean(1)).norm().item()
        assert loss.item() == pytest.approx(weight * total / area, rel=1e-4)


def test_the_exact_flow_has_no_loss_and_comes_out_in_feature_cells():
    """The levels' units are those of the normal forward: zero loss means the right flow in cells of stride 16."""
    exact = torch.tensor([24.0, -8.0]).view(1, 2, 1, 1)
    network = tiny()
    for head in [*network.decoder.flows, network.flow]:
        torch.nn.init.zeros_(head.weight)
        # FlowNet predicts a twentieth of the flow in pixels of the halved images.
        head.bias.data = exact.flatten() / 2 / 20
    images = torch.randint(0, 256, (1, 2, 3, 128, 192), dtype=torch.uint8)
    losses = FlowTask(network)(FlowBatch(images, exact.expand(1, 2, 128, 192), [], []))
    assert len(losses) == len(STRIDES)
    assert torch.stack(list(losses.values())).sum() < 1e-4
    flow = network(Memory(images[:, 1], ()), Frame(images[:, 0])).flow
    torch.testing.assert_close(flow, (exact / 16).expand_as(flow))


def test_unknown_flow_gives_no_gradient_and_no_nan():
    predictions = [p.requires_grad_() for p in levels((64, 64))]
    torch.stack(
        list(multi_scale_error(predictions, torch.full((1, 2, 64, 64), float("nan"))).values())
    ).sum().backward()
    assert all((p.grad == 0).all() for p in predictions)


def test_flow_of_cells_in_pixels_lies_between_their_middles():
    ramp = torch.arange(6.0).view(1, 1, 1, 6).repeat(1, 2, 4, 1)
    whole = in_pixels(ramp, (60, 90))
    assert whole.shape == (1, 2, 60, 90)
    x = torch.arange(90) + 0.5
    torch.testing.assert_close(whole[0, 0, 30], (x - 8).clamp(0, 80))


def smooth_pair(size=(96, 128)) -> FlowPair:
    """A picture whose colour tells the place, and the same one turned and grown: its flow is exact everywhere."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    dx, dy = 3 + 0.05 * (x - 60) - 0.04 * (y - 50), -2 + 0.04 * (x - 60) + 0.05 * (y - 50)

    def colours(x, y):
        return np.stack([1.5 * x + 20, 2 * y + 20, x * 0 + 90], axis=-1)

    current = colours(x, y)
    # Where a point of the reference comes from: (x, y) + flow = there, solved for the affine flow.
    a = np.array([[1.05, -0.04], [0.04, 1.05]])
    there = np.stack([x - (3 - 3 + 2), y - (-2 - 2.4 - 2.5)], axis=-1) @ np.linalg.inv(a).T
    reference = colours(there[..., 0], there[..., 1])
    return FlowPair(
        current.clip(0, 255).round().astype(np.uint8),
        reference.clip(0, 255).round().astype(np.uint8),
        np.stack([dx, dy], axis=-1).astype(np.float32),
    )


@pytest.mark.parametrize(("flip", "zoom"), [(0, (1, 1)), (1, (1, 1)), (0.5, (0.8, 1.5)), (0.5, (1.4, 1.5))])
def test_samples_keep_images_and_flow_together(flip, zoom):
    """The colour at a point of the current image is that of the reference where the flow leads."""
    pair = smooth_pair()
    for seed in range(4):
        got = augmented(pair, replace(CONFIG, flip=flip, zoom=zoom, colour=0.0), np.random.default_rng(seed))
        assert got.current.shape == got.reference.shape == (64, 64, 3)
        assert got.flow.shape == (64, 64, 2)
        there = (torch.from_numpy(np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1)) + got.flow)[None] / 31.5 - 1
        image = torch.from_numpy(got.reference).permute(2, 0, 1)[None].float()
        found = F.grid_sample(image, there.float(), align_corners=True)[0].permute(1, 2, 0).numpy()
        inside = (there[0].abs() < 0.97).all(-1).numpy()
        assert inside.mean() > 0.3
        assert np.abs(found - got.current)[inside].max() < 4


def test_a_sample_depends_on_its_number_and_every_pair_comes_once(tmp_path):
    pairs = open_flow_pairs(write_chairs(tmp_path))
    once, again = FlowSamples(pairs, CONFIG), FlowSamples(pairs, CONFIG)
    first = [once[n] for n in range(16)]
    assert torch.equal(again[11].images, first[11].images)
    assert torch.equal(again[3].flow, first[3].flow)
    for epoch in (first[:8], first[8:]):
        assert len({sample.name for sample in epoch}) == 8
    assert [s.name for s in first[:8]] != [s.name for s in first[8:]]
    batch = collate_flow(first[:3])
    assert batch.images.shape == (3, 2, 3, 64, 64)
    assert batch.flow.shape == (3, 2, 64, 64)


def test_a_broken_pair_costs_a_warning(tmp_path):
    folder = write_chairs(tmp_path)
    (folder / "data/00002_img1.ppm").write_bytes(b"")
    samples = [FlowSamples(open_flow_pairs(folder), CONFIG)[n] for n in range(8)]
    warnings = [w for s in samples for w in s.warnings]
    assert len(warnings) >= 1
    assert "00002_flow.flo: the pair cannot be read" in warnings[0]
    assert "another pair is taken" in warnings[0]


def test_zero_flow_explains_nothing_and_exact_flow_everything(tmp_path):
    pairs = open_flow_pairs(write_chairs(tmp_path), "val")
    network = tiny()
    for head in [*network.decoder.flows, network.flow]:
        torch.nn.init.zeros_(head.weight)
    measures = end_point_error(pairs, Processes("cpu"))(network)
    lengths = [np.linalg.norm(pairs[i].flow[0, 0]) for i in range(2)]
    assert measures["zero"] == pytest.approx(np.mean(lengths), rel=1e-5)
    assert measures == pytest.approx(
        {"explained": 0, "EPE": np.mean(lengths), "zero": np.mean(lengths), "ratio": 1, "cells": 1}
    )
    pairs.source._flow_list = pairs.source._flow_list[:1]
    pairs.source._image_list = pairs.source._image_list[:1]
    network.flow.bias.data = torch.from_numpy(pairs[0].flow[0, 0] / 40)
    assert end_point_error(pairs, Processes("cpu"))(network)["explained"] == pytest.approx(1, abs=1e-5)


def test_a_run_leaves_weights_that_a_method_takes(tmp_path, capsys):
    """Through the command line: train, resume, start from, and load into the aligner of a method."""
    folder = write_chairs(tmp_path / "pairs")
    command = ["train-flow", "flownet-tiny", "--data", str(folder), "--recipe", "synthetic", "--crop", "64", "64"]
    command += ["--images-per-step", "2", "--workers", "0", "--threads", "1", "--device", "cpu"]
    assert main([*command, "--steps", "3", "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().err
    assert "flownet-tiny on" in out
    assert "8 pairs" in out
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[-1]["validation"].keys() >= {"explained", "EPE", "zero", "ratio"}
    assert main([*command, "--steps", "3", "--output", str(tmp_path / "run")]) == 2, "a folder with a run"
    file = tmp_path / "run/model.safetensors"
    assert main([*command, "--steps", "1", "--output", str(tmp_path / "next"), "--init", str(file)]) == 0
    model = METHODS["dff"](**TINY, flow="flownet-tiny")
    before = model.aligner.scale.weight.clone()
    load_flow(model.aligner, file)
    trained = tiny()
    load_flow(trained, file)
    assert torch.equal(model.aligner.flow.weight, trained.flow.weight)
    assert torch.equal(model.aligner.scale.weight, before)


def test_a_short_training_learns(tmp_path):
    """One motion for all: a few steps beat zero flow on held-out pairs."""
    folder = write_chairs(tmp_path / "pairs")
    for path in (folder / "data").glob("*.flo"):
        write_flo(path, np.broadcast_to(np.float32([6, -4]), (64, 96, 2)))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from keywarp.training.flow_recipes import synthetic\n"
        "def one_motion():\n"
        "    return replace(synthetic(), steps=25, images_per_step=4, rate_per_image=5e-4, warmup=1, flip=0,"
        " zoom=(1, 1), model={'crop': (64, 64)})\n"
    )
    options = TrainFlowOptions(
        data=str(folder), recipe=f"{tmp_path}/mine.py:one_motion", output=tmp_path / "run", workers=0, device="cpu"
    )
    train_flow("flownet-tiny", options)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[-1]["validation"]["ratio"] < 0.5


@pytest.mark.parametrize("method", ["dff", "fgfa", "thp-c2", "impression-d"])
def test_flow_goes_into_every_method_that_has_it(tmp_path, method):
    source = tiny()
    save_model(tmp_path / "flow.safetensors", source, {"flow": "flownet-tiny"})
    aligner = METHODS[method](**TINY, flow="flownet-tiny").aligner
    kept = {n: p.clone() for n, p in aligner.named_parameters() if n.startswith(("scale.", "quality."))}
    load_flow(aligner, tmp_path / "flow.safetensors")
    own = aligner.state_dict()
    assert all(torch.equal(own[name], t) for name, t in source.state_dict().items())
    assert all(torch.equal(own[name], t) for name, t in kept.items())


def test_flow_of_a_trained_model_is_taken(tmp_path):
    model = METHODS["dff"](**TINY, flow="flownet-tiny")
    torch.nn.init.normal_(model.aligner.scale.weight)
    save_model(tmp_path / "dff.safetensors", model, model.description)
    network = tiny()
    load_flow(network, tmp_path / "dff.safetensors")
    assert torch.equal(network.flow.weight, model.aligner.flow.weight)


def test_what_is_no_such_flow_network_is_told(tmp_path):
    other = tmp_path / "inception.safetensors"
    save_model(other, FLOW_NETWORKS["flownet-inception"](None), {"flow": "flownet-inception"})
    with pytest.raises(UserError, match="holds a flownet-inception, this model's flow network is flownet-tiny"):
        load_flow(tiny(), other)
    torch.save({"a": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds no flow network; wanted one of flownet-s"):
        load_flow(tiny(), tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"no flow network that .* could fill; leave --init-flow out"):
        load_flow(METHODS["psla-c"](**TINY).aligner, other)


PORT = {
    "conv1": (6, 64, 7, 2), "conv2": (64, 128, 5, 2), "conv3": (128, 256, 5, 2), "conv3_1": (256, 256, 3, 1),
    "conv4": (256, 512, 3, 2), "conv4_1": (512, 512, 3, 1), "conv5": (512, 512, 3, 2), "conv5_1": (512, 512, 3, 1),
    "conv6": (512, 1024, 3, 2), "conv6_1": (1024, 1024, 3, 1),
}  # fmt: skip


def port_weights() -> dict[str, torch.Tensor]:
    """Random tensors by the names and shapes of PyTorch's FlowNetS port: no biases on flow and deconvolutions."""
    state = {}
    for name, (inputs, outputs, kernel, _) in PORT.items():
        state[f"{name}.0.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / inputs / kernel**2) ** 0.5
        state[f"{name}.0.bias"] = torch.randn(outputs) * 0.1
    for n, inputs, outputs in ((6, 1024, 512), (5, 1026, 256), (4, 770, 128), (3, 386, 64)):
        state[f"predict_flow{n}.weight"] = torch.randn(2, inputs, 3, 3) * 0.01
        state[f"deconv{n - 1}.0.weight"] = torch.randn(inputs, outputs, 4, 4) * 0.02
        state[f"upsampled_flow{n}_to_{n - 1}.weight"] = torch.randn(2, 2, 4, 4) * 0.1
    state["predict_flow2.weight"] = torch.randn(2, 194, 3, 3) * 0.01
    return state


def port_forward(state, x):
    """The port's network: its coarser flows, coarsest first, and its last features."""
    skips = []
    for name, (_, _, kernel, stride) in PORT.items():
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        x = F.leaky_relu(F.conv2d(x, weight, bias, stride, kernel // 2), 0.1)
        skips.append(x)
    flows = []
    for n, skip in ((6, skips[7]), (5, skips[5]), (4, skips[3]), (3, skips[1])):
        flows.append(F.conv2d(x, state[f"predict_flow{n}.weight"], padding=1))
        up = F.conv_transpose2d(flows[-1], state[f"upsampled_flow{n}_to_{n - 1}.weight"], stride=2, padding=1)
        finer = F.leaky_relu(F.conv_transpose2d(x, state[f"deconv{n - 1}.0.weight"], stride=2, padding=1), 0.1)
        x = torch.cat([skip, finer, up], dim=1)
    return flows, x


def test_weights_of_the_pytorch_port(tmp_path, monkeypatch):
    state = port_weights()
    torch.save({"arch": "flownets", "state_dict": state, "div_flow": 20}, tmp_path / "flownets.pth")
    network = FLOW_NETWORKS["flownet-s"](None).eval()
    images = torch.randint(0, 256, (2, 3, 128, 256)).float()
    mean = torch.tensor(flow_weights.PORT_MEAN).view(1, 3, 1, 1)
    halved = F.avg_pool2d(images, 2) / 255
    with torch.inference_mode():
        load_flow(network, tmp_path / "flownets.pth")
        first = network.encoder.first
        ours = torch.cat([network._half(images[:1]), network._half(images[1:])], 1)
        theirs = torch.cat([halved[:1] - mean, halved[1:] - mean], 1)
        wanted = F.conv2d(theirs, state["conv1.0.weight"], state["conv1.0.bias"], 2, 3)
        # Beside the border, where zeros mean another colour.
        torch.testing.assert_close(first(ours)[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2], atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(flow_weights, "PORT_MEAN", tuple(m / 255 for m in flow_weights.MEAN))
        load_flow(network, tmp_path / "flownets.pth")
        flows, features = port_forward(state, ours)
        last = F.conv2d(F.avg_pool2d(features, 2), state["predict_flow2.weight"], padding=1)
        got = network.pyramid(Memory(images[1:], ()), Frame(images[:1]))
    for flow, found, stride in zip([*flows, last], got, STRIDES, strict=True):
        torch.testing.assert_close(found, flow * 40 / stride, atol=1e-4, rtol=1e-3)


def test_options_are_checked(tmp_path, capsys):
    folder = write_chairs(tmp_path / "pairs", count=5)
    for wrong, message in (
        (["flownet-x"], "unknown flow network 'flownet-x'"),
        (["flownet-tiny", "--crop", "100", "64"], "--crop must be a height and a width that are multiples of 64"),
        (["flownet-tiny", "--recipe", "chair"], "unknown recipe 'chair'; did you mean chairs?"),
    ):
        assert main(["train-flow", *wrong, "--data", str(folder), "--output", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    assert main(["train-flow", "flownet-tiny", "--data", str(tmp_path / "nowhere")]) == 2
    assert "holds no flow pairs" in capsys.readouterr().err


def test_the_paper_s_schedule():
    config = flow_recipe("chairs")
    assert (config.steps, config.images_per_step) == (600_000, 8)
    assert config.rate == pytest.approx(1e-4)
