"""What an artefact was made from, and whether it is whole.

An artefact (weights, a scan, the decoded data) is one safetensors file. Its header carries the
*key* of everything it was made from: configuration, data fingerprint, weights hash and code
version. A file whose key differs is stale and is made again; a file is written under a temporary
name and renamed, so that an interrupted run leaves the old one or the new one and never half. The
header also carries a checksum of the contents: a file that was damaged later is named in a warning
and made again.
"""

import contextlib
import errno
import glob
import json
import os
import platform
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zfnet.store.errors import Damaged, one_line
from zfnet.store.keys import Tensors

CURES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free some space and start the same command again; ",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "start in a copy of the project that you may write to; ",
    ),
}


@contextlib.contextmanager
def atomic(path: Path | str, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path of the same name; move it to `path` on success, remove it on any
    failure. What killed processes left of theirs goes, too.

    Raises OSError, in one line with the cure, where nothing can be written there: the file that was
    there stays. `sync`: whether it must outlive a power cut.
    """
    path = Path(path)
    # a folder of this process: libraries put temporary files of their own beside ours
    folder = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        # the caller writes all of it
        yield folder / path.name
        # on the disk before it gets its name, or a power cut could leave that on an empty file
        if sync:
            with open(folder / path.name, "rb+") as file:
                os.fsync(file.fileno())
        # one step of the system: whoever opens `path` finds the old file or the new one
        os.replace(folder / path.name, path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder when they wrote there;
    processes that live keep theirs.
    """
    if os.name != "posix":  # where asking whether a process lives may end it
        return
    with contextlib.suppress(OSError):
        for left in folder.glob(f".*.{glob.escape(platform.node())}.*.tmp"):
            with contextlib.suppress(PermissionError, ValueError):  # another user's; no number
                try:
                    os.kill(int(left.name.split(".")[-2]), 0)
                except ProcessLookupError:
                    shutil.rmtree(left, ignore_errors=True)


def _unwritable(path: Path, error: Exception) -> OSError:
    """The one line for a disk that is full or a folder that may not be written to."""
    # safetensors tells the system's number in its words alone
    said = re.search(r"os error (\d+)", str(error))
    code = getattr(error, "errno", None) or (int(said[1]) if said else 0)
    kept = (
        "the file that was there is untouched" if os.path.lexists(path) else "nothing was written"
    )
    return (type(error) if isinstance(error, OSError) else OSError)(
        f"{path} cannot be written ({os.strerror(code) if code else error}):"
        f" {CURES.get(code, '')}{kept}"
    )


def _checksum(tensors: Tensors, meta: dict[str, object]) -> str:
    """CRC-32 of `meta` and of every tensor's name, type, shape and bits: against accidents, not
    against forgers, and twice as fast as SHA-256.
    """
    crc = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def save_tensors(path: Path | str, tensors: Tensors, meta: dict[str, object]) -> None:
    """Write tensors and JSON-able `meta` to one safetensors file, atomically, with their checksum.
    Raises OSError, in one line, where it cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # as it will be read: numbers that are keys become text, and sort otherwise
    meta = json.loads(json.dumps(meta))
    with atomic(path) as temporary:
        # one entry: the order of several differs from run to run, and so would the file
        save_file(
            ready,
            temporary,
            metadata={
                "zfnet": json.dumps(
                    {**meta, "checksum": "crc32", "crc32": _checksum(ready, meta)}, sort_keys=True
                )
            },
        )


def _open(path: Path | str, read: bool) -> tuple[Tensors, dict, str | None]:
    """Tensors (none unless `read`), meta and checksum of a safetensors file; Damaged where it is
    not a readable one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("zfnet", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()} if read else {}  # noqa: SIM118
    except FileNotFoundError as error:
        if Path(path).exists():  # safetensors takes one for the other
            raise PermissionError(f"{path} may not be read: its owner has to allow it") from error
        raise
    except Exception as error:  # safetensors and json raise nearly everything
        raise Damaged(path, one_line(error)) from error
    if not isinstance(meta, dict):
        raise Damaged(path, f"its header holds a {type(meta).__name__}")
    kind, crc = meta.pop("checksum", None), meta.pop("crc32", None)
    # said twice, so that no flipped bit makes it a file without a checksum
    if (kind, crc) != (None, None) and (kind != "crc32" or crc is None):
        raise Damaged(path, "its header's checksum is gone")
    return tensors, meta, crc


def read_meta(path: Path | str) -> dict:
    """The `meta` that `save_tensors` wrote; {} for a safetensors file from elsewhere.

    Raises Damaged when the file is not a readable safetensors file. The tensors are not read:
    `load_tensors` finds damage there.
    """
    return _open(path, read=False)[1]


def load_tensors(path: Path | str) -> tuple[Tensors, dict]:
    """Tensors and `meta` of a safetensors file; Damaged when it is. A file from elsewhere has no
    checksum and is taken as it is.
    """
    tensors, meta, crc = _open(path, read=True)
    if crc is not None and crc != _checksum(tensors, meta):
        raise Damaged(path, "its contents do not match their checksum")
    return tensors, meta


def current(path: Path | str, key: str, warn: bool = True) -> tuple[Tensors, dict] | None:
    """Tensors and `meta` of the file at `path` if it was made from `key` and is whole; None
    otherwise. A damaged file is named in a warning.
    """
    _sweep(Path(path).parent)
    try:
        if read_meta(path).get("key") == key:
            # again from the tensors' own read: the file may have been replaced in between
            tensors, meta = load_tensors(path)
            return (tensors, meta) if meta.get("key") == key else None
    except FileNotFoundError:
        pass
    except Damaged as error:
        if warn:
            warnings.warn(f"{error.what}: it is made again", stacklevel=3)
    return None


@contextlib.contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold a lock beside `path`, which one process has at a time; a killed one gives it back.
    Raises OSError, in one line, where there can be none.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path.with_name(f".{path.name}.lock")).acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    with held:
        yield


