"""One log with levels and fields, for all processes of a home.

Here belong the shape of a record, how a process of ours logs (``configure``), the rotated file that ``metamon up``
writes, and how ``metamon logs`` reads and shows it. What other programs print becomes records in ``supervisor.output``.

A record is one JSON object on a line: ``time`` (UTC, ISO 8601), ``level``, ``component``, ``message``, further fields.
``METAMON_LOG`` chooses between ``text`` and ``json`` for a process that logs to its standard output.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import orjson

from metamon_assets.errors import MetamonError

LEVELS = ("debug", "info", "warning", "error", "critical")
COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
FILE_NAME = "metamon.jsonl"
FILE_LIMIT = 10_000_000  # bytes; a longer file is put aside
GENERATIONS = 5  # files put aside that are kept
BASIC = ("time", "level", "component", "message")
Record: TypeAlias = dict[str, Any]


class LogError(MetamonError):
    """The log cannot be written or read as asked; the message says how to mend it."""


# Records


def record(level: str, component: str, message: str, **fields: Any) -> Record:
    """A record of now."""
    return {"time": timestamp(datetime.now(UTC)), "level": level, "component": component, "message": message, **fields}


def timestamp(moment: datetime) -> str:
    """An aware time as records have it: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_line(entry: Mapping[str, Any]) -> bytes:
    """A record as a line of the file. What JSON does not know becomes text."""
    try:
        return orjson.dumps(entry, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, numbers beyond 64 bits
        texts = {str(key): str(value).encode(errors="replace").decode() for key, value in entry.items()}
        return orjson.dumps(texts, option=orjson.OPT_APPEND_NEWLINE)


def to_text(entry: Mapping[str, Any], colour: bool = False) -> str:
    """A record for people. Control characters, which could steer a terminal, are shown and not sent."""
    import click

    level = str(entry.get("level"))
    fields = "  ".join(f"{name}={_plain(value)}" for name, value in entry.items() if name not in (*BASIC, "traceback"))
    head = f"{_plain(entry.get('time'))[:19].replace('T', ' ')} {_plain(level):<8} {_plain(entry.get('component')):<12} "
    lines = [head + _plain(entry.get("message")) + (f"  {fields}" if fields else ""), *_plain(entry.get("traceback") or "").splitlines()]
    text = "\n    ".join(line for part in lines for line in part.split("\n"))
    return click.style(text, fg=COLOURS.get(level)) if colour and level in COLOURS else text


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text)


# A process of ours


def configure(component: str) -> None:
    """Let this process log to its standard output: text on a terminal, else JSON; METAMON_LOG says otherwise.

    Our own records count from ``info``, those of libraries from ``warning``. Exceptions that nobody catches are
    records too. Raises LogError when METAMON_LOG is neither.
    """
    form = os.environ.get("METAMON_LOG") or ("text" if sys.stdout.isatty() else "json")
    if form not in ("text", "json"):
        raise LogError(f"METAMON_LOG is {form!r}: set it to text or json.")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter(component, to_text if form == "text" else lambda entry: to_line(entry).decode().rstrip("\n")))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("metamon_assets").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda failure: _uncaught(failure.exc_type, failure.exc_value, failure.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt):
        logging.getLogger(__name__).critical("Ended by %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


class Formatter(logging.Formatter):
    """Makes a record of what ``logging`` hands over; what was given as ``extra`` becomes fields."""

    standard = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def __init__(self, component: str, form: Callable[[Record], str]) -> None:
        super().__init__()
        self._component = component
        self._form = form

    def format(self, entry: logging.LogRecord) -> str:
        """The record as text or as JSON."""
        fields = {name: value for name, value in vars(entry).items() if name not in self.standard}
        if entry.exc_info and entry.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(*entry.exc_info)).rstrip()
        basic = {
            "time": timestamp(datetime.fromtimestamp(entry.created, UTC)),
            "level": entry.levelname.lower(),
            "component": self._component,
            "message": entry.getMessage(),
        }
        return self._form({**fields, **basic})


# The file


class RotatedFile:
    """A file of records that is put aside when it is long; the last few are kept (``….1`` is the newest of them).

    Threads may share it. ``write`` does not raise when the disk is full, since a watch must go on: it counts what is
    lost (``lost``, with the reason in ``trouble``) and says so in the file as soon as that can be written again.
    """

    def __init__(self, path: Path, limit: int = FILE_LIMIT, generations: int = GENERATIONS) -> None:
        self.path = path
        self.lost = 0
        self.trouble: str | None = None
        self._limit = limit
        self._generations = generations
        self._descriptor: int | None = None
        self._size = 0
        self._torn = False  # the last line is not whole
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Append a line that ends with a line feed."""
        with self._lock:
            try:
                if self.lost:
                    self._append(to_line(record("warning", "log", f"{self.lost} records are missing here: {self.trouble}")))
                    self.lost, self.trouble = 0, None
                self._append(line)
            except OSError as error:
                self.lost += 1
                self.trouble = error.strerror or str(error)

    def close(self) -> None:
        """Let go of the file; the next ``write`` opens it again."""
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        if self._descriptor is not None and self._size + len(line) > self._limit:
            self._close()
            self._rotate()
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        whole = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, whole)
        self._size += written
        self._torn = written < len(whole)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self) -> None:
        for number in range(self._generations, 0, -1):
            older = generation(self.path, number - 1)
            if older.exists():
                older.replace(generation(self.path, number))

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def generation(path: Path, number: int) -> Path:
    """The file itself for 0; the one put aside ``number`` rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


# Reading


def read(path: Path, since: datetime | None = None, follow: bool = False) -> Iterator[Record]:
    """The records of the file and of those put aside, oldest first; with ``follow`` also those to come, without end.

    Lines that are no records (torn by a full disk) are left out.
    """
    wanted = timestamp(since) if since else ""
    files = [generation(path, number) for number in range(GENERATIONS, -1, -1)]
    recent = [file for file in files if file.exists() and (since is None or file.stat().st_mtime >= since.timestamp())]
    lines = (line for file in recent for line in _lines(file, follow=False)) if not follow else _followed(path, recent)
    for line in lines:
        entry = parse(line)
        if entry is not None and str(entry["time"]) >= wanted:
            yield entry


def parse(line: bytes | str) -> Record | None:
    """The record on a line; None when it is none."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    whole = isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in BASIC) and entry["level"] in LEVELS
    return entry if whole else None


def _followed(path: Path, recent: list[Path]) -> Iterator[bytes]:
    for file in recent:
        if file != path:
            yield from _lines(file, follow=False)
    while True:
        if path.exists():
            yield from _lines(path, follow=True)
        else:
            time.sleep(0.2)


def _lines(path: Path, follow: bool) -> Iterator[bytes]:
    """Whole lines of a file; with ``follow`` it waits for more until the file is put aside."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # put aside just now
        return
    with file:
        rest = b""
        while True:
            part = file.readline()
            rest += part
            if rest.endswith(b"\n"):
                yield rest
                rest = b""
            elif not part and (not follow or _put_aside(file, path)):
                return
            elif not part:
                time.sleep(0.2)


def _put_aside(file: IO[bytes], path: Path) -> bool:
    """Whether ``path`` is another file by now, and this one is read to its end."""
    ours = os.fstat(file.fileno())
    try:
        same = path.stat().st_ino == ours.st_ino
    except FileNotFoundError:
        same = False
    return not same and file.tell() >= ours.st_size
