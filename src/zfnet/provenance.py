"""What an artefact was made from.

An artefact (weights, a scan, the decoded data) is one safetensors file. Its header carries the *key* of everything it was made from:
configuration, data fingerprint, weights hash and code version. A file whose key differs is stale and is made again; a file is written under
a temporary name and renamed, so that an interrupted run leaves the old one or the new one and never half.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def key_of(*parts) -> str:
    """A 16-digit hexadecimal key of dataclasses, mappings, sequences, strings and numbers; equal parts give equal keys."""

    def plain(part):
        return dataclasses.asdict(part) if dataclasses.is_dataclass(part) else str(part)

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_version(*modules: str) -> str:
    """A key of the named modules' code, "module:name,Name" of those definitions alone.

    Comments, docstrings and layout do not count, so prose may change without a retraining.
    """
    digest = hashlib.sha256()
    for module in modules:
        module, _, names = module.partition(":")
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        if names:
            defined = {getattr(node, "name", None) or node.targets[0].id: node for node in tree.body
                       if hasattr(node, "name") or isinstance(node, ast.Assign)}  # fmt: skip
            tree.body = [defined[name] for name in names.split(",")]
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def tensors_hash(tensors: Tensors) -> str:
    """A key of named tensors: names, shapes, types and every bit of their values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save_tensors(path: Path | str, tensors: Tensors, meta: dict[str, object]) -> None:
    """Write tensors and JSON-able `meta` to one safetensors file, atomically."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(ready, temporary, metadata={"zfnet": json.dumps(meta, sort_keys=True)})


def read_meta(path: Path | str) -> dict:
    """The `meta` that `save_tensors` wrote; {} for a safetensors file from elsewhere.

    Raises ValueError when the file is not a readable safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("zfnet", "{}"))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}): delete it to have it made again") from None


def load_tensors(path: Path | str) -> tuple[Tensors, dict]:
    """Tensors and `meta` of a file written by `save_tensors`; ValueError when it is damaged."""
    meta = read_meta(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, meta


def locked(path: Path | str) -> FileLock:
    """A lock beside `path`, held by one process at a time; use as a context manager."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def artefact(path: Path | str, key: str, build: Callable[[], tuple[Tensors, dict]]) -> tuple[Tensors, dict]:
    """The tensors and meta at `path` if they were made from `key`; otherwise `build()` them and write them there.

    A lock beside the file lets two processes that want the same artefact build it once. A damaged file is rebuilt.
    """
    path = Path(path)
    with locked(path):
        if path.exists():
            with contextlib.suppress(ValueError):
                if read_meta(path).get("key") == key:
                    return load_tensors(path)
        tensors, meta = build()
        save_tensors(path, tensors, {**meta, "key": key})
        return tensors, {**meta, "key": key}


def commit() -> str:
    """The commit of the working tree, "-dirty" when the code or a profile differs from it, or "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()

    try:
        found = git("rev-parse", "--short=10", "HEAD")
        return (found + "-dirty" * bool(git("status", "--porcelain", "--", "src", "profiles"))) if found else "unknown"
    except OSError:
        return "unknown"


def record(profile, device: torch.device | str | None = None, **more) -> dict[str, object]:
    """Provenance of a result: profile, seed, commit, torch version and device (None: the GPU where there is one), and what else the caller measured."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return {"profile": profile.name, "seed": profile.seed, "commit": commit(), "torch": torch.__version__, "device": name, **more}
