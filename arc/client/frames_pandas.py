"""A pandas data frame as an Arrow table: pandas 2 and 3, whatever backs its columns.

In: the frame. Out: a pyarrow.Table whose columns have names of their own, the index among them,
with null where pandas has NaN, NaT, None or pd.NA. Never imports pandas, never copies a column of
numbers, never guesses what a column of objects was meant to be.

What is done with the index:

* A level with a name becomes a column of that name; one that repeats the column of its name (as
  `set_index(..., drop=False)` leaves it) is left out.
* Where no column and no level is called `time` and no time column is named, the only level of
  dates and times is the time, whatever its name.
* Integers without a name number the rows and are left out. Anything else without a name is
  refused, since it can neither be stored nor be dropped silently.

NaN is null because pandas 2 and 3 write a missing float so, and have nothing else for it in a
column of float64. Where a column has a mask of its own (Float64, double[pyarrow]), null is what
pandas takes for missing there.
"""

from __future__ import annotations

from typing import Any

from arc.client.errors import UsageError
from arc.client.frames_types import WANTED, Place

_TIME = "time"


def to_table(frame: Any, measurement: str, time_column: str | None) -> Any:
    """Convert a frame.

    Args:
        frame: pandas.DataFrame.
        measurement: For messages.
        time_column: What the caller named; None: a column or the index is to be found.

    Returns:
        pyarrow.Table. Numbers lie in the memory of the frame.

    Raises:
        UsageError: names that are not text, or objects of a column that are of several types.
    """
    import pyarrow as pa

    if not len(frame):
        return pa.table({})
    if frame.columns.nlevels > 1:
        raise UsageError(
            f"measurement {measurement!r}: the columns have {frame.columns.nlevels} levels, "
            "wanted one: join their names"
        )
    names = [_name(measurement, label) for label in frame.columns]
    arrays = [
        _array(values, Place(measurement, name))
        for name, (_, values) in zip(names, frame.items(), strict=True)
    ]
    for name, array in _levels(frame.index, names, measurement, time_column):
        if name not in names:
            names.append(name)
            arrays.append(array)
        elif not _equal(array, arrays[names.index(name)]):
            raise UsageError(
                f"measurement {measurement!r}: index and a column are both named {name!r}, "
                "and differ"
            )
    return pa.table(arrays, names=names)


def _name(measurement: str, label: Any) -> str:
    """A label of a column as text."""
    import numpy as np

    if isinstance(label, str):
        try:
            label.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"measurement {measurement!r}: a column is named {label[:40]!r}, "
                "which is not Unicode"
            ) from None
        return label
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return str(label)
    raise UsageError(
        f"measurement {measurement!r}: a column is named {label!r}, a {type(label).__name__}, "
        "wanted text or an integer"
    )


def _equal(one: Any, other: Any) -> bool:
    import pyarrow as pa

    both = [
        pa.chunked_array([each]) if isinstance(each, pa.Array) else each for each in (one, other)
    ]
    return bool(both[0].equals(both[1]))


# -------------------------------------------------------------------------------------- the index


def _levels(
    index: Any, names: list[str], measurement: str, time_column: str | None
) -> list[tuple[str, Any]]:
    """Names and values of the levels of the index that are stored."""
    levels = (
        [index] if index.nlevels == 1 else list(map(index.get_level_values, range(index.nlevels)))
    )
    labels: list[Any] = [level.name for level in levels]
    if time_column is None and _TIME not in names and _TIME not in labels:
        dated = [number for number, level in enumerate(levels) if _is_dated(level)]
        if len(dated) == 1:
            labels[dated[0]] = _TIME
    found = []
    for label, level in zip(labels, levels, strict=True):
        if label is not None:
            name = _name(measurement, label)
            found.append((name, _array(level, Place(measurement, name))))
        elif _kind(level) not in "iu":
            raise UsageError(
                f"measurement {measurement!r}: the index holds {level.dtype} and has no name: "
                "give it one, or drop it with reset_index(drop=True)"
            )
    return found


