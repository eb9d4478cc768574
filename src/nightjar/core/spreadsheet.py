"""Text for cells of a spreadsheet: never a formula, and read back exactly as it was.

A spreadsheet that opens a CSV file runs what begins like a formula (CWE-1236). Such text gets one
apostrophe in front; plain numbers are left alone. Text that already begins with apostrophes before
such a sign gets one more, so that taking one away always gives back what was written.
"""

from __future__ import annotations

import re

_SIGN = r"(?:\s*[=+\-@＝＋－＠|%]|[\t\r\n])"
_FORMULA = re.compile(rf"'*{_SIGN}")
_GUARDED = re.compile(rf"'+{_SIGN}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def neutralise(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula.

    >>> neutralise("=1+1"), neutralise("-3.5"), neutralise("'=x"), neutralise("'s-Gravenhage")
    ("'=1+1", '-3.5', "''=x", "'s-Gravenhage")
    """
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return "'" + text
    return text


def restore(cell: str) -> str:
    """The text that `neutralise` was given.

    >>> [restore(neutralise(t)) for t in ("=1+1", "-3.5", "'=x", "'s-Gravenhage", "''")]
    ['=1+1', '-3.5', "'=x", "'s-Gravenhage", "''"]
    """
    return cell[1:] if _GUARDED.match(cell) else cell
