"""The one base of errors that people are meant to read.

Here belongs only that base: each part raises a subclass of its own, next to the code that raises it. The
command line prints these on one screen without a traceback; anything else is a defect and shows one.
"""

from __future__ import annotations


class MetamonError(Exception):
    """Something that the reader can mend. The message says what is wrong, where, and how to mend it."""

    exit_code = 1  # of the command line
