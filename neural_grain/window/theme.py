"""The visual language of the window: palettes, type sizes, spacing, and the styles of the ttk widgets.

A `Palette` names the colours that differ between light and dark. `Theme` makes a ttk theme of each; their buttons,
fields and bars are images with round corners, drawn for the resolution of the screen. Classic Tk widgets (menus and
canvases) have no styles and get the palette from whoever makes them.
"""

from __future__ import annotations

import tkinter as tk
from dataclasses import dataclass
from tkinter import font, ttk

from PIL import Image, ImageColor, ImageDraw, ImageTk

from neural_grain.session.colours import GAIN_MAP_DARK, GAIN_MAP_LIGHT

STANDARD_DPI = 96  # pixels that the layout is given in belong to a screen of this resolution
POINTS_PER_INCH = 72
OVERSAMPLING = 4  # of the images, so that their round corners are smooth


@dataclass(frozen=True)
class Palette:
    """Colours of everything but the pictures."""

    name: str
    background: str
    surface: str  # of what lies on the background: strips, the trough of the slider
    button: str
    hover: str  # a button under the pointer
    line: str
    text: str
    muted: str  # text that explains, such as the labels of axes
    accent: str  # what the user chose
    on_accent: str  # text on it
    zone: str  # of the slider: what texture alone reaches
    far_zone: str  # what is reached with other means
    achieved: str  # what was measured, beside what was asked for in the accent colour
    error: str
    gain_map: str  # colour map of gains, whose middle, 0 dB, is near the background


LIGHT = Palette(
    name="light",
    background="#f3f1ed",
    surface="#e6e2db",
    button="#fbfaf8",
    hover="#ffffff",
    line="#c9c3b9",
    text="#23201c",
    muted="#6d675f",
    accent="#c2571a",
    on_accent="#ffffff",
    zone="#e8b996",
    far_zone="#ead6c4",
    achieved="#12727f",
    error="#b00020",
    gain_map=GAIN_MAP_LIGHT,
)
DARK = Palette(
    name="dark",
    background="#1a191b",
    surface="#29272b",
    button="#333136",
    hover="#403d44",
    line="#4a474f",
    text="#efece7",
    muted="#a39d96",
    accent="#f08a3c",
    on_accent="#1a191b",
    zone="#754826",
    far_zone="#483426",
    achieved="#5cc8d6",
    error="#ff8a80",
    gain_map=GAIN_MAP_DARK,
)


@dataclass(frozen=True)
class TypeSizes:
    """Sizes of text in points."""

    small: int = 8  # labels of axes and scales
    body: int = 10
    title: int = 12
    value: int = 15  # the position of the slider, and what was measured


@dataclass(frozen=True)
class Spacing:
    """Distances and lengths in pixels of a standard screen."""

    gap: int = 6  # between things that belong together
    group: int = 14  # between groups
    margin: int = 14  # around the window
    radius: int = 5  # of round corners
    bar: int = 6  # thickness of a progress bar or a small slider


TYPE, SPACE = TypeSizes(), Spacing()
SMALL_FONT, BODY_FONT, TITLE_FONT, VALUE_FONT = "GrainSmall", "GrainBody", "GrainTitle", "GrainValue"


def screen_scale(root: tk.Misc) -> float:
    """Pixels of this screen for one pixel of a standard screen, at least 1.

    Fonts are in points and grow with the resolution of the screen, so all lengths in pixels have to grow with them.
    """
    return max(1.0, float(root.tk.call("tk", "scaling")) * POINTS_PER_INCH / STANDARD_DPI)


def is_system_dark() -> bool:
    """Whether the system shows dark colours; False where that is not known."""
    try:
        import darkdetect
    except ImportError:
        return False
    return bool(darkdetect.isDark())


def pixels(scale: float, n: float) -> int:
    """Pixels of a screen for ``n`` of a standard screen, each of which takes ``scale`` there."""
    return round(n * scale)


