"""Damage, full disks, kills and company: what is there is whole or named, nothing is built twice,
and results do not depend on how they were worked out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from zfnet import (
    Profile,
    ZFNet,
    build_model,
    load_data,
    load_model,
    load_scan,
    paper_layers,
    plots,
    read_history,
    scan,
    train,
)
from zfnet.cli.main import main
from zfnet.data.shapes import make_shapes
from zfnet.experiments.evolution.compute import snapshots
from zfnet.methods import occlusion
from zfnet.store import artefacts
from zfnet.store.profiles import ROOT, DataConfig, ModelConfig, TrainingConfig

TINY = Profile(
    "tiny",
    "Tiny",
    data=DataConfig(count=40, resize=52, size=48, validation=0.3),
    model=ModelConfig(maps=(6,) * 5, fc=(8,)),
    training=TrainingConfig(
        epochs=3, batch_size=8, lr=0.02, schedule="onecycle", snapshots=(1, 64), ten_crop=False
    ),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return tmp_path


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(12.0).view(3, 4),
        "b": torch.tensor([True, False]),
        "c": torch.tensor(7),
        "d": torch.empty(0, 2),
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- Damage ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_flipped_bit_of_an_artefact_goes_unnoticed(tmp_path, report):
    """Every byte of the file in turn: what comes back is right, found or made again; a byte that no
    longer is what was written is never believed.
    """
    path, meta = tmp_path / "x.safetensors", {"classes": ["cat", "dog"], "n": 3}
    artefacts.artefact(path, "key", lambda: (tensors(), meta))
    whole, counts = path.read_bytes(), {"named and made again": 0, "stale": 0, "harmless": 0}
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        built = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found, header = artefacts.artefact(
                path, "key", lambda built=built: (built.append(1), (tensors(), meta))[1]
            )
        assert equal(found, tensors()) and header == {**meta, "key": "key"}
        assert len(caught) <= len(built) and all(
            str(path) in str(w.message) and str(w.message).endswith(": it is made again")
            for w in caught
        )
        counts["harmless" if not built else "named and made again" if caught else "stale"] += 1
        assert place < len(whole) - 65 or caught, "a flipped bit in a tensor"
    report(f"artefact of {len(whole)} bytes, one bit flipped in each byte in turn: {counts}")
    # spaces and the like
    assert counts["named and made again"] > 0.8 * len(whole) and counts["harmless"] < 12


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_artefact_is_named_and_made_again(tmp_path, share):
    path = tmp_path / "x.safetensors"
    artefacts.artefact(path, "key", lambda: (tensors(), {}))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.warns(
        UserWarning,
        match=r"x.safetensors is damaged \(.*\): it is made again",
    ):
        assert equal(artefacts.artefact(path, "key", lambda: (tensors(), {}))[0], tensors())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(
            artefacts.artefact(path, "key", lambda: pytest.fail("built again"))[0], tensors()
        )


def test_files_without_a_checksum_are_taken_as_they_are(tmp_path):
    save_file(tensors(), tmp_path / "old.safetensors", {"zfnet": '{"key": "k", "n": 1}'})
    save_file(tensors(), tmp_path / "foreign.safetensors")
    assert artefacts.artefact(
        tmp_path / "old.safetensors", "k", lambda: pytest.fail("built again")
    )[1] == {"key": "k", "n": 1}
    found, meta = artefacts.load_tensors(tmp_path / "foreign.safetensors")
    assert equal(found, tensors()) and meta == {}
    shipped, meta = artefacts.load_tensors(ROOT / "weights" / "zfnet_caltech101.safetensors")
    assert (
        len(meta["classes"]) == 101
        and "crc32" not in meta
        and all(tensor.isfinite().all() for tensor in shipped.values())
    )


def test_a_file_is_the_same_whenever_it_is_written(tmp_path):
    for name in "ab":
        artefacts.save_tensors(
            tmp_path / name,
            tensors(),
            {"z": 1, "a": (1.5, None, float("nan")), "key": "k", "é": {9: 0.1, 10: 1e300}},
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found, meta = artefacts.load_tensors(tmp_path / "a")
    assert (
        equal(found, tensors())
        and meta["é"] == {"9": 0.1, "10": 1e300}
        and meta["a"][:2] == [1.5, None]
    )


def state(epoch: int) -> dict:
    return {
        "key": "k",
        "epoch": epoch,
        "model": {"w": torch.full((300,), float(epoch))},
        "history": [(1, 0.5, float("nan"))] * epoch,
    }


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, report):
    path, cpu = tmp_path / "checkpoint.pt", torch.device("cpu")
    artefacts.save_state(path, state(1))
    artefacts.save_state(path, state(2))
    assert (
        artefacts.load_state(path, "other", cpu) is None
        and artefacts.load_state(path, "k", cpu)["epoch"] == 2
    )
    whole, counts = path.read_bytes(), {"the one before": 0, "harmless": 0}
    damaged = [whole[: int(share * len(whole))] for share in (0, 0.01, 0.5, 0.99)] + [
        b"hello",
        b"\0" * len(whole),
    ]
    for place in range(0, len(whole), 7):
        damaged.append(bytes((*whole[:place], whole[place] ^ 1 << place % 8, *whole[place + 1 :])))
    for content in damaged:
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = artefacts.load_state(path, "k", cpu)
        assert found["epoch"] == (1 if caught else 2) and torch.equal(
            found["model"]["w"], torch.full((300,), float(found["epoch"]))
        )
        assert all(
            f"{path} is damaged (" in str(w.message) and "\n" not in str(w.message) for w in caught
        )
        counts["the one before" if caught else "harmless"] += 1
    report(f"checkpoint of {len(whole)} bytes, truncated or with one bit flipped: {counts}")
    assert counts["the one before"] > 0.5 * len(damaged)
    path.unlink()  # killed between the two renamings
    assert artefacts.load_state(path, "k", cpu)["epoch"] == 1
    path.with_name("checkpoint-previous.pt").write_bytes(b"")
    with pytest.warns(
        UserWarning,
        match=(
            "checkpoint-previous.pt is damaged .* training goes on from an earlier state, or from"
            " the beginning"
        ),
    ):
        assert artefacts.load_state(path, "k", cpu) is None


def test_damaged_files_of_a_training_are_made_again_bit_by_bit(root, monkeypatch):
    def trained() -> dict[str, torch.Tensor]:
        train(TINY, device="cpu", progress=False)
        return load_model(TINY).state_dict()

    expected, history = trained(), TINY.history_file.read_bytes()
    flip = {
        path: bytes((*path.read_bytes()[:-5], path.read_bytes()[-5] ^ 1, *path.read_bytes()[-4:]))
        for path in (TINY.weights_file, TINY.snapshot_file(1))
    }
    for path, content in flip.items():
        path.write_bytes(content)
        if path == TINY.weights_file:
            with pytest.raises(
                ValueError,
                match=(
                    r"weights.safetensors is damaged \(its contents do not match their checksum\):"
                    " delete it to have it made again"
                ),
            ):
                load_model(TINY)
        else:
            with pytest.raises(ValueError, match=r"01\.safetensors is damaged"):
                snapshots(TINY, load_model(TINY), 10)
        with pytest.warns(
            UserWarning,
            match=(
                rf"{path.name} is damaged \(its contents do not match their checksum\): it is made"
                " again"
            ),
        ):
            assert equal(trained(), expected) and TINY.history_file.read_bytes() == history
    # a checkpoint damaged after an interruption in the last epoch: on from the one before
    TINY.weights_file.unlink()
    real, saved = artefacts.save_state, []

    def interrupted(path, content):
        real(path, content)
        saved.append(content["epoch"])
        if saved[-1] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(artefacts, "save_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained()
    TINY.checkpoint_file.write_bytes(TINY.checkpoint_file.read_bytes()[:-1000])
    with (
        contextlib.suppress(KeyboardInterrupt),
        pytest.warns(
            UserWarning, match="checkpoint.pt is damaged .* goes on from an earlier state"
        ),
    ):
        trained()
    monkeypatch.setattr(artefacts, "save_state", real)
    assert (
        saved == [1, 2, 2]
        and equal(trained(), expected)
        and TINY.history_file.read_bytes() == history
    )
    assert not list(TINY.runs.glob("checkpoint*"))


def test_a_checkpoint_left_behind_goes_when_its_training_is_complete_and_another_ones_stays(root):
    train(TINY, device="cpu", progress=False)
    for key, stays in (
        (artefacts.read_meta(TINY.weights_file)["key"], False),
        ("of another recipe", True),
    ):
        for _ in range(2):
            artefacts.save_state(TINY.checkpoint_file, {"key": key, "model": {"w": torch.zeros(3)}})
        train(TINY, device="cpu", progress=False)
        assert len(list(TINY.runs.glob("checkpoint*"))) == 2 * stays


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"epoch,lr\n1,2\n",
        b"epoch,lr,train_loss,train_error,val_loss,val_error\n1,x,0,0,0,0\n",
        b"epoch,lr,train_loss,train_error,val_loss,val_error\n2,0,0,0,0,0\n",
    ],
)
def test_a_damaged_history_is_named(root, content):
    TINY.runs.mkdir(parents=True)
    TINY.history_file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"history.csv is damaged.*: delete it and run `make train PROFILE=tiny`"
    ):
        read_history(TINY)


# --- Disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_no_larger_than(count: int):
    """A disk that is full after so many bytes, for this process: the system refuses to write more,
    as it does without space.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big_figure(profile: Profile) -> None:
    figure = Figure(figsize=(4, 4))
    figure.add_subplot().imshow(torch.rand(200, 200).numpy())
    plots.save_figure(figure, profile, "a")


