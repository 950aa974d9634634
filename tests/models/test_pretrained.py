"""The pretrained profiles, end to end: random weights in files of the publishers' formats, where
their download would lie, and a folder of images.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import (
    Deconvnet,
    class_names,
    load_data,
    load_model,
    load_profile,
    load_scan,
    paper_layers,
)
from zfnet.data.images import IMAGENET

# what torchvision calls its files; it downloads those that are not there
FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg19": "vgg19-dcbb9e9d.pth"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project whose data/folder holds 24 noisy images of two classes; torchvision's cache is in
    it, too.
    """
    for n in range(24):
        path = tmp_path / "data/folder" / ("left", "right")[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(
            np.random.default_rng(n).integers(0, 256, (260, 270, 3), dtype=np.uint8)
        ).save(path)
    profiles = {name: load_profile(name) for name in ("vgg19", "zfnet_imagenet")}
    model = dataclasses.replace(profiles["vgg19"].model, name="alexnet_imagenet")
    profiles["alexnet"] = dataclasses.replace(profiles["vgg19"], name="alexnet", model=model)
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    return tmp_path, profiles


def published(name: str) -> torch.nn.Module:
    """The publisher's own net, with random weights."""
    if name == "zfnet_imagenet":
        from pytorchcv.model_provider import get_model

        return get_model("zfnet", pretrained=False).eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize("name", ["alexnet", "vgg19", "zfnet_imagenet"])
@pytest.mark.slow
def test_the_profile_runs_on_a_folder_with_weights_of_the_publishers_format(folder, name):
    root, profiles = folder
    torch.manual_seed(0)
    theirs, profile = published(name), profiles[name]
    if name in FILES:
        weights = root / "torch/hub/checkpoints" / FILES[name]
    else:
        weights = root / "zfnet.pth"
        profile = dataclasses.replace(
            profile, model=dataclasses.replace(profile.model, weights=weights.name)
        )
    torch.save(theirs.state_dict(), weights)
    data, model = load_data(profile), load_model(profile)
    weights.unlink()
    assert (
        len(data.val) == 10
        and data.val.size == 224
        and len(class_names(profile, data.classes)) == 1000
    )
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in IMAGENET)
    images = data.val.batch([0, 3])
    torch.testing.assert_close(
        images, (data.val.pictures([0, 3]) / 255 - mean) / std, rtol=1e-5, atol=1e-5
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images.contiguous()), rtol=1e-3, atol=1e-4)
    if name.startswith("vgg"):
        return  # the same code; their scan takes long
    layer = paper_layers(model.features)[5]
    top = load_scan(profile, model, data.val, [layer])[layer]
    maps = Deconvnet(model.features).activations(data.val.batch(range(10)), layer)
    torch.testing.assert_close(
        top.value, maps.amax((2, 3)).T.sort(1, descending=True).values[:, :9], rtol=1e-4, atol=1e-5
    )


def test_without_images_the_cure_is_named(folder):
    _, profiles = folder
    profile = dataclasses.replace(
        profiles["alexnet"], data=dataclasses.replace(profiles["alexnet"].data, root="data/nowhere")
    )
    with pytest.raises(
        FileNotFoundError,
        match=r"no folder .*nowhere: put images there as CLASS/image.jpg, or set `data: root:`",
    ):
        load_data(profile)
