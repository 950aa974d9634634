"""Sections of Markdown files that are written by the code: what stands between the marks `<!--
name: begin -->` and `<!-- name: end -->`.
"""

from __future__ import annotations

from pathlib import Path

from zfnet.store import artefacts
from zfnet.store.errors import UserError


def write_sections(path: Path, sections: dict[str, str]) -> bool:
    """Put each text {name: text} between the marks of its name; whether that changed the file.
    ValueError, and nothing written, where marks are missing.
    """
    text = new = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if (new.count(begin), new.count(end)) != (1, 1) or new.index(begin) > new.index(end):
            raise UserError(
                f"{path}: expected the lines {begin} and {end}, once each, around what is written"
                " there"
            )
        before, rest = new.split(begin)
        new = f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"
    if new != text:
        with artefacts.atomic(path) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return new != text
