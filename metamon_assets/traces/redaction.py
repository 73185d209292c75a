"""Sensitive text out of what is stored: error messages, payloads, comments, metadata, quarantined rows (IN-10).

Here belong the kinds of text that count as sensitive, one pattern each, and the ``Redactor`` that replaces them
by their name in brackets. It works on whole Arrow columns with RE2, whose time grows with the length of the text
and never with its shape. Two kinds of pattern: those that say enough by themselves, replaced by RE2 at once; and
those that need a look at what they found (a card number has a check digit), looked at in Python on the few rows
that matched. What to redact for whom, and access rights, do not belong here.

Limits: a secret without a tell-tale form or name ("my password is swordfish") is not found, nor are names of people
and postal addresses; those need a language model and do not fit the path of every row.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

Look = Callable[[str], str | None]  # what to put for the text found, or None to let it stand


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sensitive text.

    ``pattern`` is RE2 syntax and has the groups 1 (text before, kept) and 2 (the sensitive text). Where ``look`` is
    set, the pattern must also be Python syntax that does not backtrack much, and ``look`` decides over group 2.
    ``hint`` is what every match contains: a cheaper first pass where the pattern begins with open repetition, which
    makes the combined automaton explode (ten times slower, measured).
    """

    name: str
    pattern: str
    look: Look | None = None
    hint: str | None = None

    @property
    def mark(self) -> str:
        """What stands in the place of the text: the kind in brackets."""
        return f"[{self.name}]"


def _card(found: str) -> str | None:
    """Card numbers have an issuer's prefix, its length, and a check digit (ISO/IEC 7812); an expiry or code may follow."""
    groups = re.split(r"([ -])", found)
    for end in range(len(groups), 0, -2):
        digits = "".join(groups[0:end:2])
        if _CARD_PREFIX.fullmatch(digits) and _luhn(digits):
            return "[card_number]" + "".join(groups[end:])
    return None


_CARD_PREFIX = re.compile(
    r"4\d{12}(\d{3}){0,2}|5[1-5]\d{14}|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(0[0-5]|[68]\d)\d{11}|6(011|4[4-9]\d|5\d\d)\d{12}|35(2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _iban(found: str) -> str | None:
    """IBANs leave 1 modulo 97 when letters count from 10 and the first four characters come last (ISO 13616)."""
    groups = re.split(r"( )", found)
    for end in range(len(groups), 0, -2):
        text = "".join(groups[0:end:2])
        if 15 <= len(text) <= 34 and int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1:
            return "[iban]" + "".join(groups[end:])
    return None


def _ssn(found: str) -> str | None:
    area, group, serial = found.split("-")
    given_out = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return "[ssn]" if given_out else None


def _phone(found: str) -> str | None:
    return "[phone]" if 8 <= sum(map(str.isdigit, found)) <= 15 else None  # E.164 allows 15


def _ip_address(found: str) -> str | None:
    """Addresses of the public internet; private and loopback ones name a machine, not a person, and help to diagnose."""
    try:
        return "[ip_address]" if ipaddress.ip_address(found).is_global else None
    except ValueError:
        return None


# What follows "password:" in prose and code without being one.
# fmt: off
_NO_SECRET = frozenset(
    [
        "none", "null", "nil", "true", "false", "required", "missing", "invalid", "incorrect", "wrong", "expired", "undefined",
        "empty", "unset", "must", "should", "cannot", "does", "did", "not", "was", "were", "has", "have", "and", "the", "for",
        "from", "with", "your", "this", "that", "str", "string", "bool", "optional", "secret", "password", "token", "redacted",
        "hidden", "masked", "default", "field", "value", "parameter", "argument", "env", "environ",
    ]
)
# fmt: on


def _assigned(found: str) -> str | None:
    quotes = "\\\"'"
    bare = found.strip(quotes)
    word = (bare if bare != found else re.split(r"[\s.(:]", bare, maxsplit=1)[0]).lower()  # quoted prose is a value
    if word in _NO_SECRET or not bare.strip("*x.•-") or bare.startswith(("$", "<", "os.", "process.env", "getenv")):
        return None
    start = found[: len(found) - len(found.lstrip(quotes))]
    end = found[len(found.rstrip(quotes)) :]
    return f"{start}[secret]{end}"


def _bearer(found: str) -> str | None:
    return "[token]" if any(map(str.isdigit, found)) or len(found) >= 40 else None


_BEYOND = r"\x{80}-\x{10FFFF}"  # letters beyond ASCII; \p{L} takes RE2 five milliseconds to compile
_EDGE = r"(^|[^\w.\-])"  # a number or id does not begin in the middle of another
_NAMES_OF_SECRETS = (
    r"pass(?:word|wd|phrase)|pwd|secret(?:[_-]?(?:access)?[_-]?key)?|api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|account[_-]?key"
    r"|(?:auth|access|refresh|session|id|api|bearer|security|csrf)[_-]?token|client[_-]?secret|private[_-]?key|connection[_-]?string|credentials?"
)
# Issuers' own prefixes: they are enough to know a key by.
_KEYS = (
    r"sk-[A-Za-z0-9_\-]{16,}",  # OpenAI, Anthropic, OpenRouter, Langfuse
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9]{16,}",  # Stripe
    r"xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[0-9]-[A-Za-z0-9\-]{10,}",  # Slack
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{20,}",  # GitHub, GitLab
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}",  # AWS
    r"AIza[A-Za-z0-9_\-]{35}|ya29\.[A-Za-z0-9_\-]{20,}|GOCSPX-[A-Za-z0-9_\-]{20,}",  # Google
    r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}|ls__[a-z0-9]{20,}|pk-lf-[A-Za-z0-9\-]{20,}",  # LangSmith, Langfuse
    r"hf_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}|pplx-[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}",
    r"npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_\-]{30,}|dapi[a-f0-9]{32}|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",
)

