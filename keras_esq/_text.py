"""Text for terminals."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
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


def number(text: str) -> float:
    """What a text such as "0.1", "8/255" or "0.5/255" means.

    Raises:
        ValueError: for other texts.
    """
    parts = text.split("/")
    try:
        over, under = map(Fraction, (*parts, "1") if len(parts) == 1 else parts)
        return float(over / under)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"Expected a number, or a fraction such as '8/255'. Received: {text!r}.") from error
