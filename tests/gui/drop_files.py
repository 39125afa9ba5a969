"""Drops files on the window of another program as a file manager does: the source's side of XDND 5.

https://freedesktop.org/wiki/Specifications/XDND (tkdnd's own source won't do: on X11 it sends words for bytes.)

    python drop_files.py NAME ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from Xlib import X, display
from Xlib.protocol import event
from Xlib.xobject.drawable import Window


def drop(names: list[str]) -> None:
    """Drop files in the middle of the only window that takes drops; returns when it says that it has them."""
    screen = display.Display()
    atom, root = screen.intern_atom, screen.screen().root

    def taker(window: Window) -> Window | None:
        children = [child for child in window.query_tree().children if child.get_attributes().map_state]
        awares = (child for child in children if child.get_full_property(atom("XdndAware"), X.AnyPropertyType))
        return next(awares, None) or next(filter(None, map(taker, children)), None)

    target = taker(root)
    size, corner = target.get_geometry(), target.translate_coords(root, 0, 0)
    x, y = size.width // 2 - corner.x, size.height // 2 - corner.y
    source = root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)
    source.set_selection_owner(atom("XdndSelection"), X.CurrentTime)

    def send(name: str, *values: int) -> None:
        data = (source.id, *values, *[0] * (4 - len(values)))
        target.send_event(event.ClientMessage(window=target, client_type=atom(name), data=(32, data)))

    send("XdndEnter", 5 << 24, atom("text/uri-list"))
    send("XdndPosition", 0, x << 16 | y, X.CurrentTime, atom("XdndActionCopy"))
    uri_list = "".join(f"{Path(name).as_uri()}\r\n" for name in names).encode()
    while True:
        came = screen.next_event()
        if came.type == X.SelectionRequest:
            came.requestor.change_property(came.property, came.target, 8, uri_list)
            names_of = ("time", "requestor", "selection", "target", "property")
            came.requestor.send_event(event.SelectionNotify(**{name: getattr(came, name) for name in names_of}))
            screen.flush()
        elif came.type == X.ClientMessage and came.client_type == atom("XdndStatus"):
            assert came.data[1][1] & 1, "the window does not take it"
            send("XdndDrop", 0, X.CurrentTime)
        elif came.type == X.ClientMessage and came.client_type == atom("XdndFinished"):
            return


if __name__ == "__main__":
    drop(sys.argv[1:])