class Theme:
    """The ttk themes of both palettes, and the fonts.

    Parameters
    ----------
    root : tk.Misc
    scale : float, from `screen_scale`
    """

    def __init__(self, root: tk.Misc, scale: float):
        self._root, self._scale = root, scale
        self.style = ttk.Style(root)
        self._images: list[ImageTk.PhotoImage] = []  # Tk forgets an image that Python forgets
        self._fonts = _make_fonts(root)
        for palette in (LIGHT, DARK):
            self.style.theme_create(palette.name, parent="clam")
            self.style.theme_use(palette.name)
            self._make_elements(palette)
            self._configure(palette)

    def px(self, n: float) -> int:
        """Pixels of this screen for ``n`` of a standard screen."""
        return pixels(self._scale, n)

    def line_height(self, name: str) -> int:
        """Height in pixels of a line in the font of this name."""
        return font.nametofont(name, root=self._root).metrics("linespace")

    def use(self, palette: Palette) -> None:
        """Give all widgets the colours of a palette."""
        self.style.theme_use(palette.name)

    def _box(self, fill: str, outline: str = "", *, width: int = 1) -> ImageTk.PhotoImage:
        """A rectangle with round corners, of which ttk repeats the middle."""
        size, radius = self.px(4 * SPACE.radius), self.px(SPACE.radius)
        image = rounded_box((size, size), radius, fill, outline, self.px(width))
        self._images.append(ImageTk.PhotoImage(image, master=self._root))
        return self._images[-1]

    def _element(self, name: str, default: ImageTk.PhotoImage, *states: tuple) -> None:
        border = self.px(SPACE.radius) + 1
        self.style.element_create(name, "image", default, *states, border=border, sticky="nsew")

    def _make_elements(self, palette: Palette) -> None:
        """Boxes of buttons and fields, with an outline where the keyboard has the focus."""
        box, p = self._box, palette
        focus = {"outline": p.accent, "width": 2}
        self._element(
            "Grain.button",
            box(p.button, p.line),
            ("disabled", box(p.background, p.surface)),
            ("pressed", box(p.surface, p.line)),
            (("focus", "active"), box(p.hover, **focus)),
            ("focus", box(p.button, **focus)),
            ("active", box(p.hover, p.line)),
        )
        self._element(
            "On.button",
            box(p.accent, p.accent),
            ("disabled", box(p.background, p.surface)),
            ("focus", box(p.accent, p.text, width=2)),
        )
        self._element(
            "Grain.field",
            box(p.button, p.line),
            ("disabled", box(p.background, p.surface)),
            ("focus", box(p.button, **focus)),
        )
        self._element("Card.border", box(p.surface))

    def _configure(self, palette: Palette) -> None:
        style, px, p = self.style, self.px, palette
        style.configure(
            ".",
            background=p.background,
            foreground=p.text,
            font=BODY_FONT,
            bordercolor=p.line,
            troughcolor=p.surface,
            lightcolor=p.surface,
            darkcolor=p.surface,
            focuscolor=p.accent,
            selectbackground=p.accent,
            selectforeground=p.on_accent,
            insertcolor=p.text,
            arrowsize=px(14),
        )
        style.map(".", foreground=[("disabled", p.line)])
        self._configure_buttons(p)
        entry = [("Grain.field", {"sticky": "nsew", "children": [("Entry.padding", {"sticky": "nsew", "children": [
            ("Entry.textarea", {"sticky": "nsew"})]})]})]  # fmt: skip
        style.layout("TEntry", entry)
        style.configure("TEntry", padding=(px(6), px(3)), foreground=p.text, insertcolor=p.text)
        style.configure("Treeview", background=p.button, fieldbackground=p.button, foreground=p.text, borderwidth=0)
        style.configure("Treeview", rowheight=self.line_height(BODY_FONT) + px(8))
        style.map("Treeview", background=[("selected", p.accent)], foreground=[("selected", p.on_accent)])
        style.configure("Muted.TLabel", foreground=p.muted)
        style.configure("Small.TLabel", foreground=p.muted, font=SMALL_FONT)
        style.configure("Title.TLabel", font=TITLE_FONT)
        style.configure("Error.TLabel", foreground=p.error)
        style.layout("Card.TFrame", [("Card.border", {"sticky": "nsew"})])
        style.configure("CardMuted.TLabel", background=p.surface, foreground=p.muted)
        bars = {"background": p.accent, "troughcolor": p.surface, "bordercolor": p.surface, "thickness": px(SPACE.bar)}
        style.configure("Horizontal.TProgressbar", **bars, lightcolor=p.accent, darkcolor=p.accent)
        style.configure("TScale", background=p.accent, lightcolor=p.accent, darkcolor=p.accent, gripcount=0)
        style.configure("TScale", sliderlength=px(12), sliderthickness=px(12), groovewidth=px(4), bordercolor=p.surface)
        style.map("TScale", bordercolor=[("focus", p.text)])
        style.map("TScale", **{name: [("disabled", p.line)] for name in ("background", "lightcolor", "darkcolor")})
        style.configure("TScrollbar", background=p.button, arrowcolor=p.muted)

    def _configure_buttons(self, p: Palette) -> None:
        """Buttons: of their own, as one of a group, and each as the one that is on."""
        style, px = self.style, self.px
        for prefix, element, colour in (("", "Grain.button", p.text), ("On.", "On.button", p.on_accent)):
            label = ("Button.label", {"sticky": "nsew"})
            padding = ("Button.padding", {"sticky": "nsew", "children": [label]})
            for name in (f"{prefix}TButton", f"{prefix}Small.TButton", f"{prefix}Big.TButton"):
                style.layout(name, [(element, {"sticky": "nsew", "children": [padding]})])
                style.configure(name, foreground=colour, padding=(px(7), px(4)), anchor="center")
                style.map(name, foreground=[("disabled", p.line)], background=[])
            style.configure(f"{prefix}Small.TButton", font=SMALL_FONT, padding=(px(6), px(1)))
            style.configure(f"{prefix}Big.TButton", font=TITLE_FONT, padding=(px(16), px(9)))


