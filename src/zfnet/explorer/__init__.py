"""A net to look into with the mouse: `state.py` knows what is chosen and computed, `panel.py` shows
it in a notebook.

    from zfnet.explorer import Explorer
"""


def __getattr__(name: str):
    if name == "Explorer":  # here, so that the state is there without the packages of widgets
        from zfnet.explorer.panel import Explorer

        return Explorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
