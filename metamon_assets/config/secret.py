"""Secrets as the configuration writes them: the name of an environment variable, never the secret itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import PydanticCustomError, core_schema

from metamon_assets.errors import MetamonError

if TYPE_CHECKING:
    from metamon_assets.config.shape import Configuration

CONFIG_NAME = "metamon.yaml"


class ConfigError(MetamonError):
    """The configuration cannot be used; the message names the file, the line, the key and how to mend it."""


class MistakesError(ConfigError):
    """A readable file has mistakes. ``usable`` is what there is without the parts that have them (at ``places``), for further checks."""

    def __init__(self, path: Path, mistakes: Sequence[str], usable: Configuration, places: Sequence[tuple[Any, ...]] = ()) -> None:
        listed = "\n".join(f"  {text}" for text in mistakes)
        super().__init__(f"{path} has {len(mistakes)} thing{'s' * (len(mistakes) > 1)} to mend:\n{listed}")
        self.mistakes = tuple(mistakes)
        self.usable = usable
        self.places = tuple(places)


class Secret:
    """Names the environment variable that holds a secret, and never the secret itself."""

    pattern = r"^env:[A-Za-z_][A-Za-z0-9_]*$"

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def __repr__(self) -> str:
        return f"Secret('env:{self.variable}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.variable == self.variable

    def __hash__(self) -> int:
        return hash(self.variable)

    @property
    def available(self) -> bool:
        """Whether the variable is set and not empty."""
        return bool(os.environ.get(self.variable))

    def value(self) -> SecretStr:
        """The secret, wrapped so that printing it shows asterisks. Raises ConfigError when the variable is not set."""
        text = os.environ.get(self.variable)
        if not text:
            raise ConfigError(f"The environment variable {self.variable}, which {CONFIG_NAME} names, is not set: export {self.variable}=…")
        return SecretStr(text)

    @classmethod
    def _parse(cls, text: str) -> Secret:
        if not re.match(cls.pattern, text):
            message = "a secret is not written here: put it into an environment variable and write env:NAME_OF_IT"
            raise PydanticCustomError("literal_secret", message)
        return cls(text.removeprefix("env:"))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read from ``env:NAME``, written back as it, and described so in the JSON Schema."""
        return core_schema.no_info_after_validator_function(
            cls._parse,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: f"env:{secret.variable}"),
            metadata={"pydantic_js_updates": {"pattern": cls.pattern, "description": "env:NAME of the variable that holds the secret"}},
        )
