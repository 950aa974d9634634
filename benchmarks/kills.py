"""Kill -9 at random moments, again and again: is anything lost, and do the results come out bit by
bit as without?

    python -m benchmarks.kills --kills 50              # a training, a scan, a row of Table 3
    python -m benchmarks.kills --writes                # killed before and after every write
    python -m benchmarks.kills --kills 0 --figures 3   # `make -j2 figures` of two notebooks

A killed piece of work is started again until it is done; then its weights, history, snapshots,
tables and figures are compared with those of a run that nobody disturbed. After every kill all
files must be whole, and no finished epoch may be gone. Seconds and dates are not compared. Needs
os.fork.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # children are forked, which threads do not survive

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from zfnet import load_data, load_scan, paper_layers, train, trained
from zfnet.experiments.ablation import AblationConfig
from zfnet.experiments.ablation import compute as ablation
from zfnet.store import artefacts, keys, profiles
from zfnet.store.profiles import DataConfig, ModelConfig, Profile, TrainingConfig

TINY = Profile(
    "tiny",
    "Tiny",
    data=DataConfig(count=60, resize=56, size=52),
    model=ModelConfig(maps=(6, 6, 6, 6, 6), fc=(8,)),
    training=TrainingConfig(
        epochs=4, batch_size=8, lr=0.02, schedule="onecycle", snapshots=(1, 32, 64), ten_crop=False
    ),
    sections={
        "ablation": AblationConfig(
            size=52, images=30, seeds=1, maps=0.05, fc=0.003, epochs=3, batch_size=6
        )
    },
)


def training() -> None:
    train(TINY, device="cpu", progress=False)


def scanning() -> None:
    data = load_data(TINY)
    model = trained(TINY, data).cpu()
    load_scan(TINY, model, data.train, list(paper_layers(model.features).values()))


def a_row_of_table_3() -> None:
    ablation.ablate(TINY, load_data(TINY), ablation.ROWS[:1])


WORK = {"training": training, "scan": scanning, "row of Table 3": a_row_of_table_3}


def start(work: Callable[[], None], root: Path) -> int:
    """A process of its own that does the work under `root`; the process's number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        profiles.ROOT = root
        warnings.simplefilter("ignore")
        work()
        code = 0
    except BaseException:
        (root / "traceback.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def done(pid: int, root: Path, seconds: float | None = None) -> bool:
    """Wait for a process, at most so many seconds, then kill it: whether it was done before. Its
    own failure is ours.
    """
    end = time.perf_counter() + (float("inf") if seconds is None else seconds)
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.perf_counter() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            found = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    if os.WIFSIGNALED(found[1]):
        return False
    if os.waitstatus_to_exitcode(found[1]):
        sys.exit(f"not survived: {(root / 'traceback.txt').read_text()}")
    return True


def results(root: Path) -> dict[str, object]:
    """Everything that was made under `root`, by file: tensors by a key of every bit, the key of
    what they were made from, and texts.
    """
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*.safetensors")):
        if not any(part.endswith(".tmp") for part in path.parts):
            tensors, meta = artefacts.load_tensors(path)  # ValueError for a half one
            found[str(path.relative_to(root))] = keys.tensors_hash(tensors), meta.get("key")
    for path in root.rglob("history.csv"):
        found[str(path.relative_to(root))] = path.read_text()
    return found


def epochs(root: Path) -> int:
    """How many epochs are kept, in checkpoints and in finished trainings."""
    total = 0
    for folder in {
        path.parent
        for path in [*root.rglob("checkpoint*.pt"), *root.rglob("history.csv")]
        if not path.parent.name.endswith(".tmp")
    }:
        states = [
            torch.load(path, weights_only=True)["epoch"] for path in folder.glob("checkpoint*.pt")
        ]
        history = folder / "history.csv"
        total += max(
            [*states, len(history.read_text().splitlines()) - 1 if history.exists() else 0]
        )
    return total


def check(name: str, root: Path, reference: dict[str, object]) -> None:
    """End, with what differs, unless `root` holds just what an undisturbed run made, and no
    leavings.
    """
    found = results(root)
    differ = sorted(
        file for file in found.keys() | reference.keys() if found.get(file) != reference.get(file)
    )
    left = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith("checkpoint")
    ]
    if differ or left:
        sys.exit(f"{name}: not survived: {', '.join(differ)} differ; left behind: {left}")


def undisturbed(folder: Path) -> tuple[dict[str, Path], dict[str, dict], dict[str, float]]:
    """For each piece of work the folder that it starts from, what it makes, and its seconds."""
    # imports half of torch, which every child would do again
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1).step()
    before, made, took = {}, {}, {}
    for name, work in WORK.items():
        before[name], root = folder / "before" / name, folder / "undisturbed" / name
        before[name].mkdir(parents=True)
        if name != "training":  # they are not about the data or the net
            shutil.copytree(folder / "undisturbed" / "training", before[name], dirs_exist_ok=True)
        shutil.copytree(before[name], root)
        started = time.perf_counter()
        done(start(work, root), root)
        took[name], made[name] = time.perf_counter() - started, results(root)
    return before, made, took


