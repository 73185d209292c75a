"""Checks of arguments that the functions of this folder share: a wrong one raises a ValueError that names it.

What is checked here is how a function is called. Data that is empty, constant or not finite is no wrong call: it gives
a result whose status is ``insufficient_data`` or ``undefined``. This module imports the standard library and NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Status = Literal["ok", "insufficient_data", "undefined"]


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise ValueError unless ``value`` is a string in ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def flag(name: str, value: object) -> bool:
    """``value`` as a bool; ValueError for anything else, since every text is true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def between(name: str, value: object, lower: float, upper: float) -> float:
    """``value`` as a float; ValueError unless it lies strictly between the two (NaN never does)."""
    number = real(name, value)
    if not lower < number < upper:
        raise ValueError(f"{name} must lie between {lower:g} and {upper:g}, both excluded, not {value!r}")
    return number


def real(name: str, value: object, *, finite: bool = True) -> float:
    """``value`` as a float; ValueError when it is no number, or not finite while it must be."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError("text is no number")
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, not {value!r}") from error
    if finite and not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return number


def whole(name: str, value: object, minimum: int) -> int:
    """``value`` as an int; ValueError unless it is a whole number of at least ``minimum``."""
    number = real(name, value)
    if number != int(number) or number < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, not {value!r}")
    return int(number)


def vector(name: str, values: ArrayLike, *, length: int | None = None) -> NDArray[np.float64]:
    """``values`` as an array of floats, shape (n,); None becomes NaN. ValueError for other shapes, lengths and types.

    Dates and durations are refused: as numbers they would be counts of whatever unit they happen to be stored in.
    """
    try:
        given = np.ma.filled(values.astype(np.float64), np.nan) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if given.dtype.kind in "mMcSU":
            hint = "; divide durations by a unit of time first" if given.dtype.kind == "m" else ""
            raise TypeError(f"they are {given.dtype}{hint}")
        array = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a sequence of numbers: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {array.ndim}")
    if length is not None and array.size != length:
        raise ValueError(f"{name} must have {length} values, as the others do, not {array.size}")
    return array
