"""Values as users log them, one at a time, to the few kinds that a column can hold. Pure.

In: any object. Out: None, a bool, an int of 64 bits, a float, a str or bytes; lists and arrays as
several of them under numbered names; or `UsageError`, which names what was found and leaves it to
the caller to say where. NumPy is never imported: whose value is an array has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

from arc.client.columns_wire import MAX_COLUMN_NAME_BYTES
from arc.client.errors import UsageError

#: Values in one list or array that is a field.
MAX_ELEMENTS = 1_024

#: What a column holds: types themselves, no subclass of them.
PLAIN = frozenset({float, int, str, bool, bytes, type(None)})

#: NumPy's scalars that `numpy.array(values).tolist()` turns into the Python numbers they equal.
NUMPY_NUMBERS = frozenset(
    {"bool", "bool_", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)

_MISSING = frozenset({"NAType", "NaTType"})
_WANTED = "a number, a string, a boolean, bytes, None, or a list of these"


def plain_value(value: Any) -> Any:
    """One value as None, bool, int, float, str or bytes themselves, no subclass of them.

    Raises:
        UsageError: there is no such value, or MessagePack does not have it.
    """
    kind = type(value)
    if kind is float:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            shown = str(value) if abs(value) < 10**40 else f"{value:#x}"[:40] + "…"
            raise UsageError(f"found the integer {shown}, wanted one of -2**63 to 2**64 - 1")
        return value
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"found {value[:40]!r}, wanted text without surrogates") from None
        return value
    if kind in PLAIN:
        return value
    converted = _converted(value, kind)
    if type(converted) not in PLAIN:
        raise UsageError(f"found {kind.__name__}, wanted {_WANTED}")
    return plain_value(converted)


def _converted(value: Any, kind: type) -> Any:
    """What a value stands for; the value itself where it stands for nothing that is sent."""
    if isinstance(value, Enum):
        inner = value.value
        return inner if type(inner) in PLAIN else _converted(inner, type(inner))
    for base in (str, int, float):
        if isinstance(value, base):
            # What the base makes of it, whatever the subclass says that it is.
            return getattr(base, f"__{base.__name__}__")(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(memoryview(value))
    if kind.__module__ == "numpy" and kind.__name__ in NUMPY_NUMBERS:
        return value.item()
    if kind.__name__ in _MISSING and kind.__module__.startswith("pandas"):
        return None
    return value


def text_value(plain: Any) -> str | None:
    """A plain value as the value of a tag: as the server writes those of row maps. NaN is missing.

    Raises:
        UsageError: bytes that are no UTF-8.
    """
    if plain is None or isinstance(plain, str):
        return plain
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, bytes):
        try:
            return plain.decode()
        except UnicodeDecodeError:
            raise UsageError("found bytes that are no UTF-8, wanted text: it is a tag") from None
    return None if plain != plain else repr(plain)


def elements(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The plain value under its name; or those of a list or array, under numbered names.

    Raises:
        UsageError: it is not plain, its list is empty or too long, or its name is: that bounds how
            deep lists may lie in lists.
    """
    if isinstance(value, Enum):
        value = value.value
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        value = _listed(value)
    if not isinstance(value, list | tuple):
        yield name, plain_value(value)
        return
    if not value:
        raise UsageError("found an empty list, wanted one of at least one element")
    if len(value) > MAX_ELEMENTS:
        raise too_many(len(value))
    for i, element in enumerate(value):
        full_name = f"{name}_{i}"
        if len(full_name.encode()) > MAX_COLUMN_NAME_BYTES:
            wanted = f"at most {MAX_COLUMN_NAME_BYTES}"
            raise UsageError(
                f"found an element whose name has over {wanted} bytes, wanted {wanted}"
            )
        yield from elements(full_name, element)


def _listed(array: Any) -> Any:
    """An array as lists of Python's values, without an axis as one such value."""
    if array.dtype.kind not in "biufOSU":
        raise UsageError(f"found an array of {array.dtype}, wanted {_WANTED}")
    if array.size > MAX_ELEMENTS:
        raise too_many(array.size)
    return array.tolist() if array.size else []  # an axis of length 0 makes no list of lists


def too_many(found: object) -> UsageError:
    """The refusal of a list or array."""
    return UsageError(f"found {found} elements, wanted at most {MAX_ELEMENTS}")
