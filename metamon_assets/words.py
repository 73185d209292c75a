"""Figures and strangers' names as people read them: money, time, shares, counts, intervals.

Statements of all sections are put together from these, so the same figure looks the same everywhere.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

# Controls, and marks that turn the direction of text: they could move a cursor or make a line read otherwise than it is.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]")
_LONGEST_NAME = 60
TIMES = 2.0  # a relative rise (three times as much) from which on a factor reads better than per cent


def clean(text: str) -> str:
    """The text without anything that a terminal or a browser would obey; line feeds and tabs stay."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def name(value: str | None) -> str:
    """A stranger's name on one line and of bearable length; ``(none)`` where there is none."""
    if value is None or not value.strip():
        return "(none)"
    text = " ".join(clean(value).split())
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def dollars(value: Decimal | float | None) -> str:
    """US dollars; small amounts with two significant digits. None is ``unpriced``, never $0."""
    if value is None:
        return "unpriced"
    amount = float(value)
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    if amount >= 1000:
        return f"{sign}${amount:,.0f}"
    if amount >= 1 or amount == 0:
        return f"{sign}${amount:,.2f}"
    digits = 1 - math.floor(math.log10(amount))
    return f"{sign}${amount:.{min(max(digits, 2), 12)}f}"


def seconds(value: float | None) -> str:
    """A span of time in the unit that reads best; None is ``unknown``."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value >= 90 * 60:
        return f"{value / 3600:,.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    if value >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if value >= 0.1 or value == 0 else f"{1000 * value:.2g} ms"


def percent(share: float | None) -> str:
    """A share from 0 to 1; None is ``unknown``. What is not nothing is never shown as 0, what is not all never as 100."""
    if share is None or not math.isfinite(share):
        return "unknown"
    if 0 < share < 0.001:
        return "under 0.1%"
    if 0.999 < share < 1:
        return "over 99.9%"
    return f"{share:.1%}"


def bound(share: float) -> str:
    """A share that something stays below, or up to: ``percent`` rounded up, without its "under" and "over"."""
    return f"{min(math.ceil(1000 * share - 1e-9) / 1000, 1.0):.1%}"


def change(relative: float) -> str:
    """A relative change: +12% or -3.4%; from three times on as a factor: ×3.4, ×1,000 or more."""
    if not math.isfinite(relative):
        return "unknown"
    if relative >= TIMES:
        return f"×{1 + relative:,.2g}" if relative < 98 else f"×{1 + relative:,.0f}" if relative < 999 else "×1,000 or more"
    return f"{relative:+.0%}" if abs(relative) >= 0.1 else f"{relative:+.1%}"


def many(count: float, what: str, plural: str | None = None) -> str:
    """``1 run``, ``1,234 runs``."""
    return f"{count:,.0f} {what if count == 1 else plural or what + 's'}"


def of(part: float, whole: float, what: str, plural: str | None = None) -> str:
    """``3 of 200 runs (1.5%)``."""
    share = f" ({percent(part / whole)})" if whole else ""
    return f"{part:,.0f} of {many(whole, what, plural)}{share}"


def interval(low: float, high: float) -> str:
    """The 95 % interval of a share: ``95% interval 1.2% to 3.4%``."""
    return f"95% interval {percent(low)} to {percent(high)}"


def duration(seconds: float) -> str:
    """A rough time for people."""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
