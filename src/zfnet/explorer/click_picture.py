"""A picture in a notebook that can be clicked and dragged on.

    picture = ClickPicture(width=200)
    picture.show(pixels, marks=[(2, 3, 1, 1)])         # (H, W, 3) in 0..1; row 2, column 3 framed
    picture.on_point(lambda row, col: print(row, col))  # in the picture's rows, with fractions

ipywidgets alone shows pictures but hears no clicks. anywidget adds that with the script below: no
build step, nothing fetched, and its package brings what JupyterLab needs. While the mouse is
dragged only one question is under way at a time; the newest position waits for the answer, older
ones are dropped, so that a slow net never lags behind the hand.
"""

import io
from collections.abc import Callable, Sequence

import anywidget
import numpy as np
import traitlets
from PIL import Image

SCRIPT = """
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  const picture = new Image();
  let asked = 0, waiting = false, next = null;
  el.appendChild(canvas);

  const draw = () => {
    const rows = model.get("rows"), cols = model.get("cols"), width = model.get("width");
    const height = Math.round(width * rows / cols);
    const dots = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = width * dots; canvas.height = height * dots;
    canvas.style.width = width + "px"; canvas.style.height = height + "px";
    canvas.style.cursor = model.get("clickable") ? "crosshair" : "default";
    pen.imageSmoothingEnabled = !model.get("sharp");
    if (picture.complete && picture.naturalWidth)
      pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const y = canvas.height / rows, x = canvas.width / cols;
    for (const [row, col, high, wide] of model.get("marks")) {
      for (const [colour, line] of [["white", 3.5], ["#ff3030", 1.5]]) {
        pen.strokeStyle = colour; pen.lineWidth = line * dots;
        pen.strokeRect(col * x, row * y, wide * x, high * y);
      }
    }
  };
  const load = () => {
    const url = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    picture.onload = () => { URL.revokeObjectURL(url); draw(); };
    picture.src = url;
  };
  const ask = (point) => {
    if (waiting) { next = point; return; }
    waiting = true;
    model.set("point", [...point, asked += 1]);
    model.save_changes();
  };
  const answered = () => {
    waiting = false;
    if (next) { const point = next; next = null; ask(point); }
  };
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (part, whole) => Math.min(Math.max(part, 0), 0.999999) * whole;
    return [inside((event.clientY - box.top) / box.height, model.get("rows")),
      inside((event.clientX - box.left) / box.width, model.get("cols"))];
  };
  canvas.onpointerdown = (event) => {
    if (!model.get("clickable")) return;
    canvas.setPointerCapture(event.pointerId);
    ask(where(event));
  };
  canvas.onpointermove = (event) => {
    if (event.buttons && model.get("clickable")) ask(where(event));
  };
  model.on("change:png", load);
  model.on("change:answered", answered);
  for (const name of ["marks", "width", "sharp", "clickable"]) model.on("change:" + name, draw);
  load();
}
export default { render };
"""


class ClickPicture(anywidget.AnyWidget):
    """A picture of `rows` x `cols`, `width` pixels wide on the screen; `sharp`: every pixel a
    square. `marks`: frames, each (row, col, height, width).

    `point`: where it was last clicked, [row, col, count]. Positions and frames are in the picture's
    rows and columns.
    """

    _esm = SCRIPT
    png = traitlets.Bytes(b"").tag(sync=True)
    rows = traitlets.Int(1).tag(sync=True)
    cols = traitlets.Int(1).tag(sync=True)
    width = traitlets.Int(190).tag(sync=True)
    sharp = traitlets.Bool(False).tag(sync=True)
    clickable = traitlets.Bool(True).tag(sync=True)
    marks = traitlets.List().tag(sync=True)
    point = traitlets.List().tag(sync=True)
    answered = traitlets.Int(0).tag(sync=True)

    def show(self, pixels: np.ndarray, marks: Sequence[Sequence[float]] = ()) -> None:
        """Show (H, W, 3), or (H, W) in grey, in 0..1."""
        file = io.BytesIO()
        Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(
            file, "png", compress_level=1
        )
        with self.hold_sync():
            self.rows, self.cols = pixels.shape[:2]
            self.marks = [list(map(float, mark)) for mark in marks]
            self.png = file.getvalue()

    def on_point(self, do: Callable[[float, float], None]) -> None:
        """Call do(row, col) for every click, and while the mouse is dragged for as many positions
        as there is time for.
        """

        def heard(change) -> None:
            try:
                do(*change.new[:2])
            finally:  # or the picture would wait for ever
                self.answered += 1

        self.observe(heard, "point")
