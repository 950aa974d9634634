"""Photographs against crops of the same pictures by PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zfnet.data import photographs as photos


@pytest.mark.slow
def test_photographs_are_cropped_at_several_scales():
    made = photos.make_photos(60, 40, seed=3)
    assert made.images.shape == (60, 3, 40, 40) and made.labels.tolist() == [
        n % len(photos.CLASSES) for n in range(60)
    ]
    for n, name in enumerate(photos.CLASSES):  # the first of each: its middle, whole
        picture = photos.photograph(name)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        expected = picture.crop((left, top, left + side, top + side)).resize(
            (40, 40), Image.Resampling.BICUBIC
        )
        assert np.array_equal(made.images[n].permute(1, 2, 0).numpy(), np.array(expected)), name
        assert made.names[n] == f"{name} ({top}, {left}), {side} px"
    mirrored = []
    for n in range(len(photos.CLASSES), 60):
        name, rest = made.names[n].split(" (")
        top, left, side = (
            int(number) for number in rest.replace("),", ",").removesuffix(" px").split(", ")
        )
        picture = photos.photograph(name)
        largest = min(picture.size)
        assert (
            max(40, largest / 8**0.5 - 1) <= side <= largest
            and left + side <= picture.width
            and top + side <= picture.height
        )
        crop = torch.from_numpy(
            np.array(
                picture.crop((left, top, left + side, top + side)).resize(
                    (40, 40), Image.Resampling.BICUBIC
                )
            )
        ).permute(2, 0, 1)
        mirrored.append(torch.equal(made.images[n], crop.flip(2)))
        assert mirrored[-1] or torch.equal(made.images[n], crop)
    assert 10 < sum(mirrored) < 38
    again, other = photos.make_photos(30, 40, seed=3), photos.make_photos(30, 40, seed=4)
    assert torch.equal(again.images, made.images[:30]) and not torch.equal(
        other.images[20:], made.images[20:30]
    )
    assert len({name.split(") ")[-1] for name in made.names}) > 20


def test_photographs_name_what_is_wrong():
    with pytest.raises(ValueError, match="count = 3: at least 12, one crop of each photograph"):
        photos.make_photos(3, 40)
    with pytest.raises(ValueError, match="no photograph 'lena': choose one of astronaut"):
        photos.photograph("lena")