def _make_fonts(root: tk.Misc) -> list[font.Font]:
    """Fonts of all type sizes, in the family of the system; each lives as long as its object."""
    family = font.nametofont("TkDefaultFont", root=root).actual("family")
    sizes = {SMALL_FONT: TYPE.small, BODY_FONT: TYPE.body, TITLE_FONT: TYPE.title, VALUE_FONT: TYPE.value}
    fonts = []
    for name, size in sizes.items():
        exists = name in font.names(root)
        fonts.append(font.Font(root, name=name, exists=exists, family=family, size=size))
        fonts[-1].configure(family=family, size=size)
    return fonts


def rounded_box(size: tuple[int, int], radius: int, fill: str, outline: str = "", width: int = 1) -> Image.Image:
    """A rectangle with round corners on a transparent ground."""
    n = OVERSAMPLING
    ground = (*ImageColor.getrgb(outline or fill), 0)  # what its edge fades to
    image = Image.new("RGBA", (size[0] * n, size[1] * n), ground)
    box = (0, 0, size[0] * n - 1, size[1] * n - 1)
    ImageDraw.Draw(image).rounded_rectangle(box, radius * n, fill, outline or None, width * n if outline else 0)
    return image.resize(size, Image.Resampling.BOX)


def paint_menu(menu: tk.Menu, palette: Palette) -> None:
    """Set the colours of a menu."""
    menu.configure(
        background=palette.background,
        foreground=palette.text,
        activebackground=palette.accent,
        activeforeground=palette.on_accent,
        disabledforeground=palette.line,
        selectcolor=palette.text,
        font=BODY_FONT,
        borderwidth=0,
        relief="flat",
    )
