"""What has to be seen on a GPU, a part at a time; benchmarks/gpu.sh runs all of them.

    python -m benchmarks.gpu projections --out FOLDER      # FOLDER/projections.json
    python -m benchmarks.gpu rates --out FOLDER --small    # tiny sizes: a dry run, on any device

Exactness is against independent computations in float64 on the CPU. A part writes its file as soon
as it is done, also where a comparison fails; then it ends with 1.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg, write_file

from tests.helpers import oracle
from zfnet import Deconvnet, ZFNet, load_data, load_profile, occlude, paper_layers, scan, train
from zfnet.data import shapes
from zfnet.data.files import Files
from zfnet.data.images import Images, batches
from zfnet.graph.forward import forward
from zfnet.models.build import build_model, read_weights
from zfnet.store import artefacts, distributed, profiles, provenance
from zfnet.store.profiles import DataConfig, ModelConfig, Profile, TrainingConfig
from zfnet.training import evaluation, run, start

LAYERS = {
    "zfnet": [f"features.relu{n}" for n in range(1, 6)],
    "resnet18": ["relu", "layer1.1.relu:2", "layer2.0.relu", "layer3.0.relu:2"],
    "squeezenet1_1": ["features.1", "features.4.expand3x3_activation", "features.12.squeeze"],
    "googlenet": ["conv2.conv", "inception3a.branch3.1.conv", "inception4e.branch2.1.conv"],
}
FEW = {"zfnet": ["features.relu3"], "resnet18": ["layer1.1.relu:2"]}
EXACT = 1e-4  # the relative error of float32 that is taken for rounding
DEVICE = distributed.default_device()  # in full float32


def net(name: str) -> tuple[nn.Module, nn.Module]:
    """A net with random weights in float64 on the CPU, to compare with, and in float32 on the
    device.
    """
    torch.manual_seed(0)
    if name == "zfnet":
        model = oracle.lively(ZFNet(20, fc=(64,), input_size=96))
    else:
        plain = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=20, **plain)
        model = oracle.lively(model)
    return model, copy.deepcopy(model).float().to(DEVICE)


def picture() -> torch.Tensor:
    return torch.randn(
        1, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def hooked(model: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    """What a module puts out, ":2" in its second call, in the net's own forward pass."""
    name, _, call = layer.partition(":")
    seen = []
    hook = model.get_submodule(name).register_forward_hook(
        lambda *each: seen.append(each[2].clone())
    )
    model(images)
    hook.remove()
    return seen[int(call or 1) - 1]


