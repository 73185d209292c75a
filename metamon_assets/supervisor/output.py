"""What the children print, as records of the one log.

Our own processes print JSON records, which are taken over; Dagster prints JSON of its own shape, its runs print text.
A traceback stays together, with the line that announces it. Everything else is a record a line. Readers always drain, so that a child
never waits for the log, and bound what they keep of a line.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from metamon_assets import log

LINE_LIMIT = 65_536  # bytes of a line, and characters of a traceback, that are kept
IDLE_SECONDS = 0.2  # a pause this long ends a record of several lines
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
DAGSTER_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ([+-]\d{4}) - (\S+) - (DEBUG|INFO|WARNING|ERROR|CRITICAL) - (.*)")
PYTHON_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):([\w.]+):(.*)")  # what logging does when nobody told it how
LEVEL_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL|Warning|Error):\s+(.*)")
TRACE_STARTS = ("Traceback (most recent call last)", "Fatal Python error", "Stack Trace:")
More = Literal["none", "indented lines", "any line"]
LEVEL_NAMES = {"warn": "warning", "fatal": "critical", "exception": "error", "notset": "info"}


class Journal:
    """The log file of ``metamon up``, without secrets, and the words to who started it."""

    def __init__(self, path: Path, progress: Callable[[str], None]) -> None:
        self.path = path
        self._hidden: list[bytes] = []
        self._file = log.RotatedFile(path)
        self._progress = progress

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on these become asterisks, as they are and as they stand in JSON."""
        forms = {form for secret in secrets for form in (secret.encode(), orjson.dumps(secret)[1:-1])}
        self._hidden = sorted(forms, key=len, reverse=True)

    def tell(self, text: str, level: str = "info", **fields: Any) -> None:
        """Say it to who started us, and to the log."""
        with contextlib.suppress(OSError):  # the terminal is gone
            self._progress(text)
        self.write(log.to_line(log.record(level, "supervisor", text, **fields)))

    def write(self, line: bytes) -> None:
        """Add a line to the log; secrets that are known become asterisks."""
        for secret in self._hidden:
            line = line.replace(secret, b"***")
        self._file.write(line)

    @property
    def trouble(self) -> str | None:
        """Why the log cannot be written at present."""
        return self._file.trouble

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Reader(threading.Thread):
    """Drains the pipe of one child until nobody holds its other end."""

    def __init__(self, component: str, pipe: IO[bytes], write: Callable[[bytes], None]) -> None:
        super().__init__(name=f"log of {component}", daemon=True)
        self._pipe = pipe
        self._records = Records(component, write)

    def run(self) -> None:
        """Read, cut into lines, make records."""
        descriptor = self._pipe.fileno()
        with self._pipe:
            while True:
                if self._records.unfinished and not select.select([descriptor], [], [], IDLE_SECONDS)[0]:
                    self._records.flush()
                    continue
                part = os.read(descriptor, 65_536)
                if not part:
                    break
                try:
                    self._records.feed(part)
                except Exception as error:  # noqa: BLE001 - a pipe that nobody drains would stop the child
                    self._records.give_up(error)
            self._records.close()


