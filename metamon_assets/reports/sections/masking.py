"""Error messages without what differs each time: the template that messages of one cause have in common.

A first form, by masking alone; a stage that learns templates takes its place. Nothing here knows of reports or the database.
"""

from __future__ import annotations

import re
from functools import lru_cache

LONGEST = 500  # characters of a message that are looked at
# In this order: what contains others goes first. Every pattern is linear: no repeated group can match one text in two ways.
_MASKS = (
    ("", r"\b(?:https?|status|code|error)[ :=_a-z]{0,12}[1-5]\d\d\b"),  # a status code tells causes apart, and stays
    ("", r"\b(?:answer(?:ed|s)?|return(?:ed|s)?|respon(?:ds?|ded|se)|replied|failed)(?: with| of)?[ :]{1,3}[45]\d\d\b(?![.,]?\d)"),
    ("", r"(?<![\w.,-])[45]\d\d(?= (?:bad|unauthori|payment|forbid|not found|request|conflict|too many|internal|service|gateway))"),
    ("<url>", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+"),
    ("<email>", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    ("<uuid>", r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"),
    ("<time>", r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b"),
    ("<quoted>", r"\"[^\"\n]{0,300}\"|'[^'\n]{0,300}'(?!\w)|`[^`\n]{0,300}`|“[^”\n]{0,300}”"),
    ("<path>", r"(?<![\w<])(?:[A-Za-z]:)?(?:[\\/][\w.@~+-]+){2,}[\\/]?"),
    ("<id>", r"\b(?:0x[0-9a-f]+|(?=[a-z_-]{0,40}\d)(?=[\w-]{0,80}[a-z])[\w-]{8,80}|[0-9a-f]{12,})\b"),
    ("<number>", r"(?<![\w<])[+-]?\d[\d.,_]*(?=[a-zA-Z%]{0,3}\b)|\d+"),
)
_MASK = re.compile("|".join(f"(?P<m{number}>{pattern})" for number, (_, pattern) in enumerate(_MASKS)), re.IGNORECASE)
_NAMES = {f"m{number}": name for number, (name, _) in enumerate(_MASKS)}
_SPACE = re.compile(r"\s+")
PLACEHOLDER = re.compile("|".join(re.escape(name) for name, _ in _MASKS if name) + "|…")


@lru_cache(maxsize=50_000)
def template(message: str) -> str:
    """The message with urls, mail addresses, ids, times, quotes, paths and numbers masked, on one line.

    >>> template("Rate limit reached for org-8fa31c09b2: used 3,921 of 4000, try again in 1.2s")
    'Rate limit reached for <id>: used <number> of <number>, try again in <number>s'
    >>> template("no row 'x7' in /var/data/a.csv (job 550e8400-e29b-41d4-a716-446655440000)")
    'no row <quoted> in <path> (job <uuid>)'
    """
    shortened = message[:LONGEST]
    text = _SPACE.sub(" ", shortened).strip()
    masked = _MASK.sub(lambda found: _NAMES[found.lastgroup or ""] or found.group(), text)
    return masked + ("…" if len(message) > LONGEST else "")
