import torch
from torchvision.ops import box_iou

from keywarp.heads.rfcn import COPIES, OBJECTS, REGIONS, RFCNHead, cell_labels, moved_copies, region_loss
from keywarp.structures import VideoDetections

SIZE = (160, 240)


def small_head(**options):
    torch.manual_seed(0)
    head = RFCNHead(5, channels=64, anchor_scales=(2, 4, 8), **options).eval()
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return head


def features(images=1, size=SIZE):
    return (torch.randn(images, 64, -(-size[0] // 16), -(-size[1] // 16)).relu(),)


def target(*rows):
    boxes = torch.tensor([r[:4] for r in rows], dtype=torch.float).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor([r[4] for r in rows], dtype=torch.long)}


@torch.inference_mode()
def test_lazy_scores_are_the_dense_scores():
    head, x = small_head(), features(2)
    lazy = head(x, [SIZE] * 2)
    head.lazy = False
    for ours, dense in zip(lazy, head(x, [SIZE] * 2), strict=True):
        assert len(ours) == len(dense) > 0
        torch.testing.assert_close(ours.scores, dense.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.boxes, dense.boxes, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_suppressing_the_boxes_of_the_unsuppressed_head_gives_the_head():
    head, x = small_head(score_threshold=0.05), features(3)
    raw, suppress = head.unsuppressed()
    everything = raw(x, [SIZE] * 3)
    found = head(x, [SIZE] * 3)
    assert sum(map(len, everything)) > 2 * sum(map(len, found)) > 0
    assert len(head(x, [SIZE] * 3)[0]) == len(found[0])  # the head itself is as it was
    for ours, theirs in zip(suppress(VideoDetections.of(everything)).by_frame(3), found, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores)
        torch.testing.assert_close(ours.boxes, theirs.boxes)
        assert torch.equal(ours.labels, theirs.labels)


@torch.inference_mode()
def test_images_together_are_images_one_by_one():
    head, (x,) = small_head(), features(3)
    sizes = [SIZE, (150, 230), (100, 240)]
    together = head((x,), sizes)
    for n, size in enumerate(sizes):
        (alone,) = head((x[n : n + 1],), [size])
        torch.testing.assert_close(alone.boxes, together[n].boxes, atol=1e-3, rtol=0)
        assert (alone.boxes[:, 2] <= size[1]).all()
        assert (alone.boxes[:, 3] <= size[0]).all()


@torch.inference_mode()
def test_results_are_limited_sorted_and_labelled_from_zero():
    (found,) = small_head(max_detections=20, score_threshold=0.01)(features(), [SIZE])
    assert len(found) == 20
    assert (found.scores.diff() <= 0).all()
    assert (found.scores > 0.01).all()
    assert set(found.labels.tolist()) <= set(range(5))


def test_the_maps_have_the_papers_sizes():
    maps = RFCNHead(30).maps((torch.zeros(1, 1024, 2, 3),))
    assert [m.shape[1] for m in maps] == [18, 36, 1519, 392]


def test_every_parameter_gets_a_gradient():
    head = small_head().train()
    losses = head.loss(features(2), [SIZE] * 2, [target((20, 20, 90, 80, 3)), target((5, 60, 70, 150, 0))])
    assert set(losses) == {"rpn_objectness", "rpn_box", "cls", "box"}
    sum(losses.values()).backward()
    for name, p in head.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_images_without_objects_train_as_background():
    head = small_head().train()
    losses = head.loss(features(), [SIZE], [target()])
    assert losses["box"] == losses["rpn_box"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_the_hardest_regions_train():
    regions = torch.tensor([[0.0, 0, 10, 10]]).repeat(300, 1)
    logits = torch.zeros(300, 3)
    logits[:200, 0] = 10  # sure of the background, and right
    logits.requires_grad_()
    cls, box = region_loss(regions, logits, torch.zeros(300, 4), torch.zeros(0, 4), torch.zeros(0).long())
    cls.backward()
    used = logits.grad.abs().sum(1) > 0
    assert used.sum() == REGIONS
    assert used[200:].all(), "the unsure ones are the hardest"
    assert box == 0


def test_overlapping_regions_learn_class_and_offsets():
    regions = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4], [50, 50, 60, 60]])
    logits, offsets = torch.zeros(3, 3, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    cls, box = region_loss(regions, logits, offsets, torch.tensor([[1.0, 0, 11, 10]]), torch.tensor([1]))
    (cls + box).backward()
    assert (logits.grad.argmin(1) == torch.tensor([2, 0, 0])).all()  # label 1 is column 2; IoU < 0.5 is background
    assert offsets.grad[0, 0] < 0
    assert (offsets.grad[1:] == 0).all()


def test_any_regions_train_a_quarter_of_them_objects_at_most():
    regions = torch.tensor([[0.0, 0, 10, 10]] * 60 + [[50.0, 50, 60, 60]] * 240)
    used = torch.zeros(300)
    for _ in range(20):
        logits, offsets = torch.zeros(300, 3, requires_grad=True), torch.zeros(300, 4, requires_grad=True)
        truth, labels = torch.tensor([[1.0, 0, 11, 10]]), torch.tensor([1])
        cls, box = region_loss(regions, logits, offsets, truth, labels, hardest=False)
        (cls + box).backward()
        chosen = logits.grad.abs().sum(1) > 0
        assert chosen.sum() == REGIONS
        assert chosen[:60].sum() == OBJECTS
        assert (offsets.grad.abs().sum(1) > 0).sum() == OBJECTS
        used += chosen
    assert (used > 0).all()


def test_fewer_bins():
    head = small_head(group=3)
    assert head.score_maps.sizes[2:] == (9 * 6, 9 * 8)
    x = features(1)
    with torch.no_grad():
        lazy = head(x, [SIZE])[0]
        head.lazy = False
        dense = head(x, [SIZE])[0]
    assert torch.allclose(lazy.scores, dense.scores, atol=1e-5)


def test_moved_copies_are_near_their_boxes():
    boxes = torch.tensor([[0.0, 10, 60, 90], [200, 100, 240, 150]])
    copies = moved_copies(boxes, SIZE)
    assert 0 < len(copies) <= COPIES
    assert (box_iou(copies, boxes).amax(dim=1) >= 0.5).all()
    assert (copies != boxes[:1]).any(dim=1).all()
    assert (copies[:, 2] <= SIZE[1]).all()
    assert (copies >= 0).all()
    assert moved_copies(boxes[:0], SIZE).shape == (0, 4)


def test_a_cell_is_of_the_smallest_box_around_its_centre():
    boxes = torch.tensor([[0.0, 0, 48, 32], [16, 0, 32, 16], [60, 60, 64, 64]])
    labels = cell_labels(boxes, torch.tensor([4, 0, 2]), (3, 4), 16)
    assert labels.tolist() == [[5, 1, 5, 0], [5, 5, 5, 0], [0, 0, 0, 0]]
    assert cell_labels(boxes[:0], torch.zeros(0).long(), (1, 2), 16).tolist() == [[0, 0]]


def test_the_auxiliary_head_learns_and_changes_no_detection():
    head, x = small_head(auxiliary=True), features()
    losses = head.loss(x, [SIZE], [target((20, 20, 90, 80, 3))])
    losses["auxiliary"].backward()
    assert head.auxiliary.weight.grad[4].abs().sum() > 0
    assert all(p.grad is None for p in head.score_maps.parameters())
    with torch.inference_mode():
        (before,) = head(x, [SIZE])
        torch.nn.init.normal_(head.auxiliary.weight)
        (after,) = head(x, [SIZE])
    assert torch.equal(before.scores, after.scores)
