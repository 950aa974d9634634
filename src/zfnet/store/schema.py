"""From YAML to frozen dataclasses: the types of the fields, and the rules beside them, say what may
stand in a file.

    @dataclass(frozen=True)
    class SquareConfig:
        size: Positive[int] = 28
        kind: Literal["grey", "black"] = "grey"

    read_fields(SquareConfig, read_yaml(path, path.name), (path.name,))

Every error names the file, the key and the value.
"""

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml

from zfnet.store.errors import UserError, WrongType, require

LARGEST = 10**9  # no whole number in a profile is larger
T = TypeVar("T")
Place = tuple[str, ...]  # the file's name, then the keys that lead to a value


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words that follow the value, and whether it is."""

    words: str
    holds: Callable[[typing.Any], bool]


NUMBER = (Rule("must be a number that is not negative", lambda value: 0 <= value < math.inf),)
Positive = Annotated[T, Rule("must be positive", lambda value: 0 < value < math.inf)]
BelowOne = Annotated[
    T, *NUMBER, Rule("must be at least 0 and less than 1", lambda value: 0 <= value < 1)
]
Distinct = Annotated[
    T, Rule("give at least one, each once", lambda values: 0 < len(set(values)) == len(values))
]


class _Plain(yaml.SafeLoader):
    """YAML without aliases, a few lines of which can stand for gigabytes, and without a key that
    stands twice.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1} has an alias"
                f" (*{self.peek_event().anchor}): write the value out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"{_shown(key)} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, where: str):
    """The content of a YAML file; no tag in it runs code. `where` names it in the UserError for
    what is not plain YAML, or larger than 1 MB.
    """
    require(
        (size := path.stat().st_size) <= 10**6,
        f"{where} has {size:,} bytes: expected a short file of keys and values",
    )
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except OSError:
        raise
    except RecursionError as error:
        raise UserError(f"{where} is not plain YAML: it is nested too deeply") from error
    except Exception as error:  # PyYAML lets ValueError, KeyError and AttributeError through, too
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{where} is not plain YAML: {reason}") from error


def read_fields(kind: type[T], content, where: Place) -> T:
    """The frozen dataclass `kind` made from a mapping that was read from `where`.

    Raises UserError for a key that does not belong, with a guess, one that is missing, or a value
    that breaks its rule; WrongType for a value of another type.
    """
    place = ": ".join(where)
    require(
        isinstance(content, dict),
        f"{place}: expected keys and values, got {_shown(content)}",
        kind=WrongType,
    )
    hints = typing.get_type_hints(kind, include_extras=True)
    check_keys(content, hints, where)
    missing = sorted(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
        and field.name not in content
    )
    require(not missing, f"{place}: missing {', '.join(missing)}")
    return kind(
        **{key: _convert(hints[key], value, (*where, key)) for key, value in content.items()}
    )


def check_keys(content: dict, known: typing.Iterable[str], where: Place) -> None:
    """Raises UserError, with a guess, for the first key that is not among those known."""
    known = list(known)
    for key in content:
        if key not in known:
            guess = get_close_matches(_shown(key)[:50].strip("'"), known, n=1)
            hint = f"; did you mean {guess[0]!r}?" if guess else "."
            raise UserError(
                f"{': '.join(where)}: unknown key {_shown(key)}{hint} Known keys:"
                f" {', '.join(known)}"
            )


def _convert(hint, value, where: Place, index: str = ""):
    """The value as its field holds it: a list as a tuple, a whole number as a float. `index`: where
    in a list it stands.
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        # a list belongs to the option that is one, as in `str | tuple[str, ...]`
        lists = [option for option in options if isinstance(value, list) and _listed(option)]
        hint = (lists or options)[0]
    hint, *rules = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    value = _typed(hint, value, where)
    for rule in rules or NUMBER * (hint is float):
        shown = _shown(list(value) if isinstance(value, tuple) else value)
        require(
            rule.holds(value),
            f"{where[0]}: {'.'.join(where[1:])}{index} = {shown}: {rule.words}",
        )
    return value


def _listed(hint) -> bool:
    inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return typing.get_origin(inner) is tuple


def _typed(hint, value, where: Place):
    if dataclasses.is_dataclass(hint):
        return read_fields(hint, value, where)
    named = f"{': '.join(where)} = {_shown(value)}"
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        require(value in options, f"{named}: choose one of {', '.join(map(str, options))}")
        return value
    if typing.get_origin(hint) is tuple:
        require(isinstance(value, list), f"{named}: expected a list", kind=WrongType)
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, one, where, f"[{n}]") for n, one in enumerate(value))
    require(type(value) is not int or abs(value) <= LARGEST, f"{named}: at most {LARGEST:,}")
    if hint is float and type(value) is int:
        return float(value)
    got = f"{type(value).__name__}{_number(value)}"
    require(type(value) is hint, f"{named}: expected {hint.__name__}, got {got}", kind=WrongType)
    return value


def _shown(value) -> str:
    """What a message says of a value: its repr, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _number(value) -> str:
    """The cure for 1e-3, which YAML takes for text."""
    with contextlib.suppress(TypeError, ValueError):
        return f"; write {float(value)}" if isinstance(value, str) and "e" in value.lower() else ""
    return ""
