"""Each method against its paper's algorithm, typed out as a loop over a whole video, naive and without reuse.

`VideoPredictor` must give the same features when it is fed frame by frame, in chunks, and all at once, with its state
bounded as the scheduler says. Networks are tiny; the parts themselves have tests of their own.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from keywarp.methods import METHODS
from keywarp.ops import warp
from keywarp.predictor import VideoPredictor
from keywarp.structures import Frame, Memory

TINY: dict = {"backbone": "resnet-tiny", "num_classes": 3, "shorter": 64, "longer": 96}
LENGTH = 23


def clip(length: int = LENGTH, seed: int = 0) -> list[np.ndarray]:
    """A pattern that drifts and flickers, in frames of the network's own size (nothing is resized)."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (96, 160, 3), dtype=np.uint8)
    return [np.ascontiguousarray(np.roll(picture, (t, -2 * t), (0, 1))[:64, :96]) for t in range(length)]


def build(name: str, **options):
    """The method, tiny, with weights large enough that alignment, quality and scale differ from cell to cell."""
    torch.manual_seed(0)
    if name == "iff-h":
        options |= {"deformable": 3}  # the tiny network has four 3×3 layers
    model = METHODS[name](**(TINY | options)).eval()
    generator = torch.Generator().manual_seed(1)
    for part in ("aligner", "aggregator", "transform_net"):
        module = getattr(model, part)
        for parameter in module.parameters() if module is not None else ():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * (0.3 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.05)
    branch = getattr(model.aligner, "quality", None)
    if branch is not None:  # half of the cells of a frame some way from its key are bad
        p = parts(model, clip())
        with torch.no_grad():
            branch.bias.fill_(0.0)
            branch.bias -= torch.cat([p.flow(k, k + 6).quality for k in (0, 5, 10)]).mean()
    return model


def results(model, frames: Sequence[np.ndarray], chunk: int, batch: int = 8):
    """Features of every frame in order of display, and the most that the predictor held of images and memories."""
    seen: dict[int, torch.Tensor] = {}
    predictor = VideoPredictor(model, batch=batch)
    finish = predictor._finish

    def recorded(indices, features, is_key, fallback):
        for n, i in enumerate(indices):
            assert i not in seen, "a frame came out twice"
            seen[i] = features[0][n]
        finish(indices, features, is_key, fallback)

    predictor._finish = recorded
    held, order, keys = (0, 0), [], []
    for start in range(0, len(frames), chunk):
        for result in predictor.push(frames[start : start + chunk]):
            order.append(result.index)
            keys += [result.index] if result.is_key else []
        held = max(held[0], len(predictor._inputs)), max(held[1], len(predictor._memories))
    for result in predictor.flush():
        order.append(result.index)
        keys += [result.index] if result.is_key else []
    assert order == list(range(len(frames)))
    return torch.stack([seen[i] for i in range(len(frames))]), held, keys


def parts(model, frames: Sequence[np.ndarray]):
    """The papers' functions: N_feat, N_flow, the warp, the embedding and the rest, on single frames."""
    images = [torch.from_numpy(f).permute(2, 0, 1)[None] for f in frames]

    def flow(k, i):
        return model.aligner(Memory(images[k], ()), Frame(images[i]))

    def weights(embedded, target):  # 001, Eq. 3
        return torch.stack([F.cosine_similarity(e, target, dim=1, eps=1e-10) for e in embedded]).exp()

    def aggregate(candidates, embedded, target):
        w = weights(embedded, target)
        w = w / w.sum(dim=0)
        return sum(w[n][:, None] * c for n, c in enumerate(candidates))

    return SimpleNamespace(
        images=images,
        feat=lambda i: model.feature_network(images[i])[0],
        low=lambda i: model.transform_net(model.feature_network.low(images[i]))[0],
        flow=flow,
        embed=lambda x: model.aggregator.embed(x),
        aggregate=aggregate,
    )


# The papers' algorithms --------------------------------------------------------------------------------------------


def per_frame(model, frames):
    p = parts(model, frames)
    return [p.feat(i) for i in range(len(frames))]


def deep_feature_flow(model, frames):
    """004, Algorithm 1."""
    p, out = parts(model, frames), []
    for i in range(len(frames)):
        if i % 10 == 0:
            k, key = i, p.feat(i)
            out.append(key)
        else:
            field = p.flow(k, i)
            scale = 1 if field.scale is None else field.scale
            out.append(warp(key, field.flow) * scale)  # Eq. 3
    return out


