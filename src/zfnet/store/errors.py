"""Errors that are the user's to mend, apart from bugs.

The command line prints these, and OSError, in one line; anything else is a bug and shows its
traceback. They are ValueErrors, too, as Python has it for a value that cannot be used.
"""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """Something given cannot be used: `what` names the value, `cure` says what to do instead."""

    def __init__(self, what: str, cure: str = ""):
        super().__init__(f"{what}: {cure}" if cure else what)


class WrongType(UserError, TypeError):
    """Something given is of a type that cannot be used."""


class Unsupported(WrongType):
    """A net that cannot be taken apart: the message names the module or operation."""


class Damaged(UserError):
    """A file that is not what it was when it was written; `path` and `reason` apart."""

    def __init__(
        self, path: Path | str, reason: str, cure: str = "delete it to have it made again"
    ):
        super().__init__(f"{path} is damaged ({reason})", cure)
        self.path, self.reason = path, reason


class Diverged(UserError, FloatingPointError):
    """A training whose loss is no longer finite."""


class MissingPackage(UserError, ImportError):
    """A package that is needed for this alone and is not installed."""
