"""Signs of danger in what agents read and say: secrets, injected instructions, links that carry data away (ALR-31).

Here belong what is looked for, the flags that are kept, and which of them are open. The look is taken while rows are
normalised, before redaction, whichever way they came and whether or not payloads are stored. A flag says that something
was found, of what kind, in which run and on which side of it; the text is not kept, nor anything made from it.

One pass of one RE2 pattern over the columns picks out the few rows that might hold something; only those are looked at
closely: secrets with the patterns of ``traces.redaction`` and some more, and a look at whether the find could be real;
instructions after case, accents, invisible characters, look-alike letters and digits for letters have been evened out.

What is looked for where:

- ``secret_in_output``, ``secret_in_error``, ``secret_in_input``: private keys, keys with a maker's prefix, signed tokens,
  passwords in addresses, values that are named as secret. Placeholders and examples do not count.
- ``exfiltration_link``, in outputs of anything but tools and retrievers: an image that a page would load by itself, or a
  link, with readable data or a secret in its address.
- ``prompt_injection``, in inputs and in what tools and retrievers bring: orders to ignore instructions, to give away the
  system prompt or to become somebody without rules, marks that feign another speaker, orders to whatever machine reads a
  document; in English, German, French and Spanish. What stands in messages of the system or of the assistant itself, or in
  the definitions of tools, is not looked at: there such words are defences. Nor does a phrase count that is quoted in a
  text about injections.

Limits: patterns find phrasings and forms, not intentions. Unseen are paraphrases without the usual words, other languages,
pictures, letters with signs between them, other ciphers, an attack spread over several messages, one that calls itself
an example of an injection, secrets without form or name. Metadata, tags and rows that are rejected are not looked at. A
flag on a prompt says that somebody tried, not that it worked.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote_plus, urlsplit

import orjson
import pyarrow as pa

from metamon_assets.traces import injections, redaction

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

    from metamon_assets.traces.sources.base import Window

Severity: TypeAlias = Literal["info", "warning", "critical"]

SECRET_IN_OUTPUT = "secret_in_output"  # noqa: S105 - the name of a kind
SECRET_IN_ERROR = "secret_in_error"  # noqa: S105
SECRET_IN_INPUT = "secret_in_input"  # noqa: S105
EXFILTRATION_LINK = "exfiltration_link"
PROMPT_INJECTION = "prompt_injection"
# A prompt injection is critical when its trace shows that it may have worked; see ``open_flags``.
SEVERITIES: Mapping[str, Severity] = {
    SECRET_IN_OUTPUT: "critical",
    EXFILTRATION_LINK: "critical",
    PROMPT_INJECTION: "warning",
    SECRET_IN_ERROR: "warning",
    SECRET_IN_INPUT: "info",
}
COLUMNS = (
    "source", "project", "trace_id", "run_id", "run_type", "agent_name", "tenant_id", "start_time", "inputs", "outputs", "error_message",
)  # fmt: skip
_MOST = 200  # matches of one kind that are looked at in one text
_PLACES = ("input", "output", "error_message")
_SECRET_IN = {"input": SECRET_IN_INPUT, "output": SECRET_IN_OUTPUT, "error_message": SECRET_IN_ERROR}
# What these bring comes from outside: it can hold injections, and its pictures are shown to nobody.
_FROM_OUTSIDE = frozenset({"tool", "retriever", "reranker"})


@dataclass(frozen=True, slots=True)
class Flag:
    """Something found in a run: what and where, never the text. ``day`` is the UTC day of the run's own start."""

    day: date
    source: str
    project: str
    trace_id: str
    run_id: str
    kind: str
    place: str
    agent_name: str | None
    tenant_id: str | None
    start_time: datetime


@dataclass(frozen=True, slots=True)
class Flagged:
    """The open flags of one kind on one agent; ``count`` is of traces, ``trace_ids`` are the newest five of them."""

    source: str
    project: str
    agent_name: str | None
    kind: str
    severity: Severity
    count: int
    first_time: datetime
    last_time: datetime
    trace_ids: tuple[str, ...]