def flow_guided_aggregation(model, frames, before_warp=True, align_current=True, radius=10):
    """FGFA (001, Eq. 2 and 3), as its authors' code tests: each frame embedded before the warp, itself warped too."""
    p, out = parts(model, frames), []
    for i in range(len(frames)):
        candidates, embedded = [], []
        target = p.embed(p.feat(i))
        for j in range(max(i - radius, 0), min(i + radius, len(frames) - 1) + 1):
            feature = p.feat(j)
            if j == i and not align_current:
                carried, embedding = feature, target
            else:
                flow = p.flow(j, i).flow
                carried = warp(feature, flow)
                embedding = warp(p.embed(feature), flow) if before_warp else p.embed(carried)
            candidates.append(carried)
            embedded.append(embedding)
        out.append(p.aggregate(candidates, embedded, target))
    return out


def unified(model, frames, is_key, do_aggr, do_spatial, before_warp=False):
    """001, Algorithm 1, with its flags; line numbers are the paper's.

    Embeddings are of warped features (Eq. 3), or before_warp warped embeddings where there was no more than a warp.
    """
    p = parts(model, frames)
    k, key = 0, p.feat(0)  # 2, 3
    aggregated = key  # 6
    out = [key]  # 4
    for i in range(1, len(frames)):  # 8
        field = p.flow(k, i)  # 9
        new_key = is_key(i, k, field.quality)  # 10
        carried = warp(key, field.flow)
        if new_key:  # 12: Q = −∞, computed from scratch
            updated = p.feat(i)
        elif do_spatial:  # 14
            memory = Memory(
                p.images[k], (key,), layers=model.updater.key_features(model.feature_network, p.images[k])[1]
            )
            updated = model.updater((carried,), Frame(p.images[i]), memory, field, model.feature_network)[0][0]
        else:  # 16: Q = +∞
            updated = carried
        joined = updated
        if do_aggr:  # 20
            from_key = warp(aggregated, field.flow)
            embedded, target = p.embed(from_key), p.embed(updated)
            if before_warp:
                embedded = warp(p.embed(aggregated), field.flow)
                if not new_key and not do_spatial:
                    target = warp(p.embed(key), field.flow)
            joined = p.aggregate([from_key, updated], [embedded, target], target)
        out.append(joined)  # 21, 23
        if new_key:  # 26
            k, key, aggregated = i, updated, joined
    return out


def every(interval):
    return lambda i, k, quality: i % interval == 0


def adaptive(gamma, longest=100):
    """001, Eq. 9."""
    return lambda i, k, quality: (quality <= 0).float().mean() > gamma or i - k >= longest


def impression_network(model, frames, weighting, gate=1.0, l=10, position=5):  # noqa: E741
    """003, Algorithm 1."""
    p, out, impression, before = parts(model, frames), [None] * len(frames), None, None
    for start in range(0, len(frames), l):
        key = min(start + position, len(frames) - 1)
        own = p.feat(key)
        if impression is None or weighting is None:
            task = impression = own  # Eq. 1
        else:
            field = p.flow(before, key)
            carried = warp(impression, field.flow) * field.scale
            w = weighting(carried, own)  # Eq. 2
            task = (1 - w) * carried + w * own  # Eq. 3
            impression = (1 - gate) * own + gate * task  # Eq. 4
        before = key
        for j in range(start, min(start + l, len(frames))):
            if j == key:
                out[j] = task
            else:
                field = p.flow(key, j)
                out[j] = warp(task, field.flow) * field.scale
    return out


def quality_weighting(model):
    score = model.aggregator.quality
    return lambda carried, own: torch.stack([score(carried), score(own)]).softmax(0)[1]


def progressive_attention(model, frames, recursive, quality_net, l=10, position=4):  # noqa: E741
    """002, sections 3.3 and 3.4."""
    p, out, temporal = parts(model, frames), [None] * len(frames), None

    def attend(feature, query):  # Eq. 1 to 5
        correspondence = model.aligner(Memory(p.images[0], (feature,)), Frame(p.images[0], features=(query,)))
        return correspondence.propagate((feature,))[0]

    def fuse(net, carried, own):  # Eq. 6
        w = net.quality(torch.cat([carried, own], dim=1)).softmax(1)
        return w[:, :1] * carried + w[:, 1:] * own

    for start in range(0, len(frames), l):
        key = min(start + position, len(frames) - 1)
        own = p.feat(key)
        temporal = own if temporal is None or not recursive else fuse(model.aggregator, attend(temporal, own), own)
        for j in range(start, min(start + l, len(frames))):
            if j == key:
                out[j] = temporal
                continue
            encoded = p.low(j)
            carried = attend(temporal, encoded)
            out[j] = fuse(model.updater.aggregator, carried, encoded) if quality_net else carried
    return out