def _kind(values: Any) -> str:
    """The letter of a dtype: i, u, f, M, O, …; of extension types as well."""
    return str(getattr(values.dtype, "kind", "O"))


def _is_dated(level: Any) -> bool:
    return _kind(level) == "M"


# -------------------------------------------------------------------------------------- one column


def _array(values: Any, place: Place) -> Any:
    """A series or a level of an index as an array of Arrow, null where a value is missing."""
    import pyarrow as pa

    try:
        return _converted(values, place)
    except UsageError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        words = " ".join(str(error).split())
        raise place.error(f"found {values.dtype}, wanted {WANTED}: {words}") from None


def _converted(values: Any, place: Place) -> Any:
    import numpy as np
    import pyarrow as pa

    dtype, kind = values.dtype, _kind(values)
    if str(dtype).startswith("Sparse"):
        dtype = np.dtype(dtype.subtype)
        values, kind = np.asarray(values, dtype=dtype), dtype.kind
    if kind == "M" and not _is_of_arrow(values):
        return _timestamps(values)
    if not isinstance(dtype, np.dtype):
        return pa.array(values, from_pandas=True)
    numbers = np.asarray(values)
    if not dtype.isnative:
        numbers = numbers.astype(dtype.newbyteorder("="))
    if kind == "f":
        return _floats(numbers)
    return _objects(numbers, place) if kind == "O" else pa.array(numbers, from_pandas=True)


def _is_of_arrow(values: Any) -> bool:
    return hasattr(values.dtype, "pyarrow_dtype")


def _floats(numbers: Any) -> Any:
    """Floats without a copy, NaN as null."""
    import numpy as np
    import pyarrow as pa

    # HOT: pyarrow looks for NaN one value at a time and builds the bitmap while it does so.
    # 1.6 -> 0.13 ns a value without NaN, 2.6 -> 1.4 with one in ten
    # (benchmarks/client/bench_frames.py -k nan).
    # Twin: pa.array(numbers, from_pandas=True); equality: tests/client/test_frames.py.
    missing = np.isnan(numbers)
    return pa.array(numbers, mask=missing) if missing.any() else pa.array(numbers)


def _timestamps(values: Any) -> Any:
    """Timestamps without a copy, in their unit and in UTC; NaT as null."""
    import numpy as np
    import pyarrow as pa

    unit = str(getattr(values.dtype, "unit", None) or np.datetime_data(values.dtype)[0])
    ticks = np.asarray(values, dtype=f"datetime64[{unit}]").view(np.int64)
    # HOT: as in _floats, 1.6 -> 0.13 ns a value. NaT is the smallest of all integers.
    missing = ticks == np.iinfo(np.int64).min
    whole = pa.array(ticks, mask=missing) if missing.any() else pa.array(ticks)
    return whole.view(pa.timestamp(unit, "UTC"))


# ------------------------------------------------------------------------------------ objects


def _objects(values: Any, place: Place) -> Any:
    """Python objects of one type, None and NaN among them."""
    import pyarrow as pa

    try:
        found = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        _check_one_type(values, place)
        words = " ".join(str(error).split())
        raise place.error(f"found objects that cannot be stored: {words}") from None
    if pa.types.is_binary(found.type) or pa.types.is_date(found.type):
        # What pyarrow makes of text among bytes, and of hours among dates.
        _check_one_type(values, place)
    if pa.types.is_timestamp(found.type) and any(getattr(v, "nanosecond", 0) for v in values):
        return pa.array(values, pa.timestamp("ns", found.type.tz), from_pandas=True)
    return found


def _check_one_type(values: Any, place: Place) -> None:
    """Refuse objects of more than one type, those that are missing not counted."""
    first: tuple[int, type] | None = None
    for row, value in enumerate(values.tolist()):
        if _is_missing(value):
            continue
        kind = type(value)
        if first is None:
            first = row, kind
        elif kind is not first[1]:
            raise place.error(
                f"found {kind.__name__}, but {first[1].__name__} in row {first[0]}; "
                "wanted one type",
                row,
            )


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT and pd.NA: nothing, or what does not equal itself."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return type(value).__name__ in ("float", "float64", "NaTType") and bool(value != value)