# Finding --------------------------------------------------------------------------------------------------------


def scan(runs: pa.Table) -> tuple[Flag, ...]:
    """The flags of normalised runs that are not redacted yet (a table with at least ``COLUMNS``)."""
    columns = [_single(runs.column(name)) for name in ("inputs", "outputs", "error_message")]
    texts = pa.concat_arrays(columns)  # one pass over one column: compiling the pattern costs as much as a thousand rows
    if texts.null_count == len(texts):
        return ()
    suspicious = injections.where(texts, _SUSPICIOUS)
    if not len(suspicious):
        return ()
    run_types = runs.column("run_type")
    found: dict[tuple[int, str, str], None] = {}
    close = _CloseLook(texts.take(pa.array(suspicious)), [_PLACES[at // runs.num_rows] for at in suspicious])
    rows = [int(at % runs.num_rows) for at in suspicious]
    for number, kind in close.findings([run_types[row].as_py() for row in rows]):
        found[rows[number], kind, close.places[number]] = None
    return tuple(_flag(runs, *finding) for finding in sorted(found))


def _flag(runs: pa.Table, row: int, kind: str, place: str) -> Flag:
    said = {name: runs.column(name)[row].as_py() for name in COLUMNS if name not in ("inputs", "outputs", "error_message")}
    return Flag(
        day=said["start_time"].astimezone(UTC).date(),
        kind=kind,
        place=place,
        **{name: said[name] for name in ("source", "project", "trace_id", "run_id", "agent_name", "tenant_id", "start_time")},
    )


class _CloseLook:
    """The look at the texts that might hold something: every step leaves fewer for the next, dearer one."""

    def __init__(self, texts: pa.Array, places: Sequence[str]) -> None:
        self._texts = texts
        self.places = places

    def findings(self, run_types: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Numbers of texts and kinds of what is in them."""
        outside = [run_type in _FROM_OUTSIDE for run_type in run_types]
        for number in self._with_secrets(range(len(self.places))):
            yield number, _SECRET_IN[self.places[number]]
        shown = [number for number, place in enumerate(self.places) if place == "output" and not outside[number]]
        for number in self._with_links(shown):
            yield number, EXFILTRATION_LINK
        read = [number for number, place in enumerate(self.places) if place == "input" or (place == "output" and outside[number])]
        for number in self._with_injections(read):
            yield number, PROMPT_INJECTION

    def _some(self, numbers: Sequence[int], pattern: str) -> Iterator[tuple[int, str]]:
        """Those of the texts that RE2 finds the pattern in."""
        texts = self._texts if len(numbers) == len(self._texts) else self._texts.take(pa.array(numbers, pa.int64()))
        return ((numbers[at], texts[at].as_py()) for at in injections.where(texts, pattern))

    def _with_secrets(self, numbers: Sequence[int]) -> Iterator[int]:
        for look in _SECRETS:
            yield from self._really(numbers, look.pattern, look.passed_over)

    def _with_links(self, numbers: Sequence[int]) -> Iterator[int]:
        yield from self._really(numbers, _LINK, _harmless_link)

    def _with_injections(self, numbers: Sequence[int]) -> Iterator[int]:
        yield from (number for number, _ in self._some(numbers, injections.ENCODED))
        yield from (numbers[at] for at in injections.instructed([self._texts[number].as_py() for number in numbers]))

    def _really(self, numbers: Sequence[int], pattern: str, passed_over: Callable[[str, str], int | None]) -> Iterator[int]:
        some = list(self._some(numbers, pattern))
        yield from (some[at][0] for at in injections.where_real([text for _, text in some], pattern, passed_over, most=_MOST))


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


# Secrets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Secret:
    """A kind of secret: RE2 and Python pattern with the groups of ``redaction.Kind``, and whether a find could be real."""

    pattern: str
    is_real: Callable[[str, str], bool]  # given what stands before and the find itself
    python: str | None = None  # where the pattern is not Python's too

    def passed_over(self, _: str, text: str) -> int | None:
        """None where a match at the beginning of the text could be real, else how many bytes of it hold no other."""
        found = re.match(self.python or self.pattern, text, re.ASCII)
        if found is None:
            return 1
        return None if self.is_real(found[1], found[2]) else len((found[1] or found[0]).encode())

    def is_in(self, text: str) -> bool:
        """For short texts."""
        return any(self.is_real(found[1], found[2]) for found in re.finditer(self.python or self.pattern, text, re.ASCII))


# What stands in documentation, tests and forms in the place of a secret.
_EXAMPLE = re.compile(
    r"(?i)ex[ae]mple|beispiel|sample|dummy|placeholder|your|change_?me|insert|replace|redacted|fake|lorem|hunter2|passw[o0]r[dt]|passphrase"
    r"|secret|xxxx|\*\*\*|\.\.\.|…|<|\[|\{|\$|%s|todo|test_?key|0000000|1234567|7654321|abcdef|deadbeef|qwerty|foobar|john doe"
)
_CLASSES = str.maketrans(
    {chr(code): "a" for code in range(97, 123)} | {chr(code): "A" for code in range(65, 91)} | {chr(code): "0" for code in range(48, 58)}
)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


def _looks_drawn(found: str, least: int = 16, share: int = 5) -> bool:
    """Whether text looks drawn at random: it changes between small letters, capitals and digits (every ``share``th character or
    more often) as words do not."""
    letters = re.sub(r"[^A-Za-z0-9]", "", found)
    classes = letters.translate(_CLASSES)
    changes = sum(left != right for left, right in itertools.pairwise(classes))
    return len(letters) >= least and changes >= len(letters) / share and len(set(letters)) >= 8 and not _EXAMPLE.search(found)


def _key(_: str, found: str) -> bool:
    """What follows a maker's prefix; public keys are no secret, and ``sk-`` also begins names in style sheets."""
    if found.startswith(("pk_", "pk-")):
        return False
    if found.isupper():  # no words to be told from, and often without digits
        return _looks_drawn(found, share=len(found))
    return _looks_drawn(found.removeprefix("sk-"), share=5 if found.startswith("sk-") else 10)


def _private_key(_: str, after: str) -> bool:
    """A header alone is documentation; a key has a hundred characters and more of base64."""
    body = re.sub(r"(?:\\+[nr]|\s)+", "", after.partition("-----")[0])
    return len(re.findall(r"[A-Za-z0-9+/=]", body)) >= 100 and "..." not in body and not _EXAMPLE.search(body[:24])


def _credentials(_: str, found: str) -> bool:
    """user:password of an address, followed by its host."""
    login, _, host = found.rpartition("@")
    user, _, password = login.partition(":")
    return len(password) >= 6 and password != user and not _EXAMPLE.search(unquote_plus(password)) and not re.match(r"(?i)example\.", host)


def _token(_: str, found: str) -> bool:
    """A signed or encrypted token begins with a header that names its algorithm (RFC 7515)."""
    header, claims = (_from_base64(part) or b"" for part in (found + ".").split(".")[:2])
    try:
        said = orjson.loads(header)
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and "alg" in said and found.count(".") >= 2 and b"John Doe" not in claims


def _authorization(before: str, found: str) -> bool:
    if re.search(r"(?i)basic\s*$", before):
        login = _from_base64(found) or b""
        return b":" in login and login.isascii() and not _EXAMPLE.search(login.decode())
    return _looks_drawn(found, 20) and not _UUID.fullmatch(found)


def _named(before: str, found: str) -> bool:
    """A value whose name says that it is secret: people's passwords mix kinds of characters, machines' look drawn."""
    bare = found.strip("\\\"'")
    if _EXAMPLE.search(bare) or _UUID.fullmatch(bare) or " " in bare:
        return False
    if re.search(r"(?i)pass|pwd", before):
        kinds = sum(bool(re.search(kind, bare)) for kind in ("[a-z]", "[A-Z]", "[0-9]", r"[^A-Za-z0-9_.\-()/]"))
        return len(bare) >= 8 and (kinds >= 3 or _looks_drawn(bare, 12)) and not re.search(r"[(){}]|^\w+\.\w+$", bare)
    if re.search(r"(?i)(?:session|csrf|id)[_-]?token", before):
        return False  # identifiers more often than not; those that are signed are found by their form
    return _looks_drawn(bare)


def _from_base64(text: str) -> bytes | None:
    """The bytes that text in either alphabet of base64 stands for."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


# Makers' prefixes beside those of redaction.
_MORE_KEYS = (
    r"shp(?:at|ca|pa|ss)_[a-f0-9]{32}|dop_v1_[a-f0-9]{64}|hv[sb]\.[A-Za-z0-9_\-]{24,}",  # Shopify, DigitalOcean, Vault
    r"AGE-SECRET-KEY-1[A-Z0-9]{50,}|glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}|NRAK-[A-Z0-9]{27}|sntrys_[A-Za-z0-9+/=_\-]{40,}",
    r"figd_[A-Za-z0-9_\-]{36,}|lin_api_[A-Za-z0-9]{36,}|ntn_[A-Za-z0-9]{40,}|PMAK-[a-f0-9]{24}-[a-f0-9]{34}",
    r"pscale_(?:tkn|pw)_[A-Za-z0-9_\-]{32,}|sbp_[a-f0-9]{40}|dp\.(?:pt|st)\.[A-Za-z0-9.]{40,}|sq0(?:atp|csp)-[A-Za-z0-9_\-]{22,}",
    r"ATATT3x[A-Za-z0-9_\-=]{100,}|nvapi-[A-Za-z0-9_\-]{60,}|tvly-[A-Za-z0-9_\-]{28,}|pcsk_[A-Za-z0-9_]{50,}|fw_[A-Za-z0-9]{22,}",
    r"key-[a-f0-9]{32}|SK[a-f0-9]{32}|[0-9]{8,10}:AA[A-Za-z0-9_\-]{33}",  # Mailgun, Twilio, Telegram
    r"hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,}",
    r"discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_\-]{60,}",
)
_KINDS = {(kind.name, kind.look is None): kind.pattern for kind in redaction.KINDS}
_PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
_SECRETS = (
    _Secret(_PRIVATE_KEY, _private_key, rf"({_PRIVATE_KEY})((?s:.{{0,4000}}))"),
    _Secret(_KINDS["credentials", True], _credentials, _KINDS["credentials", True].removesuffix("@").removesuffix(")") + r"@[^\s/\"'<>]*)"),
    _Secret(_KINDS["token", True], _token),
    _Secret(_KINDS["api_key", True], _key),
    _Secret(rf"\b()({'|'.join(_MORE_KEYS)})", _key),
    _Secret(_KINDS["token", False], _authorization),
    _Secret(_KINDS["secret", False], _named),
)


def _has_secret(text: str) -> bool:
    """For short texts: an address, a parameter."""
    return any(look.is_in(text) for look in _SECRETS)


# Links that carry data away -------------------------------------------------------------------------------------

_ADDRESS = r"https?://[^\s)<>\"'\]\\]+"
# Images in markdown and HTML, links (group 3), addresses given apart; as RE2 and Python read them alike.
_LINK = (
    rf"(?i:!\[[^\]]*\]\(\s*<?({_ADDRESS})|<img[^>]*src\s*=\s*\\?[\x22']?({_ADDRESS})|\]\(\s*<?({_ADDRESS})"
    rf"|(?:\n|\\n)\s*\[[^\]\n]+\]:\s*<?({_ADDRESS}))"
)
# Services that draw what the address says, and show it to nobody else.
_DRAWS = re.compile(
    r"(?:.*\.)?(?:quickchart\.io|image-charts\.com|(?:chart|maps)\.googleapis\.com|shields\.io|badgen\.net|codecogs\.com|mermaid\.ink|kroki\.io"
    r"|plantuml\.com|placehold\.co|placeholder\.com|dummyimage\.com|pollinations\.ai|qrserver\.com|githubusercontent\.com)"
)
_TEXTUAL = re.compile(r"[A-Za-zÀ-ÿ]{2,}(?:[\s,;:|]+\S+){2,}")


def _harmless_link(_: str, text: str) -> int | None:
    """None where the link that a text begins with carries data, else its bytes."""
    found = re.match(_LINK, text)
    if found is None:
        return 1
    carries = _address_carries(next(filter(None, found.groups())), only_hidden=found[3] is not None)
    return None if carries else len(found[0].encode())


def _address_carries(address: str, *, only_hidden: bool) -> bool:
    """With ``only_hidden``, plain words do not count: links to searches carry them."""
    try:
        parts = urlsplit(address.replace("&amp;", "&"))
    except ValueError:  # no address of anything
        return False
    values = [pair.partition("=")[2] or pair for pair in parts.query.split("&") if pair]
    if any(_has_secret(f"{pair} ") for pair in map(unquote_plus, parts.query.split("&"))):
        return True
    drawn = _DRAWS.fullmatch((parts.hostname or "").lower()) is not None
    if not only_hidden and not drawn and any(_TEXTUAL.search(unquote_plus(value)) or "%40" in value for value in values):
        return True
    segments = [re.sub(r"\.(?:png|jpe?g|gif|webp|svg)$", "", part) for part in parts.path.split("/")]
    return not drawn and any(_hides_text(unquote_plus(value)) for value in (*values, *segments))


def _hides_text(value: str) -> bool:
    """Whether base64 or hexadecimal stands for readable text."""
    if len(value) < 16:
        return False
    decoded = _from_base64(value.replace(" ", "+"))
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}){10,}", value):
        decoded = bytes.fromhex(value)
    if not decoded:
        return False
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        return False
    letters = sum(character.isalpha() or character in " \n,.:;@{}\"'" for character in text)
    return text.isprintable() and len(text) >= 10 and letters >= 0.7 * len(text)


def _shortened(pattern: str) -> str:
    """A pattern that is found wherever the given one is, and quick to compile: "once or more" for "ten times" and the like."""
    return re.sub(r"\{\d{2,},?\d*\}", "+", pattern)


# One pass for everything: what follows looks only at texts in which this is found. Addresses are common, logins in them are not.
# Each look compiles it anew, so it is kept small: 2 ms, against 10 with the patterns of secrets as they are.
_LINK_HINT = r"(?i:\]\(\s*<?https?:|<img\s|\]:\s*<?https?:)"
_SUSPICIOUS = "|".join(
    f"(?:{pattern})"
    for pattern in (
        _LINK_HINT,
        injections.HINT,
        injections.ENCODED,
        r"://[^\s/:@]*:[^\s/@]+@",
        *(_shortened(look.pattern) for look in _SECRETS if "://" not in look.pattern),
    )
)

# Keeping and asking ---------------------------------------------------------------------------------------------

_WRITE = """
    INSERT INTO metamon.security_flags
        (day, source, project, trace_id, run_id, kind, place, agent_name, tenant_id, start_time, flagged_at)
    SELECT v.*, %(flagged_at)s FROM unnest(%(day)s::date[], %(source)s::text[], %(project)s::text[], %(trace_id)s::text[],
        %(run_id)s::text[], %(kind)s::text[], %(place)s::text[], %(agent_name)s::text[], %(tenant_id)s::text[],
        %(start_time)s::timestamptz[])
        AS v (day, source, project, trace_id, run_id, kind, place, agent_name, tenant_id, start_time)
    {where} ON CONFLICT DO NOTHING"""
# Traces that the read was not asked for; one of several roots may be inside all the same.
_NOT_OUTSIDE = """
    WHERE NOT EXISTS (SELECT FROM outside_traces o WHERE o.trace_id = v.trace_id AND o.project = v.project)
        OR EXISTS (SELECT FROM metamon.traces t
            WHERE t.trace_id = v.trace_id AND t.source = v.source AND t.day BETWEEN %(first)s AND %(last)s)"""
_REACH = timedelta(days=15)  # how long before a run its trace may have begun, for looking up the trace


def write(cursor: Cursor, flags: Iterable[Flag], flagged_at: datetime, window: Window | None = None) -> int:
    """Keep the flags of one read of runs, in the transaction that writes the runs and after they are merged; gives how many are new.

    A flag that is there stays as it is. ``window``: what the read was limited to; flags of traces outside are left out.
    """
    columns = zip(*sorted(set(map(astuple, flags)), key=lambda row: row[:7]), strict=True)
    values: dict[str, Any] = dict(zip(Flag.__slots__, map(list, columns), strict=False)) | {"flagged_at": flagged_at}
    if "day" not in values:
        return 0
    if window is not None:
        values |= {"first": window.start.date(), "last": (window.end - timedelta(microseconds=1)).date()}
    cursor.execute(_WRITE.format(where="" if window is None else _NOT_OUTSIDE), values)
    return cursor.rowcount


_OPEN = """
    WITH recent AS MATERIALIZED (
        SELECT * FROM metamon.security_flags WHERE start_time >= %(since)s AND start_time < %(until)s),
    leaking AS MATERIALIZED (
        SELECT DISTINCT source, trace_id FROM metamon.security_flags
        WHERE kind IN ('secret_in_output', 'exfiltration_link')
            AND trace_id IN (SELECT trace_id FROM recent WHERE kind = 'prompt_injection')),
    known AS (
        SELECT f.source, f.project, COALESCE(root.agent_name, f.agent_name) AS agent_name, f.kind, f.trace_id, f.start_time,
            f.kind = 'prompt_injection' AND (
                EXISTS (SELECT FROM leaking l WHERE l.source = f.source AND l.trace_id = f.trace_id)
                OR EXISTS (SELECT FROM metamon.spans s WHERE s.trace_id = f.trace_id AND s.source = f.source AND s.run_type = 'tool'
                    AND s.status = 'error' AND s.day BETWEEN %(first)s AND %(last)s)) AS worked
        FROM recent f LEFT JOIN LATERAL (
            SELECT t.agent_name FROM metamon.traces t
            WHERE t.trace_id = f.trace_id AND t.source = f.source AND t.agent_name IS NOT NULL AND t.day BETWEEN %(first)s AND %(last)s
            ORDER BY t.project <> f.project, t.start_time LIMIT 1) root ON true),
    traces AS (
        SELECT source, project, agent_name, kind, trace_id, bool_or(worked) AS worked,
            min(start_time) AS first_time, max(start_time) AS last_time
        FROM known GROUP BY 1, 2, 3, 4, 5)
    SELECT source, project, agent_name, kind, bool_or(worked), count(*), min(first_time), max(last_time),
        (array_agg(trace_id ORDER BY last_time DESC, trace_id))[:5]
    FROM traces GROUP BY 1, 2, 3, 4 ORDER BY 2, 3 NULLS FIRST, 4, 1"""
_AHEAD = timedelta(days=1)  # clocks differ


def open_flags(connection: Connection, since: datetime, now: datetime) -> list[Flagged]:
    """What was found in runs that started at ``since`` or later, by project, agent (the root's, where it names one) and kind.

    By the time of the run and not of the find, so that data of long ago, read today, open nothing. A prompt injection is
    critical where the same trace also has a tool call with an error or a secret or such a link in an output.
    """
    values = {"since": since, "until": now + _AHEAD, "first": (since - _REACH).date(), "last": (now + _AHEAD).date()}
    with connection, connection.cursor() as cursor:
        cursor.execute(_OPEN, values)
        return [
            Flagged(source, project, agent, kind, "critical" if worked else SEVERITIES[kind], count, first, last, tuple(traces))
            for source, project, agent, kind, worked, count, first, last, traces in cursor.fetchall()
        ]