# In the order of replacement: what contains others comes first.
KINDS: tuple[Kind, ...] = (
    Kind("private_key", r"()(-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z))"),
    Kind("credentials", r"""([A-Za-z][A-Za-z0-9+.\-]{1,20}://)([^\s/:@"'<>\[]*:[^\s/"'<>]+)@""", hint="://"),
    Kind("token", r"\b()(eyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,4})"),
    Kind("api_key", rf"\b()({'|'.join(_KEYS)})"),
    Kind(
        "token",
        r"((?i:bearer|basic|authorization: {0,2}token|authorization:) {1,3})([A-Za-z0-9_~+/\-][A-Za-z0-9._~+/\-]{15,}={0,2})",
        _bearer,
    ),
    Kind(
        "secret",
        rf"""((?i:--(?:{_NAMES_OF_SECRETS}) {{1,3}}|(?:{_NAMES_OF_SECRETS})\\?["']?(?:\s{{0,3}}[:=]|[ ]{{1,3}}is[ ])\s{{0,3}}))"""
        r"""(\\"[^"\\\[]+\\"|"[^"\[]+"|'[^'\[]+'|[^\s"'\\,;&}\])<>\[({][^\s"'\\,;&}\])<>]{3,})""",
        _assigned,
    ),
    Kind("email", rf"()([A-Za-z0-9._%+\-{_BEYOND}]+@(?:[A-Za-z0-9\-{_BEYOND}]+\.)+[A-Za-z{_BEYOND}]{{2,}})", hint="@"),
    Kind("iban", r"\b()([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b", _iban),
    Kind("card_number", _EDGE + r"([2-6][0-9]{3}(?:[ \-]?[0-9]){9,15})\b", _card),
    Kind("ssn", _EDGE + r"([0-9]{3}-[0-9]{2}-[0-9]{4})\b", _ssn),
    Kind(
        "phone",
        _EDGE + r"(\+[1-9][0-9]{0,2}[ .\-]?(?:\([0-9]{1,4}\)[ .\-]?)?[0-9]{1,4}(?:[ .\-]?[0-9]{2,5}){1,4}"
        r"|(?:1[ .\-])?(?:\([0-9]{3}\) ?|[0-9]{3}[.\-])[0-9]{3}[.\-][0-9]{4}|0[0-9]{1,4}[ /\-][0-9]{3,4}[ \-][0-9]{3,4})\b",
        _phone,
    ),
    Kind("ip_address", r"(^|[^\w.:/\-])([0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){3,7})\b", _ip_address),
)
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))

_JSON_SECRET_NAME = re.compile(rf"(?i)(?:^|[_\-. ])(?:{_NAMES_OF_SECRETS}|token|authorization)$|^(?:x-)?api-key$")


