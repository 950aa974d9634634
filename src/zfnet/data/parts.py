"""Where the parts of objects are (paper, Table 1: the eyes and the nose of five frontal dogs):
keypoints of the built-in faces, or boxes in a small YAML file.

A profile of photographs names the file, `correspondence: {boxes: data/folder/parts.yaml}`, and the
file names the images and their parts:

    dogs/rex.jpg:                      # as in the data's folder; or a number, of a test image
      right_eye: [61, 120, 89, 148]    # top, left, bottom, right; bottom and right outside
      left_eye: [60, 70, 88, 98]       # in pixels of the network's input
      nose: [96, 92, 124, 120]
      object: [30, 40, 170, 160]       # may be left out: where the control's random masks lie

Every image has the same parts. Images that the data does not have are left out, with a warning,
while two are left.
"""

import dataclasses
import warnings
from dataclasses import dataclass

import torch

from zfnet.data.images import Data, Images
from zfnet.store.errors import UserError, WrongType, require
from zfnet.store.profiles import Profile, shipped
from zfnet.store.schema import read_yaml

OBJECT = "object"  # the name, in the file, of what is no part but holds them
FORMAT = "src/zfnet/data/parts.py"


@dataclass(frozen=True)
class Parts:
    """Images and where their parts are: `boxes` int64 (N, P, 4), in the order of `names`: top,
    left, bottom, right in input pixels, maybe beyond the border.

    `objects` bool (N, S, S): the object's pixels; all of them where nobody says which they are.
    """

    images: Images
    names: tuple[str, ...]
    boxes: torch.Tensor
    objects: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: torch.Tensor) -> "Parts":
        return Parts(
            self.images.subset(indices), self.names, self.boxes[indices], self.objects[indices]
        )


def load_parts(profile: Profile, data: Data) -> Parts:
    """Boxes from the profile's file, of images of any split; without a file, squares on the
    keypoints of the test images that have them all.

    Raises FileNotFoundError, ValueError or TypeError, with the cure, where there is neither, or
    where the file does not fit the images.
    """
    config = profile.correspondence
    if config.boxes:
        return _from_file(config.boxes, data)
    images, names, points = data.test, config.parts, data.test.keypoints
    require(
        points is not None,
        f"the images of profile {profile.name!r} have no keypoints: write where their parts are"
        " into a YAML file and name it in the profile, `correspondence: {boxes:"
        f" data/{profile.name}/parts.yaml}}`; the format stands in {FORMAT}",
    )
    for name in names:
        known = f"choose from {', '.join(points)}"
        require(name in points, f"correspondence.parts: no keypoint {name!r}", known)
    # keypoints are in stored pixels, boxes in those of the centre crop
    places = torch.stack([points[name] for name in names], 1) - torch.tensor(images.corner)
    whole = places.isfinite().all(-1).all(-1).nonzero().flatten()
    corners = (places[whole] - config.size / 2).round().long()
    images = images.subset(whole)
    objects = (
        images.mask(range(len(images)))
        if images.masks is not None
        else torch.ones(len(images), images.size, images.size, dtype=torch.bool)
    )
    return Parts(images, names, torch.cat([corners, corners + config.size], -1), objects)


def _from_file(boxes_file: str, data: Data) -> Parts:
    """The images that the file names, of any split, and their boxes."""
    path, where = shipped(boxes_file), f"correspondence.boxes {boxes_file}"
    require(
        path.is_file(),
        f"{where}: there is no such file; the format stands in {FORMAT}",
        kind=FileNotFoundError,
    )
    content = read_yaml(path, where)
    require(
        isinstance(content, dict)
        and content
        and all(isinstance(boxes, dict) and boxes.keys() - {OBJECT} for boxes in content.values()),
        f"{where}: expected images, each with its parts: `dogs/rex.jpg: {{nose: [top, left, bottom,"
        " right]}`",
        kind=WrongType,
    )
    names = tuple(name for name in next(iter(content.values())) if name != OBJECT)
    places = {
        name: (images, i)
        for images in (data.test, data.val, data.train)
        for i, name in enumerate(images.names or ())
    }
    size = data.test.size
    there = {
        image: boxes for image, boxes in content.items() if type(image) is int or image in places
    }
    if 2 <= len(there) < len(content):  # another copy of the data, or another draw of its images
        gone = [str(image) for image in content if image not in there]
        warnings.warn(
            f"{where}: {len(gone)} of {len(content)} images are not in the data:"
            f" {', '.join(gone[:5])}. Left out",
            stacklevel=3,
        )
        content = there
    chosen, table, objects = [], [], torch.zeros(len(content), size, size, dtype=torch.bool)
    for n, (image, boxes) in enumerate(content.items()):
        place = (
            (data.test, image)
            if type(image) is int and 0 <= image < len(data.test)
            else places.get(image)
        )
        if place is None:
            known = (
                f"give a name as in the data's folder, such as {next(iter(places))!r}, or"
                if places
                else "these images have no names: give"
            )
            raise UserError(
                f"{where}: no image {image!r}: {known} a number from 0 to {len(data.test) - 1}"
                " (which image of the test split)"
            )
        own, first = (", ".join(map(str, each)) for each in (boxes, names))
        require(
            boxes.keys() - {OBJECT} == set(names),
            f"{where}: {image} has the parts {own}, the first image {first}",
            "every image needs the same",
        )
        chosen.append((place[0], torch.tensor([place[1]])))
        table.append([_box(boxes[name], f"{where}: {image}: {name}", size) for name in names])
        top, left, bottom, right = _box(
            boxes.get(OBJECT, [0, 0, size, size]), f"{where}: {image}: {OBJECT}", size
        )
        objects[n, top:bottom, left:right] = True
    images = dataclasses.replace(
        data.test,
        pixels=torch.cat([split.pixels[index] for split, index in chosen]),
        labels=torch.cat([split.labels[index] for split, index in chosen]),
        names=[str(image) for image in content],
        masks=None,
        keypoints=None,
        group=None,
    )
    return Parts(images, tuple(map(str, names)), torch.tensor(table), objects)


def _box(value, where: str, size: int) -> list[int]:
    require(
        isinstance(value, list) and len(value) == 4 and all(type(n) is int for n in value),
        f"{where} = {value!r}: expected [top, left, bottom, right], whole pixels",
        kind=WrongType,
    )
    top, left, bottom, right = value
    require(
        0 <= top < bottom <= size and 0 <= left < right <= size,
        f"{where} = {value}: expected 0 <= top < bottom <= {size} and 0 <= left < right <= {size},"
        " the network's input",
    )
    return value