def feature_flow_aggregation(model, frames, radius=10):
    """000, section 3, aggregated as FGFA does; the current frame as it is."""
    p, out = parts(model, frames), []
    for i in range(len(frames)):
        own = p.feat(i)
        target = p.embed(own)
        candidates, embedded = [], []
        for j in range(max(i - radius, 0), min(i + radius, len(frames) - 1) + 1):
            if j == i:
                candidates.append(own)
                embedded.append(target)
                continue
            other = p.feat(j)
            field = model.aligner(Memory(p.images[j], (other,)), Frame(p.images[i], features=(own,)))
            candidates.append(warp(other, field.flow))  # Eq. 1
            embedded.append(warp(p.embed(other), field.flow))
        out.append(p.aggregate(candidates, embedded, target))
    return out


SHORT = {"radius": 3}
AFTER = {"embed_before_warp": False}
PSLA_S = lambda m, f: progressive_attention(m, f, recursive=False, quality_net=False, position=0)  # noqa: E731
PSLA_F = lambda m, f: progressive_attention(m, f, recursive=True, quality_net=True)  # noqa: E731
IFF = lambda m, f: feature_flow_aggregation(m, f, radius=3)  # noqa: E731
FGFA = lambda m, f: flow_guided_aggregation(m, f, radius=3)  # noqa: E731
OPTFLOW = lambda m, f: flow_guided_aggregation(m, f, align_current=False, radius=3)  # noqa: E731
# method, options, its loop, the most images and memories that wait in a predictor fed frame by frame
LOOPS = [
    ("rfcn", {}, per_frame, 0, 1),
    ("dff", {}, deep_feature_flow, 0, 1),
    ("dff-half", {}, deep_feature_flow, 0, 1),
    ("dff-inception", {}, deep_feature_flow, 0, 1),
    ("dff-fix-n", {}, deep_feature_flow, 0, 1),
    ("dff-fix-f", {}, deep_feature_flow, 0, 1),
    ("dff-separate", {}, deep_feature_flow, 0, 1),
    ("dff", {"scale_field": False}, deep_feature_flow, 0, 1),
    ("fgfa", SHORT, FGFA, 4, 7),
    ("fgfa", SHORT | AFTER, lambda m, f: flow_guided_aggregation(m, f, before_warp=False, radius=3), 4, 7),
    ("fgfa", SHORT | {"align_current": False}, OPTFLOW, 4, 7),
    ("optflow-a", SHORT, OPTFLOW, 4, 7),
    ("optflow-b", SHORT, OPTFLOW, 4, 7),
    ("thp-c1", AFTER, lambda m, f: unified(m, f, every(10), True, False), 0, 1),
    ("thp-c1", {}, lambda m, f: unified(m, f, every(10), True, False, before_warp=True), 0, 1),
    ("thp-c2", {}, lambda m, f: unified(m, f, every(10), True, True, before_warp=True), 0, 1),
    ("thp-c2", AFTER, lambda m, f: unified(m, f, every(10), True, True), 0, 1),
    ("thp-c3", AFTER | {"gamma": 0.5}, lambda m, f: unified(m, f, adaptive(0.5), True, True), 0, 1),
    ("impression-a", {}, per_frame, 0, 1),
    ("impression-b", {}, lambda m, f: impression_network(m, f, None), 5, 1),
    ("impression-c", {}, lambda m, f: impression_network(m, f, lambda carried, own: 0.5), 5, 1),
    ("impression-d", {}, lambda m, f: impression_network(m, f, quality_weighting(m)), 5, 1),
    ("impression-e", {}, lambda m, f: impression_network(m, f, quality_weighting(m)), 5, 1),
    ("impression-d", {"gate": 0.3}, lambda m, f: impression_network(m, f, quality_weighting(m), gate=0.3), 5, 1),
    (
        "impression-d",
        {"key_position": 0},
        lambda m, f: impression_network(m, f, quality_weighting(m), position=0),
        0,
        1,
    ),
    ("psla-a", {}, PSLA_S, 0, 1),
    ("psla-b", {}, lambda m, f: progressive_attention(m, f, recursive=True, quality_net=False), 4, 1),
    ("psla-c", {}, PSLA_F, 4, 1),
    ("psla-c", {"embedding": None}, PSLA_F, 4, 1),
    ("psla-nonlocal-s", {}, PSLA_S, 0, 1),
    ("psla-nonlocal-f", {}, PSLA_F, 4, 1),
    ("psla-matchtrans-s", {}, PSLA_S, 0, 1),
    ("psla-matchtrans-f", {}, PSLA_F, 4, 1),
    ("psla-dense-s", {}, PSLA_S, 0, 1),
    ("psla-dense-f", {}, PSLA_F, 4, 1),
    *((f"iff-{letter}", SHORT, IFF, 3, 7) for letter in "abcdefgh"),
]
SLOW_FLOW = {"dff-half", "dff-inception"}


