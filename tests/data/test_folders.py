"""People's own folders: what each layout is taken for, and what is said of the files left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import Profile, load_data
from zfnet.store.errors import UserError
from zfnet.store.profiles import DataConfig


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return tmp_path


def loaded(root="images", **config):
    config = {"source": "folder", "root": root, "resize": 8, "size": 8, **config}
    return load_data(Profile("p", "P", data=DataConfig(**config)))


def photos(folder, count=4, seed=0):
    """`count` small images, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        pixels = np.random.default_rng([seed, n, *folder.name.encode()]).integers(0, 256, (9, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")


def everything(data):
    """{(name, class)} of all images of all three splits."""
    return {
        (name, split.classes[label])
        for split in (data.train, data.val, data.test)
        for name, label in zip(split.names, split.labels.tolist(), strict=True)
    }


# --- Several folders ------------------------------------------------------------------------------


def test_a_list_of_folders_is_one_pool_with_classes_by_name(root):
    for folder, label in (("one", "cat"), ("one", "dog"), ("deep/two", "dog"), ("deep/two", "ant")):
        photos(root / folder / label)
    data = loaded(("one", "deep/two"))
    assert data.classes == ("ant", "cat", "dog")
    assert everything(data) == {
        (f"{folder}/{label}/{n}.png", label)
        for folder, label in (
            *(("one", "cat"), ("one", "dog")),
            *(("deep/two", "dog"), ("deep/two", "ant")),
        )
        for n in range(4)
    }
    assert data.test.group is None
    alone = loaded(("one",))  # a list of one is that folder
    assert everything(alone) == everything(loaded("one")) and alone.classes == ("cat", "dog")


def test_folders_in_one_another_or_of_different_kinds_are_refused(root):
    photos(root / "one" / "cat")
    photos(root / "two" / "train" / "cat")
    photos(root / "two" / "test" / "cat")
    with pytest.raises(UserError, match=r"one/cat lies in .*one, and its images would count twice"):
        loaded(("one", "one/cat"))
    with pytest.raises(
        UserError, match=r"some of the folders are divided .*\(those of cat\): name the parts one"
    ):
        loaded(("one", "two"))
    assert len(everything(loaded(("one", "two/train", "two/test")))) == 12


def test_crops_know_their_photograph(root):
    data = load_data(Profile("p", "P", data=DataConfig(source="photos", count=36, resize=112)))
    for split in (data.train, data.val, data.test):
        of = [name.split(" ")[0] for name in split.names]
        same = torch.tensor([[one == other for other in of] for one in of])
        assert torch.equal(split.group[:, None] == split.group, same)
