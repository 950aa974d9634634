"""From a profile to its gallery: what is drawn, what is kept, and how the new site takes the old
one's place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

from zfnet.data.load import load_data
from zfnet.gallery.pages import HERE, Layer, write_pages
from zfnet.gallery.ranges import measured_ranges
from zfnet.gallery.sprites import draw
from zfnet.graph.trace import paper_layers
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.top_activations import load_scan
from zfnet.store import artefacts, keys, provenance
from zfnet.store.profiles import Profile
from zfnet.training.run import trained

STATE = "state.json"
PICTURES = (".webp", ".jpg")


def build(profile: Profile, archive: bool = False, progress: bool = True) -> tuple[Path, bool]:
    """The profile's gallery: the path of its index.html (of the .zip beside it, with `archive`),
    and whether anything had to be made.

    Trains, scans and measures ranges first where that is not done. A build that is cut short leaves
    the former site as it was, and goes on the next time. Raises what these steps raise, each with
    its cure.
    """
    data = load_data(profile)
    model = trained(profile, data)
    images, names = getattr(data, profile.scan_split), paper_layers(model)
    top = load_scan(profile, model, images, list(names.values()))
    found = measured_ranges(profile, model, images, top)
    pictures = keys.key_of(
        keys.tensors_hash(model.state_dict()),
        images.fingerprint,
        names,
        keys.code_key(draw),
    )
    # what turns pictures into pages: code, templates, styles and scripts
    shown = [path for folder in ("templates", "assets") for path in (HERE / folder).iterdir()]
    key = keys.key_of(
        pictures,
        profile.title,
        profile.scan_split,
        images.names,
        list(images.classes),
        keys.code_key(build),
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shown)],
    )
    target = profile.runs / "gallery"
    with artefacts.locked(target):
        restore(target)
        made = not current(target, key)
        if made:
            layers = [
                Layer(
                    number,
                    name,
                    receptive_field(model, name, images.size),
                    top[name],
                    found[name],
                )
                for number, name in names.items()
            ]
            work, tiles = begin(target, pictures), {layer.number: layer.tile for layer in layers}
            draw(Deconvnet(model), images, names, tiles, top, work, progress)
            write_pages(work, layers, images, profile, provenance.record(profile, n=len(images)))
            finish(work, target, key, pictures)
        if archive:
            return target.with_suffix(".zip"), pack(target, target.with_suffix(".zip"), key) or made
    return target / "index.html", made


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE)


def _state(folder: Path) -> dict:
    """What a site was made from and how many files it has; {} where there is no whole one."""
    try:
        return json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def current(site: Path, key: str) -> bool:
    """Whether `site` was made from `key` and has lost no file since."""
    state = _state(site)
    return state.get("key") == key and state.get("files") == len(_files(site))


def restore(target: Path) -> None:
    """Put the old site back where a build was killed in the instant between the two renames of
    `finish`.
    """
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def begin(target: Path, pictures: str) -> Path:
    """The folder to build in: the one of a build of the same pictures that was cut short, else a
    new one that starts with the present site's pictures.
    """
    work = target.with_name(f".{target.name}.{pictures}")
    for other in target.parent.glob(f".{target.name}.*"):
        if other.is_dir() and other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    for half in work.rglob(".*.tmp"):  # what `atomic` left when it was killed
        shutil.rmtree(half)
    same = _state(target).get("pictures") == pictures
    for path in (*target.glob("layer-*/*"), *target.glob("images/*")) if same else ():
        new = work / path.relative_to(target)
        if path.suffix in PICTURES and not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, new)
            except OSError:  # a file system without links
                shutil.copyfile(path, new)
    return work


def finish(work: Path, target: Path, key: str, pictures: str) -> None:
    """Let the complete site in `work` take the place of the one at `target`."""
    (work / STATE).write_text(
        json.dumps({"key": key, "pictures": pictures, "files": len(_files(work))}), encoding="utf-8"
    )
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def pack(site: Path, path: Path, key: str) -> bool:
    """Write the site to a zip, atomically, unless it was made from `key` already; whether it was
    written. Equal sites give equal bytes.
    """
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as zipped:
        if zipped.comment == key.encode():
            return False
    with artefacts.atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as zipped:
        zipped.comment = key.encode()
        for file in _files(site):
            entry = zipfile.ZipInfo(f"gallery/{file.relative_to(site).as_posix()}")
            entry.external_attr = 0o644 << 16
            entry.compress_type = (
                zipfile.ZIP_STORED if file.suffix in PICTURES else zipfile.ZIP_DEFLATED
            )
            zipped.writestr(entry, file.read_bytes())
    return True
