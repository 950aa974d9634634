"""The square at one position: against the net's own forward pass on the covered image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.stacks import stacks
from zfnet import ZFNet
from zfnet.methods import occlusion
from zfnet.methods.occlusion import LiveOcclusion


class Whole(nn.Module):
    def __init__(self, features, channels):
        super().__init__()
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(4 * channels, 3)).double()

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@settings(max_examples=40, deadline=None)
@given(stacks(), st.data())
@pytest.mark.slow
def test_one_position_is_the_full_pass(drawn, data):
    features, (rows, cols) = drawn
    image = torch.randn(
        3, rows, cols, dtype=torch.float64, generator=torch.Generator().manual_seed(rows)
    )
    with torch.no_grad():
        channels = features(image[None]).shape[1]
    model = Whole(features, channels).double()
    names = [name for name, _ in features.named_children()]
    layer = data.draw(st.sampled_from(names))
    live = LiveOcclusion(model, image, fill=0.3, layer=layer, channel=0)
    size = data.draw(st.integers(1, min(rows, cols)))
    top, left = data.draw(st.integers(0, rows - size)), data.draw(st.integers(0, cols - size))
    covered = image.clone()
    covered[:, top : top + size, left : left + size] = 0.3
    with torch.no_grad():
        x, maps = covered[None], {}
        for name, module in features.named_children():
            x = maps[name] = module(x.clone())
            maps[name] = x.clone()
        logits = model.classifier(model.avgpool(x).flatten(1))[0]
    for incremental in (True, False, None):
        found, chosen = live.at(top, left, size, incremental)
        assert torch.allclose(found, logits, atol=1e-9) and torch.allclose(
            chosen, maps[layer][0, 0], atol=1e-9
        )


def test_the_square_chooses_the_cheaper_way(monkeypatch):
    model = ZFNet(5, input_size=224, maps=(8, 8, 8, 8, 8), fc=())
    live, taken, changed = (
        LiveOcclusion(model, torch.randn(3, 224, 224)),
        [],
        occlusion.changed_maps,
    )
    monkeypatch.setattr(
        occlusion, "changed_maps", lambda *given: taken.append("changed") or changed(*given)
    )
    live.at(30, 40, 16)
    assert taken == ["changed"]
    live.at(0, 0, 220)
    assert taken == ["changed"]


def test_a_square_outside_the_image_is_named():
    live = LiveOcclusion(ZFNet(5, input_size=66, maps=(2,) * 5, fc=()), torch.zeros(3, 66, 66))
    with pytest.raises(
        ValueError,
        match=r"a square of 20 pixels at \(50, 0\) does not lie in the image of 66 x 66 pixels",
    ):
        live.at(50, 0, 20)
    with pytest.raises(ValueError, match="channel 2 is not in relu5, which has channels 0 to 1"):
        live.follow("relu5", 2)
    with pytest.raises(ValueError, match="no layer 'relu6': choose one of conv1"):
        live.follow("relu6")