def artefact(
    path: Path | str, key: str, build: Callable[[], tuple[Tensors, dict]]
) -> tuple[Tensors, dict]:
    """The tensors and meta at `path` if they were made from `key`; otherwise `build()` them and
    write them there.

    A lock beside the file lets two processes that want the same artefact build it once. A damaged
    file is named in a warning and rebuilt.
    """
    # without the lock first, so that folders without write permission can be read
    if there := current(path, key, warn=False):
        return there
    with locked(path):
        # again under the lock: another process may have built it while this one waited
        if there := current(path, key):
            return there
        tensors, meta = build()
        save_tensors(path, tensors, {**meta, "key": key})
        return tensors, {**meta, "key": key}


def save_state(path: Path | str, state: dict) -> None:
    """`torch.save`, atomically; the state that was there before stays beside it as
    <stem>-previous<suffix>. Raises OSError, in one line.
    """
    path, previous = _states(path)
    # not synced: after a power cut the state before it serves, older than any disk's cache
    with atomic(path, sync=False) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch does not say why
            raise OSError("torch could not write all of it; is the disk full?") from error
        # the new one is whole: the last one makes room, and a kill right here loses neither
        if path.exists():
            os.replace(path, previous)


def _states(path: Path | str) -> tuple[Path, Path]:
    """Where the last state is, and the one before."""
    path = Path(path)
    return path, path.with_stem(f"{path.stem}-previous")


def load_state(path: Path | str, key: str, device: torch.device) -> dict | None:
    """What `save_state` wrote last, on `device`, if its "key" is `key`; the state before it where
    that is damaged, which a warning names; else None.
    """
    for one in filter(Path.exists, _states(path)):
        try:
            with zipfile.ZipFile(one) as whole:  # torch writes checksums and does not read them
                if broken := whole.testzip():
                    raise zipfile.BadZipFile(f"{broken} does not match its checksum")
            state = torch.load(one, map_location=device, weights_only=True)
            if state["key"] == key:
                return state
        except Exception as error:  # a damaged file makes torch raise nearly everything
            warnings.warn(
                f"{one} is damaged ({one_line(error)}) and is left out: training goes on from an"
                " earlier state, or from the beginning",
                stacklevel=3,
            )
    return None


def remove_state(path: Path | str, key: str | None = None) -> None:
    """Remove what `save_state` wrote; with `key`, only what was made from it."""
    for one in _states(path):
        # no such file, one that is damaged, a read-only folder
        with contextlib.suppress(Exception):
            if (
                key is None
                or torch.load(one, map_location="cpu", weights_only=True, mmap=True)["key"] == key
            ):
                one.unlink()
