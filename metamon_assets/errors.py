"""The one base of errors that people are meant to read, and what their messages are made with.

Each part raises a subclass of its own, next to the code that raises it. The command line prints these on one screen
without a traceback; anything else is a defect and shows one.
"""

from __future__ import annotations

from collections.abc import Iterable


class MetamonError(Exception):
    """Something that the reader can mend. The message says what is wrong, where, and how to mend it."""

    exit_code = 1  # of the command line


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type: the other lines may hold rows, payload and all."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def closest(name: object, known: Iterable[str]) -> str:
    """The known name that was probably meant; empty when none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), "")