def tiny_flow(name: str, options: dict) -> dict:
    takes_flow = name.startswith(("dff", "fgfa", "optflow", "thp", "impression")) and name != "impression-a"
    return {"flow": "flownet-tiny"} | options if takes_flow and name not in SLOW_FLOW else options


@pytest.mark.parametrize(("name", "options", "loop", "images", "memories"), LOOPS)
def test_method_equals_the_papers_loop(name, options, loop, images, memories):
    model = build(name, **tiny_flow(name, options))
    frames = clip()
    with torch.inference_mode():
        wanted = torch.cat(loop(model, frames))
    if name != "rfcn" and name != "impression-a":
        assert (wanted[1:] - wanted[:-1]).abs().max() > 1e-3  # frames differ, or nothing would be shown
    for chunk in (1, 4, 7, LENGTH):
        got, held, _ = results(model, frames, chunk)
        assert (got - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))
        assert held[0] <= images + (chunk if chunk > 1 else 0)
        assert held[1] <= memories


def test_every_method_has_its_loop():
    assert set(METHODS) - {"sff"} == {name for name, *_ in LOOPS}


@pytest.mark.parametrize(
    ("name", "options", "interval", "do_aggr", "do_spatial"),
    [
        ("rfcn", {}, 1, False, False),
        ("dff", {"scale_field": False, "interval": 5, "flow": "flownet-tiny"}, 5, False, False),
        ("thp-c1", AFTER | {"interval": 5, "flow": "flownet-tiny"}, 5, True, False),
        ("thp-c2", AFTER | {"interval": 5, "flow": "flownet-tiny"}, 5, True, True),
    ],
)
def test_unified_algorithm_with_table_1s_flags(name, options, interval, do_aggr, do_spatial):
    """001, Table 1: the same loop gives each method by its flags. The richest model's networks run all of them."""
    rich = build("thp-c2", flow="flownet-tiny", embed_before_warp=False)
    model = build(name, **options)
    model.load_state_dict({n: t for n, t in rich.state_dict().items() if n in model.state_dict()})
    frames = clip(12)
    with torch.inference_mode():
        wanted = torch.cat(unified(rich, frames, every(interval), do_aggr, do_spatial))
    got, _, keys = results(model, frames, chunk=4)
    assert (got - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))
    assert keys == list(range(0, 12, interval))


def test_unified_algorithm_gives_dense_aggregation_with_line_20_replaced():
    """001, Table 1, row 3: every frame a key frame, and Eq. 2 in place of the recursion."""
    rich = build("thp-c2", flow="flownet-tiny", embed_before_warp=False)
    model = build("fgfa", flow="flownet-tiny", radius=2, embed_before_warp=False, align_current=False)
    model.load_state_dict({n: t for n, t in rich.state_dict().items() if n in model.state_dict()})
    frames = clip(12)
    with torch.inference_mode():
        wanted = torch.cat(flow_guided_aggregation(rich, frames, before_warp=False, align_current=False, radius=2))
    got, _, _ = results(model, frames, chunk=4)
    assert (got - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))


def test_c1_c2_and_c3_share_their_weights():
    names = [set(build(f"thp-{c}", flow="flownet-tiny").state_dict()) for c in ("c1", "c2", "c3")]
    assert names[0] == names[1] == names[2]


def test_adaptive_keys_do_not_depend_on_the_chunks():
    model = build("thp-c3", flow="flownet-tiny", gamma=0.5)
    frames = clip()
    keys = [results(model, frames, chunk)[2] for chunk in (1, 4, LENGTH)]
    assert keys[0] == keys[1] == keys[2]
    assert 1 < len(keys[0]) < LENGTH


@pytest.mark.parametrize("length", [1, 2, 11])
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"sff"}))
def test_short_videos_come_out_whole(name, length):
    got, _, _ = results(build(name, **tiny_flow(name, {})), clip(length), chunk=4)
    assert len(got) == length
    assert torch.isfinite(got).all()