class Records:
    """Bytes in, records out."""

    def __init__(self, component: str, write: Callable[[bytes], None]) -> None:
        self._component = component
        self._write = write
        self._line = bytearray()
        self._cut = 0  # bytes of the present line that were not kept
        self._pending: log.Record | None = None
        self._more: list[str] = []  # further lines of the pending record
        self._size = 0
        self._last: tuple[Any, ...] = ()  # level, logger and message of the last record
        self._open = False  # whether any line that is no record of its own belongs to the pending one

    @property
    def unfinished(self) -> bool:
        """Whether a record waits for lines that may belong to it."""
        return self._pending is not None

    def feed(self, part: bytes) -> None:
        """Take what was read."""
        *ended, rest = part.split(b"\n")
        for piece in ended:
            self._keep(piece)
            self._end_line()
        self._keep(rest)

    def flush(self) -> None:
        """Write the pending record."""
        if self._pending is None:
            return
        if self._more:
            text = "\n".join(self._more).rstrip()
            if not any(line.startswith(TRACE_STARTS) for line in self._more):
                self._pending["message"] = f"{self._pending['message']}\n{text}".rstrip()
            else:
                self._pending["traceback"] = text
                self._pending["message"] = self._pending["message"] or _last_sentence(text)
        self._write(log.to_line(self._pending))
        self._pending, self._more, self._size, self._open = None, [], 0, False

    def give_up(self, error: Exception) -> None:
        """What came last cannot be made a record: say so, and begin anew with the next line."""
        self._line.clear()
        self._pending, self._more, self._size, self._open, self._cut = None, [], 0, False, 0
        self._write(log.to_line(log.record("warning", self._component, f"What it printed cannot be shown ({type(error).__name__})")))

    def close(self) -> None:
        """The child has ended."""
        if self._line:
            self._end_line()
        self.flush()

    def _keep(self, piece: bytes) -> None:
        room = LINE_LIMIT - len(self._line)
        self._line += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _end_line(self) -> None:
        text = COLOURS.sub("", self._line.decode(errors="replace")).rstrip("\r")
        if self._cut:
            text += f"… ({self._cut} more bytes)"
        self._line.clear()
        self._cut = 0
        self._take(text)

    def _take(self, text: str) -> None:
        found, more = parse(text, self._component)
        if found is not None:
            self.flush()
            same, self._last = self._last, (found["level"], found.get("logger"), found["message"])
            if same == self._last and PYTHON_LINE.match(text):
                return  # one of Dagster's libraries made the process log everything twice
            self._pending, self._open = found, more == "any line"
            if more == "none":
                self.flush()
        elif text.startswith(TRACE_STARTS):
            self._begin_trace(text)
        elif self._pending is not None and (self._open or not text.strip() or text[0].isspace()):
            self._add(text)
        elif text.strip():
            self.flush()
            self._pending = log.record("info", self._component, text)

    def _begin_trace(self, text: str) -> None:
        if self._pending is not None and not self._open and not self._pending["message"].endswith(":"):  # "Exception in thread 7:"
            self.flush()
        if self._pending is None:
            self._pending = log.record("error", self._component, "")
        elif log.LEVELS.index(self._pending["level"]) < log.LEVELS.index("error"):
            self._pending["level"] = "error"
        self._open = True
        self._add(text)

    def _add(self, text: str) -> None:
        self._size += len(text)
        if self._size <= LINE_LIMIT:
            self._more.append(text)


def parse(text: str, component: str) -> tuple[log.Record | None, More]:
    """The record that a line begins, and what may follow as part of it; None when the line does not say its level."""
    if text.startswith("{"):
        found = _from_json(text, component)
        if found is not None:
            return found, "none"
    if dagster := DAGSTER_LINE.match(text):
        moment, zone, logger, level, message = dagster.groups()
        return {
            "time": _time(f"{moment}{zone}"),
            "level": level.lower(),
            "component": component,
            "message": message,
            "logger": logger,
        }, "any line"
    if python := PYTHON_LINE.match(text):
        return log.record(python[1].lower(), component, python[3], logger=python[2]), "any line"
    if plain := LEVEL_LINE.match(text):
        return log.record(plain[1].lower(), component, plain[2]), "indented lines"
    return None, "indented lines"


def _from_json(text: str, component: str) -> log.Record | None:
    """A record of ours, or one of Dagster's (structlog: event, timestamp, exception).

    Whose it is says the pipe that it came through: what a line says of itself may have been written by a stranger.
    """
    try:
        entry = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    message = entry.pop("message", None) or entry.pop("event", None)
    level = entry.pop("level", None)
    if not isinstance(message, str) or not isinstance(level, str):
        return None
    if isinstance(exception := entry.pop("exception", None), str):
        entry["traceback"] = exception
    entry.pop("component", None)
    return {
        "time": _time(entry.pop("time", None) or entry.pop("timestamp", None)),
        "level": _level(level),
        "component": component,
        "message": message,
        **entry,
    }


def _last_sentence(trace: str) -> str:
    """The line of a traceback that names the exception."""
    return next((line for line in reversed(trace.splitlines()) if line[:1].strip()), "traceback")


def _level(name: str) -> str:
    low = name.lower()
    low = LEVEL_NAMES.get(low, low)
    return low if low in log.LEVELS else "info"


def _time(value: Any) -> str:
    """ISO 8601 with a zone as it is, made UTC; anything else is now."""
    try:
        moment = datetime.fromisoformat(value)
        return log.timestamp(moment.replace(tzinfo=moment.tzinfo or UTC))
    except (TypeError, ValueError, OverflowError):
        return log.timestamp(datetime.now(UTC))
