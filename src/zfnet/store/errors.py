"""Errors that are the user's to mend, apart from bugs.

The command line prints these, and OSError, in one line; anything else is a bug and shows its
traceback. They are ValueErrors, too, as Python has it for a value that cannot be used.
"""

from pathlib import Path

import torch


class UserError(ValueError):
    """Something given cannot be used: `what` names the value, `cure` says what to do instead."""

    def __init__(self, what: str, cure: str = ""):
        super().__init__(f"{what}: {cure}" if cure else what)
        self.what, self.cure = what, cure


def require(holds: object, what: str, cure: str = "", kind: type[Exception] = UserError) -> None:
    """Raise an error of that kind unless it holds; those that are not ours take no cure."""
    if not holds:
        raise kind(what, cure) if cure else kind(what)


class WrongType(UserError, TypeError):
    """Something given is of a type that cannot be used."""


class Unsupported(WrongType):
    """A net that cannot be taken apart: the message names the module or operation."""


class Damaged(UserError):
    """A file that is not what it was when it was written; `path` and `reason` apart."""

    def __init__(
        self,
        path: Path | str,
        reason: str,
        cure: str = "delete it to have it made again, or fetch it again",
    ):
        super().__init__(f"{path} is damaged ({reason})", cure)
        self.path, self.reason = path, reason

    def __reduce__(self):  # an error of the first process is sent to the others
        return type(self), (self.path, self.reason, self.cure)


class Diverged(UserError, FloatingPointError):
    """A training whose loss is no longer finite."""


class MissingPackage(UserError, ImportError):
    """A package that is needed for this alone and is not installed."""


class NotDownloaded(UserError, FileNotFoundError):
    """Weights that their publisher's server did not give."""


class OutOfMemory(UserError, MemoryError):
    """More memory was asked for than there is, on the CPU or the GPU."""


class WorkerKilled(OSError):
    """A process that decodes images is gone."""

    def __init__(
        self,
        what: str = (
            "a process that decodes images was killed: most likely memory, or /dev/shm, ran out."
            " The same command goes on"
        ),
    ):
        super().__init__(what)


class ProcessLost(ConnectionError):
    """Another process of a run of several is gone."""


def one_line(error: BaseException) -> str:
    """An error's message, or its type where it has none, in one line of 200 characters at most."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def typed(error: Exception) -> Exception:
    """The error with a type of its own, where PyTorch's is RuntimeError and only the words tell
    what happened; any other error as it is.
    """
    text = str(error)

    def says(*words: str) -> bool:
        return isinstance(error, RuntimeError) and any(word in text for word in words)

    if says("DataLoader worker (pid"):  # a signal's error, raised wherever the program was
        return WorkerKilled()
    if says("gloo", "Gloo", "NCCL", "Connection") or isinstance(
        error, getattr(torch.distributed, "DistError", ())
    ):
        return ProcessLost(
            "another process of this run was lost; the same command goes on from the last finished"
            " epoch"
        )
    if isinstance(error, MemoryError) or says("out of memory", "allocate memory", "shared memory"):
        return OutOfMemory(
            f"not enough memory ({(text.splitlines() or ['no more is to be had'])[0]})",
            "lower `data: size:`, `resize:`, `count:`, `model: maps:` or `batch_size:` in the"
            " profile",
        )
    return error
