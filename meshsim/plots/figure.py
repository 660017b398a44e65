"""A figure that notebooks show by themselves.

Rule: figures are made without pyplot, so a notebook has no backend that would draw them; the
figure answers IPython's display protocol with its own PNG, whatever ``%matplotlib`` says.

References
----------
IPython documentation, "Rich display of objects": ``_repr_png_``.
"""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["NotebookFigure"]


class NotebookFigure(Figure):
    """A matplotlib Figure with a picture for notebooks."""

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG at its own resolution."""
        picture = BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