class Redactor:
    """Replaces sensitive text by the name of its kind in brackets: ``mail ann@example.org`` → ``mail [email]``.

    ``off`` switches kinds off by name (see ``NAMES``); ``extra`` adds kinds as name → RE2 pattern. Replacing twice
    gives the same as once. Raises ValueError for an unknown name or a pattern that cannot be used.
    """

    def __init__(self, off: Iterable[str] = (), extra: Mapping[str, str] | None = None) -> None:
        off = frozenset(off)
        if unknown := sorted(off - set(NAMES)):
            raise ValueError(f"unknown kinds of sensitive text: {', '.join(unknown)}; known are {', '.join(NAMES)}")
        own = tuple(_own_kind(name, pattern) for name, pattern in (extra or {}).items())
        self.kinds = own + tuple(kind for kind in KINDS if kind.name not in off)
        self._any = "|".join(f"(?:{kind.hint or kind.pattern})" for kind in self.kinds)
        self._json_names = "secret" not in off

    @classmethod
    def disabled(cls) -> Redactor:
        """A redactor that changes nothing."""
        return cls(off=NAMES)

    def column(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """The column with sensitive text replaced; NULL stays NULL. Rows without any cost one pass of one pattern."""
        return self._where_suspicious(texts, self._any, self._replace)

    def json_column(self, documents: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """A column of JSON documents, redacted inside their strings and numbers, so that they stay valid JSON.

        Values whose name says that they are secret ("password") are replaced whole. Documents must be valid.
        """
        suspicious = self._any + (rf'|(?i:{_NAMES_OF_SECRETS}|token|authorization)"\s*:' if self._json_names else "")
        return self._where_suspicious(documents, suspicious, self._replace_in_json)

    def text(self, text: str) -> str:
        """One text with sensitive text replaced."""
        return self.column(pa.array([text], pa.string()))[0].as_py()

    def json(self, document: str) -> str:
        """One JSON document, as ``json_column``; text that is not JSON is redacted as text."""
        try:
            orjson.loads(document)
        except orjson.JSONDecodeError:
            return self.text(document)
        return self.json_column(pa.array([document], pa.string()))[0].as_py()

    def _where_suspicious(
        self, texts: pa.Array | pa.ChunkedArray, pattern: str, replace: Callable[[pa.Array], pa.Array]
    ) -> pa.Array | pa.ChunkedArray:
        if not self.kinds or texts.null_count == len(texts):
            return texts
        if isinstance(texts, pa.ChunkedArray):
            return pa.chunked_array([self._where_suspicious(chunk, pattern, replace) for chunk in texts.chunks], texts.type)
        suspicious = pc.fill_null(pc.match_substring_regex(texts, pattern), fill_value=False)
        if not pc.any(suspicious).as_py():
            return texts
        return pc.replace_with_mask(texts, suspicious, replace(texts.filter(suspicious)))

    def _replace(self, texts: pa.Array) -> pa.Array:
        for kind in self.kinds:
            if kind.look is None:
                texts = pc.replace_substring_regex(texts, kind.pattern, _KEEP + kind.mark + ("@" if kind.name == "credentials" else ""))
            else:
                texts = _look(texts, kind.pattern, kind.look)
        return texts

    def _replace_in_json(self, documents: pa.Array) -> pa.Array:
        """Takes the documents apart, redacts all their strings and numbers as one column, puts them together again."""
        leaves: list[str] = []
        trees = [self._collect(orjson.loads(document), leaves, secret=False) for document in documents.to_pylist()]
        redacted = iter(self.column(pa.array(leaves, pa.string())).to_pylist())
        return pa.array([orjson.dumps(_rebuild(tree, redacted)).decode() for tree in trees], pa.string())

    def _collect(self, node: Any, leaves: list[str], *, secret: bool) -> Any:
        if isinstance(node, dict):
            return {
                self._leaf(key, leaves): self._collect(value, leaves, secret=self._json_names and bool(_JSON_SECRET_NAME.search(key)))
                for key, value in node.items()
            }
        if isinstance(node, list):
            return [self._collect(value, leaves, secret=secret) for value in node]
        if node is None or isinstance(node, bool):
            return node
        return "[secret]" if secret and node != "" else self._leaf(node, leaves)

    @staticmethod
    def _leaf(value: Any, leaves: list[str]) -> _Leaf:
        leaves.append(value if isinstance(value, str) else str(value))
        return _Leaf(value)


class _Leaf:
    """A place in a JSON document whose text stands in the column of leaves; compared by identity, as keys can repeat."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


_KEEP = r"\1"


def _rebuild(node: Any, redacted: Any) -> Any:
    """The document again; leaves come in the order in which they were collected."""
    if isinstance(node, _Leaf):
        text = next(redacted)
        return node.value if not isinstance(node.value, str) and text == str(node.value) else text
    if isinstance(node, dict):
        return {_rebuild(key, redacted): _rebuild(value, redacted) for key, value in node.items()}
    if isinstance(node, list):
        return [_rebuild(value, redacted) for value in node]
    return node


def _look(texts: pa.Array, pattern: str, look: Look) -> pa.Array:
    """Python's look at the rows in which RE2 found the pattern."""
    found = pc.fill_null(pc.match_substring_regex(texts, pattern), fill_value=False)
    if not pc.any(found).as_py():
        return texts
    compiled = re.compile(pattern, re.ASCII)  # as RE2 reads \\w, \\d, \\s, \\b

    def judge(match: re.Match[str]) -> str:
        replacement = look(match[2])
        return match[0] if replacement is None else match[1] + replacement

    judged = [compiled.sub(judge, text) for text in texts.filter(found).to_pylist()]
    return pc.replace_with_mask(texts, found, pa.array(judged, pa.string()))


def _own_kind(name: str, pattern: str) -> Kind:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"redaction pattern {name!r}: a name is lower-case letters, digits and underscores")
    try:
        matches_nothing = pc.match_substring_regex(pa.array([""]), pattern)[0].as_py()
    except pa.ArrowInvalid as error:
        raise ValueError(f"redaction pattern {name!r} is not a regular expression in RE2 syntax: {error}") from None
    if matches_nothing:
        raise ValueError(f"redaction pattern {name!r} ({pattern}) matches empty text; it would redact everywhere")
    return Kind(name, f"()({pattern})")
