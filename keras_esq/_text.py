"""Text for terminals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def aligned(rows: Iterable[Iterable[Any]], left: int = 1) -> str:
    """Rows of cells as aligned text, with a rule below the first, which is the header.

    Args:
        rows: cells of any kind; all rows of one length.
        left: number of columns, from the first, that are aligned to the left; the others to the right.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])
