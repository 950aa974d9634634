"""A page that works without Python: `make live` writes runs/live/index.html, one file that takes
nets apart in the browser, from the disk or from any web server.

`onnx_graph.py` writes a net and its deconvnet as one ONNX graph, `runtime.py` fetches what computes
it in a browser, `build.py` puts both and the page's own script into one file.
"""

from zfnet.site.build import build

__all__ = ["build"]