def synchronised() -> float:
    """The time, once the device has done all that it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def projections(small: bool) -> dict:
    """The strongest unit of some layers, by windows and as a whole, against autograd with another
    ReLU. Where two values of a pool's window differ by rounding alone, float32 may choose the
    other, as the oracle in float32 shows: such a unit is counted, not compared.
    """
    error, undecided, image = {}, [], picture()
    for name, names in (FEW if small else LAYERS).items():
        model, ours = net(name)
        deconvnet, error[name] = Deconvnet(ours), 0.0
        for layer in names:
            maps = Deconvnet(model).activations(image, layer)[0]
            unit = tuple(map(int, torch.unravel_index(maps.argmax(), maps.shape)))
            expected = oracle.project(model, image, layer, unit, "deconvnet")
            single = copy.deepcopy(model).float()
            if relative(
                oracle.project(single, image.float(), layer, unit, "deconvnet"), expected
            ) > (EXACT):
                undecided.append(f"{name} {layer}")
                continue
            for windows in (True, False):
                given = image.float().to(DEVICE), layer, unit[0], unit[1:]
                found = deconvnet.project(*given, windows=windows)
                error[name] = max(error[name], relative(found, expected))
    return {"error": error, "undecided": undecided, "ok": max(error.values()) < EXACT}


def occlusion(small: bool) -> dict:
    """Logits under a square of 24 pixels, incrementally and by full passes, against the image with
    the square painted on it.
    """
    error, image = {}, picture()
    stride = 72 if small else 12
    for name in FEW if small else LAYERS:
        model, ours = net(name)
        painted = []
        for top in range(0, 73, stride):
            for left in range(0, 73, stride):
                painted.append(image[0].clone())
                painted[-1][:, top : top + 24, left : left + 24] = 0
        with torch.no_grad():
            expected = torch.cat([model(one[None]) for one in painted])
        for incremental in (True, False):
            given = image[0].float().to(DEVICE), 0, 24, stride
            found = occlude(ours, *given, incremental=incremental).logits.flatten(0, 1)
            error[name] = max(error.get(name, 0.0), relative(found, expected))
    return {"error": error, "ok": max(error.values()) < EXACT}


def scans(small: bool) -> dict:
    """The nine largest activations of every map over drawn images, against plain maxima."""
    error, count = {}, 10 if small else 100
    pixels = shapes.make_shapes(count, 96).images
    images = ((pixels.double() - 120) / 60).float()
    dataset = torch.utils.data.TensorDataset(images, torch.zeros(count))
    for name, names in (FEW if small else LAYERS).items():
        model, ours = net(name)
        top, error[name] = scan(ours, dataset, names, batch_size=16), 0.0
        for layer in names:
            best = hooked(model, images.double(), layer).amax((2, 3)).T.topk(9).values
            error[name] = max(error[name], relative(top[layer].value, best))
    return {"error": error, "ok": max(error.values()) < EXACT}


@dataclasses.dataclass
class _Cut:
    """`evaluate` until its second call, which is interrupted."""

    real: object
    calls: int = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return self.real(*args, **kwargs)


def resume(small: bool) -> dict:
    """A training that was interrupted and taken up again, against one that was not, bit for bit;
    and two that were not, since a GPU need not repeat itself.
    """
    training = TrainingConfig(epochs=3, batch_size=16, lr=0.01, schedule="onecycle")
    model = ModelConfig(maps=(8,) * 5 if small else (32,) * 5, fc=(32,))
    first = Profile(
        "first",
        "",
        data=DataConfig(count=80 if small else 400, size=64, resize=68),
        model=model,
        training=training,
    )
    second, cut = (dataclasses.replace(first, name=name) for name in ("second", "cut"))
    data = load_data(first)
    for profile in (first, second):
        train(profile, data, progress=False)
    real = evaluation.evaluate
    evaluation.evaluate = _Cut(real)
    try:
        train(cut, data, progress=False)
    except KeyboardInterrupt:
        pass
    finally:
        evaluation.evaluate = real
    resumed = cut.checkpoint_file.is_file()
    train(cut, data, progress=False)
    one, two, taken_up = (read_weights(each.weights_file) for each in (first, second, cut))
    repeats = all(torch.equal(one[name], two[name]) for name in one)
    equal = all(torch.equal(one[name], taken_up[name]) for name in one)
    error = max(relative(taken_up[name], one[name]) for name in one if one[name].any())
    return {
        "resumed": resumed,
        "repeats": repeats,
        "bit_equal": equal,
        "error": error,
        "ok": resumed and (equal or not repeats),
    }


def ddp(small: bool) -> dict:
    """The gradients of DistributedDataParallel in a group of one process, by nccl on CUDA, against
    those of the net alone.
    """
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": os.environ.get("MASTER_PORT", "29577"),
    }
    backend = "cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        model, images = net("zfnet")[1].eval(), picture().float().to(DEVICE)
        whole = nn.parallel.DistributedDataParallel(distributed._Whole(model, forward))
        found = []
        for call in (whole, lambda x: forward(model, x)):
            model.zero_grad()
            F.cross_entropy(call(images), torch.tensor([3], device=DEVICE)).backward()
            found.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
        together = distributed.summed(torch.tensor([1.5]))
    finally:
        dist.destroy_process_group()
    error = relative(*found)
    return {"backend": backend, "error": error, "ok": error < 1e-6 and together.item() == 1.5}


def rates(small: bool) -> dict:
    """Images a second: the bare forward pass, the scan of images in memory, of JPEG files decoded
    by worker processes, and of the same files decoded by torchvision on the device.
    """
    count, side = (16, 64) if small else (4096, 224)
    torch.manual_seed(0)
    model = ZFNet(fc=(64,), input_size=side).eval().to(DEVICE)
    names = list(paper_layers(model).values())
    drawn = shapes.make_shapes(min(count, 64), 256).images
    pixels = F.interpolate(drawn.float(), side).byte().repeat(count // len(drawn), 1, 1, 1)
    mean, std = torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0)
    images = Images(pixels, torch.zeros(count, dtype=torch.long), ("one",), side, mean, std)
    found = {"images": count, "side": side}

    def timed(name: str, work) -> None:
        work()  # the first time does not count
        began = synchronised()
        work()
        found[name] = round(count / (synchronised() - began), 1)

    def bare(parts):
        with torch.no_grad():
            for _, x in parts:
                model.features[:12](x.contiguous(memory_format=torch.channels_last))

    timed("forward_memory", lambda: bare(batches(images, 64, DEVICE)))
    timed("scan_memory", lambda: scan(model, images, names))
    with tempfile.TemporaryDirectory() as folder:
        for n in range(count):
            write_file(f"{folder}/{n}.jpg", encode_jpeg(drawn[n % len(drawn)]))
        entries = [(f"{n}.jpg", os.path.getsize(f"{folder}/{n}.jpg"), 0) for n in range(count)]
        files = dataclasses.replace(images, pixels=Files(Path(folder), entries, side))
        timed("forward_jpeg", lambda: bare(batches(files, 64, DEVICE)))
        timed("scan_jpeg", lambda: scan(model, files, names))

        def decoded():
            for part in torch.arange(count).split(64):
                raw = [torchvision.io.read_file(f"{folder}/{n}.jpg") for n in part.tolist()]
                whole = decode_jpeg(raw, ImageReadMode.RGB, device=DEVICE)
                whole = torch.stack(whole).float()
                yield (
                    part,
                    images.normalise(F.interpolate(whole, side, mode="bilinear", antialias=True)),
                )

        timed("forward_decode_jpeg", lambda: bare(decoded()))
    found["scan_over_forward"] = {
        kind: round(found[f"scan_{kind}"] / found[f"forward_{kind}"], 3)
        for kind in ("memory", "jpeg")
    }
    return found | {"ok": True}


def project(small: bool) -> dict:
    """Seconds for the projections of the nine strongest units of all 1,376 maps of ZFNet."""
    count, side = (10, 64) if small else (500, 224)
    torch.manual_seed(0)
    model = ZFNet(fc=(64,), input_size=side).eval().to(DEVICE)
    inputs = ((shapes.make_shapes(count, side).images.float() - 120) / 60).to(DEVICE)
    dataset = torch.utils.data.TensorDataset(inputs.cpu(), torch.zeros(count))
    names = list(paper_layers(model).values())
    top, deconvnet, units = scan(model, dataset, names), Deconvnet(model), 0
    began = synchronised()
    for name in names:
        found = top[name]
        for channel in range(0, len(found.value), 200 if small else 1):
            where = torch.stack([found.row, found.col], 2)[channel]
            deconvnet.project_patches(inputs[found.image[channel]], name, channel, where)
            units += len(where)
    return {"units": units, "seconds": round(synchronised() - began, 2), "ok": True}


def cifar(small: bool, minutes: float = 3.0) -> dict:
    """CIFAR-10 at 224 pixels by profile cifar10_224, in as many epochs as fit into the minutes; on
    drawn shapes where data/cifar10 is not there.
    """
    profile = load_profile("cifar10_224")
    there = profile.data_root.is_dir()
    if small or not there:
        config = DataConfig(
            count=60 if small else 20_000,
            size=96 if small else 224,
            resize=100 if small else 240,
            gain=profile.data.gain,
            memory=12,
        )
        profile = dataclasses.replace(profile, data=config)
    recipe = dataclasses.replace(profile.training, snapshots=())
    if small:
        recipe = dataclasses.replace(recipe, epochs=1, batch_size=16, smallest_crop=None)
        net = dataclasses.replace(profile.model, maps=(8,) * 5, fc=(16,))
        profile = dataclasses.replace(profile, model=net)
    began, data = time.perf_counter(), load_data(profile)
    loading = time.perf_counter() - began
    # how long a step takes: of a net that is thrown away
    config = start.settled(dataclasses.replace(recipe, epochs=recipe.epochs or 1), len(data.train))
    model = build_model(profile, len(data.classes))
    model.to(DEVICE, memory_format=torch.channels_last)
    optimiser, scheduler, _ = run.optimisation(model, config, 30)
    pixels, labels = data.train.pixels.to(DEVICE), data.train.labels.to(DEVICE)
    steps, marks = max(1, len(labels) // config.batch_size), []
    for _ in run.epoch_steps(model, optimiser, scheduler, data.train, pixels, labels, config, 0, 1):
        marks.append(synchronised())
        if len(marks) == 20:
            break
    pace = (marks[-1] - marks[min(4, len(marks) - 1)]) / max(1, len(marks) - 5)
    epochs = 1 if small else max(1, min(recipe.epochs, int(60 * minutes / (1.3 * pace * steps))))
    del model, optimiser, pixels
    profile = dataclasses.replace(profile, training=dataclasses.replace(recipe, epochs=epochs))
    meta = train(profile, data, progress=False)
    kept = (
        "n",
        "n_test",
        "epochs",
        "epoch",
        "val_accuracy",
        "test_accuracy",
        "train_seconds",
        "start",
    )
    return {
        "data": profile.data.source,
        "loading_seconds": round(loading, 1),
        "step_seconds": round(pace, 5),
        **{name: meta[name] for name in kept},
        "ok": True,
    }


PARTS = {
    part.__name__: part
    for part in (projections, occlusion, scans, resume, ddp, project, rates, cifar)
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True, help="the folder for PART.json")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--minutes", type=float, help="for cifar: how long to train")
    given = parser.parse_args(argv)
    options = {} if given.minutes is None else {"minutes": given.minutes}
    began, roots = time.perf_counter(), profiles.ROOT
    with tempfile.TemporaryDirectory() as folder:
        # profiles and data are the project's, what a part makes on the way is thrown away
        for name in ("profiles", "data", "weights"):
            if (roots / name).exists():
                Path(folder, name).symlink_to(roots / name)
        profiles.ROOT = Path(folder)
        try:
            found = PARTS[given.part](given.small, **options)
        except Exception as error:
            found = {"ok": False, "failed": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        finally:
            profiles.ROOT = roots
    record = {
        "part": given.part,
        "small": given.small,
        **found,
        "seconds_in_all": round(time.perf_counter() - began, 1),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "commit": provenance.commit(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    with artefacts.atomic(given.out / f"{given.part}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
