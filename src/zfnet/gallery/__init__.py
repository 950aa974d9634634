"""A static site of every feature map: `make gallery PROFILE=…` writes
runs/<profile>/gallery/index.html, which opens without a server.

A page per layer with a card per map, its nine projections and patches as Fig. 2 draws them (section
4.1), its activation over the data set and a table of its nine units; and a page per map with the
whole images, what the unit sees of them, and the maps that like the same images.

The site replaces the former one only when it is complete. Pictures that were drawn are kept when a
build is cut short, and when only the pages change.
"""

from zfnet.gallery.build import build

__all__ = ["build"]
