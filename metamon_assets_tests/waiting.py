"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float, what: str, said: Callable[[], str] = str) -> Any:
    """Wait for the condition to give something; fail with what was said otherwise."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s:\n{said()}"
        time.sleep(0.1)
    return found
