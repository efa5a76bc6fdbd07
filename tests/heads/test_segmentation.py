import numpy as np
import pytest
import torch
import torch.nn.functional as F

from keywarp.errors import UserError
from keywarp.heads.segmentation import SegmentationHead
from keywarp.model import VideoModel
from keywarp.networks.resnet import ResNet
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.structures import Step
from keywarp.transform import ImageTransform
from tiny import TinyFlow

SIZE = (50, 70)  # of the network's input: 4 × 5 cells


def small_head():
    head = SegmentationHead(6, channels=32)
    torch.nn.init.normal_(head.score.weight)
    torch.nn.init.normal_(head.score.bias)
    return head


def features(images=1):
    return (torch.randn(images, 32, 4, 5),)


def masks(images, size=SIZE):
    return [{"mask": torch.randint(0, 6, size)} for _ in range(images)]


def twin(head, x, size):
    """Scores `[N, K, H, W]`, as the paper has it: the convolution, then the upsampling, all images at once."""
    scores = torch.einsum("kc,nchw->nkhw", head.score.weight[:, :, 0, 0], x) + head.score.bias.view(-1, 1, 1)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def test_the_loss_is_the_mean_over_all_labelled_pixels():
    head, (x,), targets = small_head(), features(3), masks(3)
    targets[1]["mask"][:] = 255
    targets[2]["mask"][:20] = 255
    truth = torch.stack([t["mask"] for t in targets])
    log = twin(head, x, SIZE).log_softmax(dim=1)
    rows = [-log[n, truth[n, y, z], y, z] for n, y, z in (truth != 255).nonzero()]
    loss = head.loss((x,), [SIZE] * 3, targets)
    assert list(loss) == ["segmentation"]
    torch.testing.assert_close(loss["segmentation"], torch.stack(rows).mean())


def test_an_ignored_pixel_changes_nothing():
    head, x, (target,) = small_head(), features(), masks(1)
    target["mask"][:, 35:] = 255
    gradients = []
    for _ in range(2):
        (own,) = x
        own = own.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(head.loss((own,), [SIZE], [target])["segmentation"], own)
        gradients.append(gradient)
        x[0][..., 4] += 1  # the last column of cells reaches pixels from 49 on
    assert gradients[0][..., 4].abs().max() == 0
    torch.testing.assert_close(*gradients)


def test_without_any_label_the_loss_is_zero():
    head, x = small_head(), features()
    loss = head.loss(x, [SIZE], [{"mask": torch.full(SIZE, 255)}])["segmentation"]
    loss.backward()
    assert loss.item() == 0
    assert head.score.weight.grad.abs().max() == 0


def test_the_scores_of_propagated_features_are_the_propagated_scores():
    """The head is linear at each cell: shifting features by a cell shifts scores by a cell."""
    head, (x,) = small_head(), features()
    torch.testing.assert_close(head((x.roll(1, 3),), [SIZE]), head((x,), [SIZE]).roll(1, 3))
    assert head((x,), [SIZE]).shape == (1, 6, 4, 5)
    torch.testing.assert_close(head.maps((x,))[0], head((x,), [SIZE]))


def test_what_cannot_be():
    with pytest.raises(UserError, match="1 to 255"):
        SegmentationHead(256)
    with pytest.raises(ValueError, match=r"mask must be \[H, W\], got \[1, 50, 70\]"):
        small_head().loss(features(), [SIZE], [{"mask": torch.zeros(1, *SIZE, dtype=torch.long)}])


def video_model(transform):
    class Flow(TinyFlow):
        """On cells of 16 pixels."""

        def forward(self, reference, current):
            field = super().forward(reference, current)
            return type(field)(F.avg_pool2d(field.flow, 4, ceil_mode=True) / 4)

    network = ResNet(10, width=16, channels=128)
    return VideoModel(
        network,
        SegmentationHead(6, channels=128),
        scheduler=FixedInterval(3),
        aligner=Flow(),
        transform=transform,
        classes=tuple("abcdef"),
    )


def test_every_parameter_learns_through_propagated_features():
    model = video_model(ImageTransform(shorter=64, longer=96))
    clip = torch.rand(2, 2, 3, 64, 96) * 255
    plan = [Step((0,), is_key=True), Step((1,), is_key=False, references=(0,))]
    losses = model.loss(clip, plan, masks(2, (64, 96)))
    losses["segmentation"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@pytest.mark.parametrize(
    "transform", [ImageTransform(shorter=64, longer=200), ImageTransform(size=(64, 80), letterbox=True)]
)
def test_a_video_gets_label_maps_of_its_own_size(transform):
    model = video_model(transform).eval()
    frames = [np.random.default_rng(i).integers(0, 256, (45, 77, 3), dtype=np.uint8) for i in range(5)]
    with torch.inference_mode():  # scores about zero, so that classes change within a frame
        (x,) = model.feature_network(transform(frames[0])[None])
        torch.nn.init.normal_(model.head.score.weight)
        model.head.score.bias.copy_(-model.head((x,), [])[0].mean(dim=(1, 2)))
    results = list(VideoPredictor(model, batch=2).run(frames))
    assert [r.is_key for r in results] == [True, False, False, True, False]
    assert all(r.segmentation.shape == (45, 77) and r.segmentation.dtype == np.uint8 for r in results)
    place = transform.place(45, 77)
    with torch.inference_mode():
        scores = twin(model.head, x, place.padded)[..., : place.resized[0], : place.resized[1]]
        scores = F.interpolate(scores, size=(45, 77), mode="bilinear", align_corners=False)
    assert (results[0].segmentation == scores[0].argmax(0).numpy()).mean() > 0.999  # a tie may round either way
    assert len(np.unique(results[0].segmentation)) > 1
