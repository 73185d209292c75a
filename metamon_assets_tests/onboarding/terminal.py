"""``metamon`` on a terminal, driven by a script: what the trials of the first hour and their benchmark share."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pexpect

PROGRAM = Path(sys.executable).with_name("metamon")
ROWS_COLUMNS = (60, 160)
QUESTION = re.compile(r"\? \([^\n]*\[[^\]]*\]: ")  # click's way of showing a default


@dataclass
class Transcript:
    """What was shown, how many questions were asked, and when the reports came (seconds from the first key)."""

    text: str = ""
    questions: list[str] = field(default_factory=list)
    first_report: float | None = None
    seconds: float = 0.0
    exit_code: int | None = None


def converse(
    arguments: Sequence[str], environment: Mapping[str, str], answers: Mapping[str, str], *, timeout: float, cwd: Path | None = None
) -> Transcript:
    """Run ``metamon`` in a pseudo-terminal. Each question is answered by the entry of ``answers`` whose key it holds, else by Enter."""
    told = Transcript()
    begun = time.monotonic()
    child = pexpect.spawn(
        str(PROGRAM),
        list(arguments),
        # As in a person's shell, compiled modules are kept: without, each start compiles some 1,500 of them again.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
        cwd=cwd,
        encoding="utf-8",
        timeout=timeout,
        dimensions=ROWS_COLUMNS,
    )
    try:
        while True:
            event = child.expect([QUESTION, "Metamon report, ", pexpect.EOF])
            told.text += child.before + (child.after if isinstance(child.after, str) else "")
            if event == 0:
                question = (child.before + child.after).strip().splitlines()[-1]
                told.questions.append(question)
                child.sendline(next((answer for words, answer in answers.items() if words in question), ""))
            elif event == 1:
                told.first_report = told.first_report or time.monotonic() - begun
            else:
                break
    finally:
        child.close()
    told.seconds, told.exit_code = time.monotonic() - begun, child.exitstatus
    return told
