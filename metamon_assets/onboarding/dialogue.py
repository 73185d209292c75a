"""Asking a person: few questions, each with a default, none where nobody can answer.

Here belongs the asking only. What is asked, and what the answers mean, is the business of whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from metamon_assets.errors import MetamonError

Answer = TypeVar("Answer")
Say = Callable[[str], None]
MOST_QUESTIONS = 3
_TRIES = 5


class AnswerError(MetamonError):
    """An answer cannot be used; the message says why and what could be."""


@dataclass(slots=True)
class Dialogue:
    """``prompt`` shows a question and its default and gives what was typed; None: nobody is asked, defaults count."""

    say: Say
    prompt: Callable[[str, str], str] | None = None
    asked: list[str] = field(default_factory=list)

    def ask(self, question: str, default: str, read: Callable[[str], Answer]) -> Answer:
        """What the answer means to ``read``, which raises AnswerError for one that cannot be used: then it is asked again."""
        if self.prompt is None:
            return read(default)
        self.asked.append(question)
        for _ in range(_TRIES - 1):
            try:
                return read(self.prompt(question, default).strip() or default)
            except AnswerError as error:
                self.say(str(error))
        return read(self.prompt(question, default).strip() or default)
