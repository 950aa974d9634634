"""The runtime's package: only the pinned one is taken, and where it cannot be had the cure is
named. And the page's nine patches, from a gallery of the same weights only.
"""

import base64
import io
import subprocess

import pytest
import torch
from PIL import Image

from zfnet.cli import main
from zfnet.models.named import SHIPPED, load_net
from zfnet.site import runtime as runtime_module
from zfnet.site.build import nine_strongest
from zfnet.site.runtime import runtime
from zfnet.store.errors import NotDownloaded, UserError
from zfnet.store.profiles import Profile

page = __import__("zfnet.site.build", fromlist=["build"])


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other.tgz is not onnxruntime-web 1.*SHA-512 begins with"):
        runtime(other)
    with pytest.raises(NotDownloaded, match=r"no file .*none.tgz.*--runtime FILE"):
        runtime(tmp_path / "none.tgz")


def test_npm_that_is_missing_or_fails_is_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_module, "ROOT", tmp_path)
    monkeypatch.setattr(runtime_module.shutil, "which", lambda name: None)
    with pytest.raises(NotDownloaded, match=r"npm, .* is not installed.*--runtime FILE"):
        runtime()
    monkeypatch.setattr(runtime_module.shutil, "which", lambda name: f"/usr/bin/{name}")

    def fails(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="ENOTFOUND\nno such host")

    monkeypatch.setattr(runtime_module.subprocess, "run", fails)
    with pytest.raises(NotDownloaded, match=r"npm did not fetch .*\(ENOTFOUND no such host\)"):
        runtime()
    assert list(tmp_path.iterdir()) == []


def test_what_npm_packs_is_kept_and_checked(tmp_path, monkeypatch):
    def packs(command, **options):
        folder = command[command.index("--pack-destination") + 1]
        assert command[:3] == ["npm", "pack", "onnxruntime-web@1.30.0"]
        with open(f"{folder}/onnxruntime-web-1.30.0.tgz", "wb") as file:
            file.write(b"forged")

    monkeypatch.setattr(runtime_module, "ROOT", tmp_path)
    monkeypatch.setattr(runtime_module.shutil, "which", lambda name: name)
    monkeypatch.setattr(runtime_module.subprocess, "run", packs)
    with pytest.raises(UserError, match="is not onnxruntime-web"):
        runtime()
    assert (tmp_path / "data" / "onnxruntime-web-1.30.0.tgz").read_bytes() == b"forged"


def test_patches_come_from_a_gallery_of_the_same_weights_only(tmp_path, monkeypatch):
    net = load_net(SHIPPED, device="cpu")
    gallery = tmp_path / "gallery"
    (gallery / "layer-3").mkdir(parents=True)
    (gallery / "index.html").write_text("")
    picture = Image.new("RGB", (300, 300), (200, 30, 60))
    picture.save(gallery / "layer-3" / "17-patches.jpg")
    picture.save(gallery / "layer-3" / "17-projections.jpg")
    monkeypatch.setattr(Profile, "runs", tmp_path)
    monkeypatch.setattr(page, "profile_names", lambda: ["one"])
    monkeypatch.setattr(page, "read_profile", lambda name: Profile(name, name))
    state = {name: value.clone() for name, value in net.model.state_dict().items()}
    other = torch.nn.Module()
    other.state_dict = lambda: state
    monkeypatch.setattr(page, "load_model", lambda profile: other)
    found = nine_strongest(net, 24)
    assert list(found) == [3] and list(found[3]) == [17]
    with Image.open(io.BytesIO(base64.b64decode(found[3][17]))) as patches:
        assert patches.format == "WEBP" and patches.size == (72, 72)
        red, green, blue = patches.getpixel((40, 40))
        assert abs(red - 200) + abs(green - 30) + abs(blue - 60) < 30
    state["features.conv1.bias"][0] += 1
    assert nine_strongest(net) == {}


def test_weights_of_no_net_are_refused(capsys):
    assert main.main(["live", "--weights", "mine.safetensors"]) == 1
    assert "--weights is of one net: name that with --model" in capsys.readouterr().err
