"""Reads the table that the demo of releases side by side prints."""

import re


def read_table_rows(text: str) -> dict[str, list[str]]:
    """The cells of each row, by the row's name. Cells are two blanks apart at least."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return {name: cells for name, *cells in rows}
