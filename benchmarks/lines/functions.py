"""From `module:function` to a function whose every call is timed line by line.

In: names. Out: the functions changed in place, and a `LineProfiler` that has their lines. In place,
since others hold them: `from x import f` has made a second name, tables and closures a third. The
code of a function is exchanged for a call of its profiled twin, so that every way to it is timed,
in every thread.

Not for what has no lines at run time: functions that Numba has compiled, and functions of C.
"""

from __future__ import annotations

import importlib
import inspect
import os
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from line_profiler import LineProfiler

#: `module:*` means every function that the module itself defines.
ALL = "*"

#: The plain twin of each family of kernels: the same result from Python that has lines.
TWINS = {
    "ingest.kernels.msgpack": "ingest.msgpack_slow:decode_slow",
    "ingest.kernels.msgpack_rows": "ingest.msgpack_rows_slow:*",
    "ingest.kernels.line_protocol": "ingest.line_protocol_slow:*",
    "ingest.kernels.arrow": "ingest.arrow_slow:*",
    "ingest.kernels.otlp": "ingest.otlp.plain:*",
    "ingest.kernels.otlp_json": "ingest.otlp.plain:*",
}


class NoLinesError(Exception):
    """A name that stands for nothing that has lines. The message says what to do instead."""


def named(name: str) -> list[types.FunctionType]:
    """The functions that a name stands for.

    Args:
        name: `module:function`, `module:Class.method` or `module:*`.

    Raises:
        NoLinesError: there is no such function, or it is not one of Python.
    """
    module_name, _, path = name.partition(":")
    if not path:
        raise NoLinesError(f"{name!r}: write it as module:function, such as ingest.parquet:write")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise NoLinesError(f"{name!r}: cannot import {module_name}: {error}") from error
    if path == ALL:
        return _all_of(module)
    found: Any = module
    for part in path.split("."):
        try:
            found = inspect.getattr_static(found, part)
        except AttributeError:
            known = sorted(n for n, v in vars(found).items() if _function(v) is not None)
            raise NoLinesError(
                f"{name!r}: no {part!r} there; there are {', '.join(known)}"
            ) from None
    function = _function(found)
    if function is None:
        raise NoLinesError(f"{name!r} {_why_not(found, module_name)}")
    return [function]


def _all_of(module: types.ModuleType) -> list[types.FunctionType]:
    """Functions and methods that a module defines, in the order of their lines."""
    values = list(vars(module).values())
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            values += vars(value).values()
    found = [_function(value) for value in values]
    ours = {f for f in found if f is not None and f.__code__.co_filename == module.__file__}
    if not ours:
        why = "has no function of Python"
        if any(_is_compiled(value) for value in values):
            why = _why_not(next(filter(_is_compiled, values)), module.__name__)
        raise NoLinesError(f"'{module.__name__}:*' {why}")
    return sorted(ours, key=lambda f: f.__code__.co_firstlineno)


def _function(value: Any) -> types.FunctionType | None:
    """The function of Python behind decorators and descriptors; None where there is none."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)  # of a staticmethod, classmethod, bound method
    if _is_compiled(value):
        return None
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, types.FunctionType) else None


def _is_compiled(value: Any) -> bool:
    return hasattr(value, "py_func") and hasattr(value, "signatures")  # a dispatcher of Numba


def _why_not(value: Any, module: str) -> str:
    if _is_compiled(value):
        twin = TWINS.get(module)
        instead = "profile the function of Python that calls it, where its time is that of one line"
        if twin:
            instead += f", or its plain twin: --plain {twin}"
        return f"is compiled by Numba: it runs as machine code and has no lines. Instead {instead}"
    if inspect.isclass(value):
        return "is a class: name one of its methods, as module:Class.method"
    return "is no function of Python, so that it has no lines"


def profile(names: Sequence[str]) -> LineProfiler:
    """Have these functions timed from now on, in every thread.

    Raises:
        NoLinesError: as `named`; nothing was changed.
    """
    functions = {function: None for name in names for function in named(name)}
    profiler = _profiler()
    for function in functions:
        _exchange(function, profiler)
    return profiler


def _profiler() -> LineProfiler:
    """One that many threads may be in at once.

    From Python 3.12 on line_profiler uses `sys.monitoring` unless told not to, which is one for
    the whole process: with 5.1 the first thread that leaves a function takes it from all others,
    which then fail with "tool 2 is not in use". The hook that it used before is each thread's own.
    It looks at the variable when it is imported.
    """
    os.environ["LINE_PROFILER_CORE"] = "legacy"
    from line_profiler import LineProfiler

    return LineProfiler()


def _exchange(function: types.FunctionType, profiler: LineProfiler) -> None:
    """Make a function call its profiled twin, which takes over its code, closure and defaults."""
    twin = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__ = function.__qualname__
    twin.__module__ = function.__module__
    profiled: Callable[..., Any] = profiler(twin)
    function.__code__ = _caller(function.__code__)
    function.__defaults__ = None
    function.__kwdefaults__ = {_TWIN: profiled}


#: The keyword that holds the profiled twin. No function has one of this name.
_TWIN = "__profiled_twin__"


#: Calls of the twin, for each kind of function: what a function is, it must remain.
_CALLS = {
    inspect.CO_COROUTINE: ("async ", "return await {twin}(*args, **kwargs)"),
    inspect.CO_ASYNC_GENERATOR: (
        "async ",
        "async for value in {twin}(*args, **kwargs): yield value",
    ),
    inspect.CO_GENERATOR: ("", "return (yield from {twin}(*args, **kwargs))"),
    0: ("", "return {twin}(*args, **kwargs)"),
}


def _caller(code: types.CodeType) -> types.CodeType:
    """Code that passes its arguments on. Its free variables are those that the closure has."""
    cells = code.co_freevars
    kind = next(flag for flag in _CALLS if code.co_flags & flag == flag)
    before, call = _CALLS[kind]
    held = "".join(f"\n        if 0: {cell}" for cell in cells)
    source = (
        f"def outer({', '.join(cells)}):\n"
        f"    {before}def caller(*args, {_TWIN}, **kwargs):{held}\n"
        f"        {call.format(twin=_TWIN)}\n"
    )
    outer = compile(source, f"<profiled {code.co_name}>", "exec")
    function = next(c for c in outer.co_consts if isinstance(c, types.CodeType))
    inner = next(c for c in function.co_consts if isinstance(c, types.CodeType))
    return inner.replace(co_name=code.co_name, co_qualname=code.co_qualname)