def at_random(folder: Path, kills: int, seed: int) -> None:
    rng, (before, made, took) = random.Random(seed), undisturbed(folder)
    survived, finished = dict.fromkeys(WORK, 0), dict.fromkeys(WORK, 0)
    for n in range(len(WORK)):
        name = list(WORK)[n]
        root, share = folder / "killed" / name, kills // len(WORK) + (n < kills % len(WORK))
        shutil.copytree(before[name], root)
        kept = epochs(root)
        while survived[name] < share:
            if done(start(WORK[name], root), root, rng.uniform(0, 1.1 * took[name])):
                check(name, root, made[name])
                finished[name] += 1
                shutil.rmtree(root)
                shutil.copytree(before[name], root)
                kept = epochs(root)
                continue
            results(root)
            if epochs(root) < kept:
                sys.exit(f"{name}: {kept} epochs before the kill, {epochs(root)} after it")
            kept = epochs(root)
            survived[name] += 1
        done(start(WORK[name], root), root)
        check(name, root, made[name])
        print(
            f"{name}: {survived[name]} of {share} kills survived, {finished[name] + 1} runs ended,"
            f" all bit-equal to one of {took[name]:.1f} s",
            flush=True,
        )
    print(f"{sum(survived.values())} of {kills} kills survived, nothing lost")


def at_every_write(folder: Path) -> None:
    before, made, _ = undisturbed(folder)
    for name, work in WORK.items():
        kills = 0
        for after in (False, True):
            number = 0
            while True:
                root = folder / "killed"
                shutil.copytree(before[name], root)
                whole = done(start(lambda w=work, n=number, a=after: dying(w, n, a), root), root)
                results(root)
                if not whole:
                    done(start(work, root), root)
                check(name, root, made[name])
                shutil.rmtree(root)
                if whole:
                    break
                number, kills = number + 1, kills + 1
        print(
            f"{name}: killed before and after each of its {kills // 2} renamings, {kills} times,"
            " all bit-equal",
            flush=True,
        )


def dying(work: Callable[[], None], number: int, after: bool) -> None:
    """The work, killed before or after renaming number `number`: between two of them nothing
    changes but a temporary file.
    """
    real, count = os.replace, 0

    def replace(*paths) -> None:
        nonlocal count
        if count == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    os.replace = replace
    work()


# --- make -j2 figures -----------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """A process and all that it started, kernels in sessions of their own too."""
    children = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.split()
    pairs, found = (
        [(int(a), int(b)) for a, b in zip(children[::2], children[1::2], strict=True)],
        [pid],
    )
    for one in found:
        found += [child for child, parent in pairs if parent == one]
    return found


def make_figures(root: Path, seconds: float | None = None) -> bool:
    """`make -j2 figures`, killed with all its children after so many seconds: whether it was done
    before.
    """
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    environment.pop("MAKEFLAGS", None)
    command = ["make", "-j2", "figures", "PROFILE=tiny", f"PYTHON={sys.executable}"]
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for pid in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
            return False
    if process.returncode:
        sys.exit(f"figures: not survived: {out}")
    return True


def of_figures(folder: Path, kills: int, seed: int) -> None:
    here, rng = Path(__file__).resolve().parents[1], random.Random(seed)
    for root in (folder / "whole", folder / "killed"):
        for name in ("src", "notebooks", "profiles", "tools"):
            shutil.copytree(here / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "requirements.txt"):
            shutil.copy(here / name, root)
        (root / "profiles" / "tiny.yaml").write_text(
            "title: Tiny\ndata: {count: 120, resize: 68, size: 64}\nmodel: {maps: [8, 8, 8, 8, 8],"
            " fc: [8]}\ntraining: {epochs: 2, batch_size: 8, lr: 0.02, ten_crop: false}\nnotebooks:"
            " [02_layer1_top9, 10_feature_maps]\n"
        )
    started = time.perf_counter()
    make_figures(folder / "whole")
    took, root, survived, finished = time.perf_counter() - started, folder / "killed", 0, 0
    made = {
        path.name: path.read_bytes()
        for path in sorted((folder / "whole" / "Figures" / "tiny").iterdir())
    }
    while survived < kills:
        whole = make_figures(root, rng.uniform(0, took))
        survived += not whole
        if whole or survived == kills:
            make_figures(root)
            found = {
                path.name: path.read_bytes()
                for path in sorted((root / "Figures" / "tiny").iterdir())
            }
            if found != made:
                names = sorted(found.keys() | made.keys())
                differ = [name for name in names if found.get(name) != made.get(name)]
                sys.exit(f"figures: not survived: {', '.join(differ)} differ")
            finished += 1
            shutil.rmtree(root / "Figures")
            shutil.rmtree(root / "runs")
    print(
        f"make -j2 figures: {survived} of {kills} kills survived, {finished} runs ended, "
        f"{len(made)} pictures and tables byte-equal to those of one of {took:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--writes", action="store_true")
    parser.add_argument("--figures", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jobs = [
        (arguments.kills, lambda folder: at_random(folder, arguments.kills, arguments.seed)),
        (arguments.writes, at_every_write),
        (arguments.figures, lambda folder: of_figures(folder, arguments.figures, arguments.seed)),
    ]
    for wanted, job in jobs:
        if wanted:
            with tempfile.TemporaryDirectory() as folder:
                job(Path(folder))


if __name__ == "__main__":
    main()