WRITERS = {
    "runs/tiny/x.safetensors": lambda: artefacts.save_tensors(
        TINY.runs / "x.safetensors", {"a": torch.ones(9999)}, {}
    ),
    "runs/tiny/checkpoint.pt": lambda: artefacts.save_state(
        TINY.checkpoint_file, {"key": "k", "a": torch.ones(9999)}
    ),
    "Figures/tiny/a.png": lambda: big_figure(TINY),
    "Figures/tiny/a.csv": lambda: plots.save_table([{"n": n} for n in range(9999)], TINY, "a"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_gets_one_line_and_the_old_file_stays(name, root, report):
    WRITERS[name]()
    before = (root / name).read_bytes()
    with (
        files_no_larger_than(2000),
        pytest.raises(
            OSError, match=f"{name} cannot be written .*the file that was there is untouched"
        ) as caught,
    ):
        WRITERS[name]()
    assert (
        "\n" not in str(caught.value)
        and (root / name).read_bytes() == before
        and [p.name for p in (root / name).parent.iterdir()] == [Path(name).name]
    )
    report(f"disk full: {str(caught.value).replace(f'{root}/', '')}")
    WRITERS[name]()


def test_no_space_left_has_its_cure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(artefacts, "save_file", full)
    with pytest.raises(
        OSError,
        match=(
            r"a cannot be written \(No space left on device\): free some space and start .* again;"
            r" nothing was written"
        ),
    ):
        artefacts.save_tensors(tmp_path / "a", {}, {})
    with (
        pytest.raises(
            OSError, match=r"a cannot be written \(Disk quota exceeded\): free some space"
        ),
        artefacts.atomic(tmp_path / "a"),
    ):
        raise OSError(errno.EDQUOT, "quota")


def test_a_training_on_a_full_disk_ends_in_one_line_and_goes_on_later(root, capsys):
    load_data(TINY)
    with (
        files_no_larger_than(2000),
        pytest.raises(OSError, match=r"cannot be written .*nothing was written"),
    ):
        train(TINY, device="cpu", progress=False)
    assert train(TINY, device="cpu", progress=False)["n"] > 10


@contextlib.contextmanager
def nobody():
    """For a superuser, to whom nothing is read-only: another user for a while."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
def test_a_read_only_folder_gets_one_line_and_what_is_there_is_read(report, monkeypatch, capsys):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        monkeypatch.setattr("zfnet.store.profiles.ROOT", root)
        data = load_data(TINY)
        meta = train(TINY, data, device="cpu", progress=False)
        (root / "tiny.yaml").write_text("title: T\ntraining: {}\n")
        for path in (root, *root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with nobody():
            assert not os.access(TINY.runs, os.W_OK, effective_ids=True)
            # all of it is there: nothing to write
            assert train(TINY, load_data(TINY), progress=False) == meta
            other = dataclasses.replace(TINY, seed=1)
            for work in (
                lambda: load_data(other),
                lambda: train(dataclasses.replace(TINY, seed=2), data),
                lambda: plots.save_table([{"a": 1}], TINY, "t"),
            ):
                with pytest.raises(
                    OSError,
                    match=(
                        r"cannot be written \(Permission denied\): start in a copy of the project"
                        r" that you may write to; "
                    ),
                ) as caught:
                    work()
                report(f"read-only: {str(caught.value).replace(name + '/', '')}")
            assert main(["train", str(root / "tiny.yaml")]) == 1
            assert re.fullmatch(
                r"error: .* cannot be written \(Permission denied\): .*\n", capsys.readouterr().err
            )
        TINY.weights_file.chmod(0)
        with nobody():
            for read in (lambda: train(TINY, data), lambda: load_model(TINY)):
                with pytest.raises(
                    PermissionError,
                    match=r"weights\.safetensors may not be read: its owner has to allow it",
                ):
                    read()
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


# --- Processes ------------------------------------------------------------------------------------


def run(code: str, *arguments: object, **options) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}",
        "OMP_NUM_THREADS": "1",
        **options.pop("env", {}),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


BUILD = """
import sys, time, torch
from zfnet.store import artefacts
def build():
    print("built", flush=True)
    time.sleep(2)
    return {"a": torch.arange(3.0)}, {}
print("ready", flush=True)
sys.stdin.readline()
print(artefacts.artefact(sys.argv[1], "k", build)[0]["a"].tolist())
"""


@pytest.mark.slow
def test_two_processes_build_an_artefact_once_and_a_killed_one_does_not_hold_up_the_next(tmp_path):
    two = [run(BUILD, tmp_path / "a.safetensors", stdin=subprocess.PIPE) for _ in range(3)]
    for one in two:
        assert one.stdout.readline() == "ready\n"
    killed = two.pop()
    killed.stdin.write("\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "built\n"  # it has the lock now
    killed.kill()
    killed.communicate()
    for one in two:
        one.stdin.write("\n")
        one.stdin.flush()
    out = "".join(one.communicate(timeout=100)[0] for one in two)
    assert out.count("built") == 1 and out.count("[0.0, 1.0, 2.0]") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a.safetensors.lock",
        "a.safetensors",
    ]


@pytest.mark.slow
def test_two_processes_train_a_net_once(root):
    """The second one waits for the first, and finds its net."""
    (root / "profiles").mkdir()
    (root / "profiles" / "tiny.yaml").write_text(
        "title: T\ndata: {count: 40, resize: 52, size: 48}\nmodel: {maps: [4, 4, 4, 4, 4], fc:"
        " []}\ntraining: {epochs: 2, batch_size: 8, ten_crop: false}\n"
    )
    two = [
        run(
            "import sys, zfnet.__main__ as m; sys.exit(m.main(['train', 'tiny']))",
            env={"ZFNET_ROOT": str(root)},
        )
        for _ in range(2)
    ]
    out = [one.communicate(timeout=300)[0] for one in two]
    assert [one.returncode for one in two] == [0, 0] and sum(
        text.count("epoch   1/2") for text in out
    ) == 1
    assert out[0].splitlines()[-1] == out[1].splitlines()[-1] and "test accuracy" in out[0]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody asks whether a process lives")
def test_what_killed_processes_left_is_swept_and_what_living_ones_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    node = platform.node()
    left = {tmp_path / f".{name}.{node}.{dead.pid}.tmp" for name in ("a.txt", "b.safetensors")}
    stays = {
        tmp_path / f".a.txt.{node}.{os.getppid()}.tmp",
        tmp_path / f".a.txt.another{node}.{dead.pid}.tmp",
        tmp_path / f"a.{node}.{dead.pid}.tmp",
    }
    for folder in left | stays:
        folder.mkdir()
        (folder / "half").write_text("half")
    with artefacts.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert set(tmp_path.iterdir()) == stays | {tmp_path / "a.txt"}
    left.pop().mkdir()
    artefacts.current(tmp_path / "none", "k")
    assert set(tmp_path.iterdir()) == stays | {tmp_path / "a.txt"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.slow
def test_killed_at_random_moments_everything_ends_bit_equal(report):
    """Training, a scan and a row of Table 3, two kills each; `benchmarks/kills.py --kills 50` does
    more.
    """
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "--kills", "6", "--seed", "3"]
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (
        found.stdout.count("2 of 2 kills survived") == 3
        and "6 of 6 kills survived, nothing lost" in found.stdout
    )
    report(f"kill -9 at random moments: {found.stdout.splitlines()[-1]}")


# --- Memory ---------------------------------------------------------------------------------------


def test_occlusion_on_the_cpu_takes_half_a_gib_at_once_whatever_is_free(monkeypatch):
    model, image = ZFNet(10, maps=(32, 8, 8, 8, 8), input_size=224, fc=()), torch.randn(3, 500, 500)
    monkeypatch.setattr(os, "sysconf", lambda name: 2**40 if name == "SC_AVPHYS_PAGES" else 4096)
    with torch.no_grad():
        each = 6 * 4 * model.features.conv1(image[None]).numel()  # of the largest map
        assert occlusion._Watch(model, image, 0.0).at_once(None) == 2**29 // each > 1
        small = occlusion._Watch(model, image[:, :100, :100], 0.0)
        assert small.at_once(None) == occlusion.CHUNK


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_peak_memory_is_measured_and_within_two_gib(report):
    """A small one; `benchmarks/memory.py` scans 50,000 images and occludes one of 1,000 px."""
    command = [
        sys.executable,
        ROOT / "benchmarks" / "memory.py",
        "--images",
        "600",
        "--pixels",
        "224",
    ]
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    peaks = [float(peak) for peak in re.findall(r"peak (\S+) GiB", found.stdout)]
    assert len(peaks) == 2 and all(0.1 < peak < 2 for peak in peaks)
    for line in found.stdout.splitlines():
        report(line)


# --- Determinism ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_top_9_tables_depend_on_neither_batches_nor_threads_nor_processes(root, report):
    """In float32, as they are made: the same images and places in the same order, the values to
    rounding.
    """
    config = DataConfig(source="photos", count=150, resize=72, size=64, validation=0.8, test=0.2)
    profile = dataclasses.replace(
        TINY, name="kept", data=config, model=ModelConfig(maps=(16, 24, 24, 24, 24), fc=())
    )
    images = load_data(profile).val
    features = build_model(profile, 12).features.eval()
    layers, threads = list(paper_layers(features).values()), torch.get_num_threads()
    expected = scan(features, images, layers, batch_size=64)
    ways = {
        "batches of 1": (1, 1),
        "batches of 7": (7, 1),
        "batches of 7, 2 threads": (7, 2),
        "one batch, 2 threads": (len(images), 2),
    }
    try:
        for way, (batch, count) in ways.items():
            torch.set_num_threads(count)
            found = scan(features, images, layers, batch_size=batch)
            for layer in layers:
                one, other = expected[layer], found[layer]
                torch.testing.assert_close(other.value, one.value, rtol=1e-5, atol=1e-5, msg=way)
                assert all(
                    torch.equal(getattr(one, part), getattr(other, part))
                    for part in ("image", "row", "col")
                ), (way, layer)
    finally:
        torch.set_num_threads(threads)
    cells = sum(top.value.numel() for top in expected.values())
    report(
        f"top 9 of {len(images)} photographs, {cells} cells: the same image, row and column by"
        f" {', '.join(ways)}"
    )


TABLES = """
import torch
from matplotlib.figure import Figure
from zfnet import Profile, build_model, load_data, load_scan, plots
from zfnet.store.profiles import DataConfig, ModelConfig
config = ModelConfig(maps=(4,) * 5, fc=())
profile = Profile("p", "P", data=DataConfig(count=60, resize=52, size=48), model=config)
model, data = build_model(profile, 10).eval(), load_data(profile)
top = load_scan(profile, model, data.train, ["relu1", "relu5"])
figure = Figure(figsize=(3, 3))
figure.add_subplot().imshow(top["relu5"].value.numpy())
plots.save_figure(figure, profile, "a")
rows = [{"channel": c, "image": int(i)} for c, i in enumerate(top["relu1"].image[:, 0])]
plots.save_table(rows, profile, "a", n=60)
"""


@pytest.mark.slow
def test_files_do_not_depend_on_when_and_where_they_were_made(tmp_path):
    """Scan, figure and table by two processes, with other seeds for hashing and other numbers of
    threads: byte-equal, and no table says when.
    """
    found = []
    for name, threads in (("one", "1"), ("two", "2")):
        process = run(
            TABLES,
            env={
                "ZFNET_ROOT": str(tmp_path / name),
                "PYTHONHASHSEED": threads,
                "OMP_NUM_THREADS": threads,
            },
            cwd=tmp_path,
        )
        process.communicate(timeout=300)
        assert process.returncode == 0
        found.append(
            {
                p.relative_to(tmp_path / name).as_posix(): p.read_bytes()
                for p in sorted((tmp_path / name).rglob("*.*"))
                if p.suffix != ".lock"
            }
        )
    assert list(found[0]) == [
        "Figures/p/a.csv",
        "Figures/p/a.png",
        "runs/p/data.safetensors",
        "runs/p/scan.safetensors",
    ]
    assert found[0] == found[1]
    assert not re.search(rb"20\d\d-|\d\d:\d\d", found[0]["Figures/p/a.csv"])


@pytest.mark.slow
def test_the_same_scan_in_memory_and_from_files(root):
    for n, picture in enumerate(make_shapes(320, 52).images):
        path = root / "images" / str(n % 2) / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    kept = dataclasses.replace(
        TINY,
        data=DataConfig(
            source="folder", root="images", resize=52, size=48, validation=0.9, test=0.1
        ),
    )
    streamed = dataclasses.replace(
        kept, name="streamed", data=dataclasses.replace(kept.data, memory=1e-9)
    )
    model = build_model(kept, 2).eval()
    layers = list(paper_layers(model.features).values())
    one, other = (
        load_scan(profile, model, load_data(profile).val, layers) for profile in (kept, streamed)
    )
    assert all(
        torch.equal(getattr(one[layer], part), getattr(other[layer], part))
        for layer in layers
        for part in ("value", "image", "row", "col")
    )
