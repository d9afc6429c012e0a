"""Known traps of this code base, each a rule over the syntax of a module.

In: a `Module`. Out: `Finding`s, each with its line, what it costs and what to do. A rule knows
names, not types, so it may be wrong: what is right as it stands is listed, with its reason, in
accepted.toml (`benchmarks.audit.accepted`).

The costs that the texts name stand in docs/profiling/, measured.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.audit import hot
from benchmarks.audit.schema import Finding, Severity
from benchmarks.audit.sources import Module, dotted, method

#: Where a rule sees its trap.
Look = Callable[[Module], Iterator[ast.AST]]


@dataclass(frozen=True)
class Rule:
    """One trap.

    Attributes:
        name: In findings and in accepted.toml.
        severity: Of its findings.
        look: Finds the nodes.
        why: What it costs.
        do: What to do instead.
    """

    name: str
    severity: Severity
    look: Look
    why: str
    do: str


# --- conversion inside loops -------------------------------------------------------------------

_TO_PYTHON = frozenset({"item", "as_py", "to_pylist", "tolist"})
_CONVERTERS = frozenset({"float", "int", "str"})
_ARRAY_MAKERS = frozenset(
    f"{package}.{name}"
    for package, names in {
        "np": ("array", "asarray", "fromiter"),
        "pa": ("array", "scalar"),
    }.items()
    for name in names
)


def conversion_in_loop(module: Module) -> Iterator[ast.AST]:
    """A value of a column made a Python object, or an array made, once a turn of a hot loop."""
    for call in module.calls:
        converts = method(call) in _TO_PYTHON or dotted(call.func) in _ARRAY_MAKERS
        if (converts or _converts_element(call)) and _is_hot(module, call) and module.in_loop(call):
            yield call


def _converts_element(call: ast.Call) -> bool:
    """Whether an element is converted: `int(values[i])`."""
    arguments = call.args
    of_one = len(arguments) == 1 and isinstance(arguments[0], ast.Subscript)
    return of_one and dotted(call.func) in _CONVERTERS


def column_to_list(module: Module) -> Iterator[ast.AST]:
    """A whole column made a list of Python objects on a hot path, outside of loops."""
    for call in module.calls:
        makes = method(call) in {"to_pylist", "tolist"}
        if makes and _is_hot(module, call) and not module.in_loop(call):
            yield call


def _is_hot(module: Module, node: ast.AST) -> bool:
    return hot.is_hot(module.file, module.function(node))


def _is_hot_call(module: Module, node: ast.AST) -> bool:
    return hot.is_hot_call(module.file, module.function(node))


# --- inference where a type is known -----------------------------------------------------------


def inference(module: Module) -> Iterator[ast.AST]:
    """`pa.array(x)` without a type, and tables of dictionaries, whose columns are inferred.

    An array of NumPy has a type, which is taken as it is: a call of NumPy as the argument is none.
    """
    for call in module.calls:
        keywords = {keyword.arg for keyword in call.keywords}
        if not keywords & {"type", "schema"} and _infers(call, dotted(call.func)):
            yield call


def _infers(call: ast.Call, name: str) -> bool:
    """Whether a call that names neither type nor schema leaves them to pyarrow."""
    if name in {"pa.array", "pa.chunked_array"}:
        return len(call.args) == 1 and not _is_numpy(call.args)
    if name in {"pa.table", "pa.record_batch", "pa.Table.from_pydict"}:
        return any(isinstance(argument, ast.Dict) for argument in call.args)
    return name in {"pa.Table.from_pylist", "pa.RecordBatch.from_pylist"}


def _is_numpy(arguments: Sequence[ast.expr]) -> bool:
    first = arguments[0] if arguments else None
    return isinstance(first, ast.Call) and dotted(first.func).startswith("np.")


# --- copies ------------------------------------------------------------------------------------


def copies(module: Module) -> Iterator[ast.AST]:
    """Bytes of a body or a column copied on a hot path, for no other reason than their type."""
    for call in module.calls:
        by_method = method(call) in {"copy", "tobytes", "to_pybytes"} and not call.args
        if (by_method or _makes_bytes(call)) and _is_hot(module, call):
            yield call


def _makes_bytes(call: ast.Call) -> bool:
    return dotted(call.func) == "bytes" and len(call.args) == 1 and not _is_made(call.args[0])


def _is_made(argument: ast.expr) -> bool:
    """A number of zeros, or a few bytes: no copy of anything."""
    return isinstance(argument, ast.Constant | ast.Tuple | ast.List | ast.GeneratorExp)


def joined_in_loop(module: Module) -> Iterator[ast.AST]:
    """Arrays or tables joined once a turn: each join copies all that was joined before."""
    names = {"np.concatenate", "np.append", "np.vstack", "np.hstack", "pa.concat_tables"}
    for call in module.calls:
        if dotted(call.func) in names | {"pa.concat_arrays"} and module.in_loop(call):
            yield call


# --- context managers and locks on hot calls ---------------------------------------------------


def context_manager(module: Module) -> Iterator[ast.AST]:
    """`with` in a function that is called once a request or a row."""
    for node in module.parents:
        if isinstance(node, ast.With | ast.AsyncWith) and _is_hot_call(module, node):
            yield node


def lock(module: Module) -> Iterator[ast.AST]:
    """A lock taken by hand in such a function."""
    for call in module.calls:
        if method(call) == "acquire" and _is_hot_call(module, call):
            yield call


# --- queues without a bound --------------------------------------------------------------------

_QUEUES = {
    name: "maxsize"
    for package in ("asyncio", "queue", "multiprocessing")
    for name in (f"{package}.Queue", f"{package}.LifoQueue", f"{package}.PriorityQueue")
} | {"Queue": "maxsize", "deque": "maxlen", "collections.deque": "maxlen"}
_NEVER_BOUNDED = frozenset({"queue.SimpleQueue", "SimpleQueue", "multiprocessing.SimpleQueue"})


def unbounded_queue(module: Module) -> Iterator[ast.AST]:
    """A queue that takes as much as memory holds when its reader falls behind."""
    for call in module.calls:
        name = dotted(call.func)
        if name in _NEVER_BOUNDED or (name in _QUEUES and not _has_bound(call, name)):
            yield call
    for node in module.parents:
        if isinstance(node, ast.Attribute) and node.attr == "_work_queue":
            yield node


def _has_bound(call: ast.Call, name: str) -> bool:
    """Whether a queue is made with a size other than a literal 0, its sign for "no bound"."""
    at = 1 if name.endswith("deque") else 0
    given = [k.value for k in call.keywords if k.arg == _QUEUES[name]] or call.args[at : at + 1]
    return bool(given) and not (isinstance(given[0], ast.Constant) and not given[0].value)


RULES = (
    Rule(
        "conversion-in-loop",
        Severity.HIGH,
        conversion_in_loop,
        "an object of Python or an array for each turn: 40 to 1 000 ns each, where a whole column "
        "costs 2 to 6 ns a value (docs/profiling/2026-11-20-decode-kernels.md)",
        "convert the whole column at once, or move the loop into a kernel",
    ),
    Rule(
        "column-to-list",
        Severity.MEDIUM,
        column_to_list,
        "a Python object for each value, some 40 ns, and as many for the collector to walk",
        "stay with arrays; or do it where few distinct values are left",
    ),
    Rule(
        "inference",
        Severity.MEDIUM,
        inference,
        "pyarrow looks at every value to find a type that is known here, and may find another one",
        "give the type or the schema",
    ),
    Rule(
        "copy",
        Severity.MEDIUM,
        copies,
        "every byte is read and written once more, and large blocks are mapped anew "
        "(docs/profiling/2026-11-20-heap.md)",
        "pass the view on, or say why somebody must own the bytes",
    ),
    Rule(
        "join-in-loop",
        Severity.HIGH,
        joined_in_loop,
        "each turn copies what the turns before it joined: quadratic",
        "collect the parts and join once",
    ),
    Rule(
        "context-manager",
        Severity.LOW,
        context_manager,
        "180 ns for a lock and up to 900 for one that is written in Python, in each call "
        "(docs/profiling/2026-11-20-client-calls.md)",
        "try and finally, or nothing: what does not await is atomic in an event loop",
    ),
    Rule(
        "lock",
        Severity.MEDIUM,
        lock,
        "180 ns when nobody else has it, and a wait for the interpreter's lock when somebody has",
        "hand over by an operation that is atomic, such as list.append",
    ),
    Rule(
        "unbounded-queue",
        Severity.HIGH,
        unbounded_queue,
        "it takes as much as memory holds when what empties it falls behind",
        "give it a size, or bound what may be under way before it",
    ),
)


def check(module: Module, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """What the rules find in a module, in the order of lines."""
    found = [
        Finding(
            rule.name,
            rule.severity,
            module.file,
            node.lineno,
            module.function(node),
            module.line(node.lineno),
            rule.why,
            rule.do,
        )
        for rule in rules
        for node in rule.look(module)
        if isinstance(node, ast.expr | ast.stmt)
    ]
    return sorted(found, key=lambda finding: (finding.line, finding.rule))
