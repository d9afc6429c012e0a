"""The rules of the house, held by reading the source: who may import whom, and what a module is.

In: every Python file of the repository, parsed with `ast`, never imported. Out: a list of
broken rules, which must be empty. A module that is in no layer yet fails: put its name into
LAYERS below, in the group above everything that it imports.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A module imports from groups above its own line, never from its own: stages
# of one group are strangers and meet in a later one. "name" is a module, or a package whose
# modules may import one another; "name.*" are the modules of a package, strangers to each other.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ingest": (
        ("errors", "clock", "kernels", "lsn", "parquet_thrift"),
        ("columns", "limits", "instruments", "paths", "budget", "disk", "decompress"),
        ("shard", "sqlite", "turn", "compaction_looks", "parquet_pages"),
        (
            *("timestamps", "schema", "log_calls", "log_pieces", "findings"),
            *("condition", "merged_files", "parquet_file"),
        ),
        ("assemble", "idempotency", "log_format", "removed"),
        ("msgpack_values", "line_protocol_slow", "arrow_survey", "batch_rows", "otlp"),
        ("msgpack_rows_slow", "log_reader", "log_spares", "columnar_msgpack", "sift"),
        ("msgpack_slow", "msgpack_rows", "msgpack_pieces", "arrow_slow"),
        ("msgpack_decoder", "line_protocol", "arrow_ipc"),
        ("catalog", "table_build", "log_segment", "decoders"),
        ("quarantine",),
        ("parquet", "store", "wal", "log_survey", "file_import", "fresh_rows"),
        ("delta", "buffer", "promotion", "compact_files", "parquet_groups"),
        ("delta_folder",),
        ("table_log", "table_survey", "table_change", "table_list"),
        ("arrow_writer", "verify", "quarantine_table", "query", "compaction", "deletion"),
        ("retention",),
        ("upkeep", "continuous"),
        ("continuous_store", "continuous_rows"),
        ("replay",),
        ("pipeline",),
        ("testing",),
    ),
    "arc": (
        (
            *(
                "compaction_options",
                "compaction_priority",
                "config",
                "json_answer",
                "logs",
                "memory",
                "metrics_table",
                "ports",
                "runtime",
            ),
            *("client", "profiler", "reader", "table_answer", "version"),
        ),
        ("admin", "banner", "handshake", "metrics", "import_job", "json_body", "maintenance"),
        (
            "child",
            "compaction_counts",
            "template",
            "exposition",
            "lag",
            "write_routes",
            "otlp_answers",
            "query",
            "resources",
        ),
        ("write_door", "compaction_work", "fresh_server", "profiler_socket", "query_client"),
        ("fast_door", "door_handler", "compaction_process", "continuous"),
        ("handlers.*",),
        ("app",),
        ("worker",),
        ("supervisor",),
        ("launch", "inspect", "importer", "quarantine", "delete", "compactor", "query_cli"),
        ("retention", "continuous_cli"),
        ("cli",),
        ("__main__",),
    ),
}

OUTSIDE = frozenset({"benchmarks", "examples", "scripts", "tests"})

# What a package must not import, and why.
STRANGERS: dict[str, tuple[frozenset[str], str]] = {
    "ingest": (
        OUTSIDE | {"aiohttp", "arc", "http", "httptools", "prometheus_client", "rich", "typer"},
        "ingest/ knows no HTTP, no metrics library, no command line and nothing of arc/",
    ),
    "arc": (OUTSIDE | {"ingest.testing", "pyarrow"}, "arc/ holds no Arrow logic and no fakes"),
}

# What a part of a package must not import, instead of what its package must not.
STRANGERS_OF_PARTS: dict[str, tuple[frozenset[str], str]] = {
    "arc.client": (
        OUTSIDE | {"ingest", "aiohttp", "duckdb", "numba", "pandas", "polars", "uvloop"},
        "producers import arc.client alone, and it knows nothing of the daemon",
    ),
    "arc.reader": (
        OUTSIDE | {"ingest", "aiohttp", "duckdb", "numba", "uvloop"},
        "readers import arc.reader alone, and it knows nothing of the daemon",
    ),
}

# Beyond the dependencies of the product: what only its users' tests import, and what a caller has
# who asks for its data frames.
FOR_TESTS_ONLY = {
    "ingest.testing": frozenset({"hypothesis"}),
    "arc.reader": frozenset({"pandas", "polars"}),
}

# Packages whose modules have another name than they.
IMPORTED_AS = {"opentelemetry-proto": "opentelemetry", "protobuf": "google"}

# arc.template tells NumPy by it to start no threads.
READS_ENVIRONMENT = frozenset({"arc.client.settings", "arc.config", "arc.template"})
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})

# Calls that do work, or make something shared and changing, when they run at import.
IMPORT_TIME_CALLS = (
    frozenset({"open", "print", "read_bytes", "read_text", "write_bytes", "write_text", "mkdir"})
    | frozenset({"makedirs", "connect", "socket", "sleep", "run", "Popen", "Thread", "Lock"})
    | frozenset({"ThreadPoolExecutor", "ProcessPoolExecutor", "RLock", "Condition", "Semaphore"})
    | frozenset({"Event", "Queue", "get_event_loop", "new_event_loop", "basicConfig", "configure"})
    | frozenset({"Counter", "Gauge", "Histogram", "Summary", "CollectorRegistry", "defaultdict"})
    | frozenset({"deque", "OrderedDict", "WeakValueDictionary"})
)

MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One module: its dotted name, and its text parsed."""

    module: str
    tree: ast.Module
    is_package: bool = False

    @property
    def package(self) -> str:
        """The top-level package or folder."""
        return self.module.partition(".")[0]


class Import(NamedTuple):
    """One imported module, as precisely as the statement says."""

    target: str
    line: int


def load(folder: str) -> list[Source]:
    """Parse every module below a folder of the repository."""
    return [_load_file(path) for path in sorted((ROOT / folder).rglob("*.py"))]


def _load_file(path: Path) -> Source:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    return Source(module, ast.parse(path.read_text(encoding="utf-8")), is_package)


# ------------------------------------------------------------------------------------- imports


def imports(source: Source, known: frozenset[str]) -> Iterator[Import]:
    """Every import of a module, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute_base(source, node)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            targets = {name if name in known else base for name in inner}
            yield from (Import(target, node.lineno) for target in sorted(targets))


def _absolute_base(source: Source, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = source.module.split(".")
    kept = parts[: len(parts) - node.level + source.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def layer(module: str) -> tuple[int, str] | None:
    """The group of a module, counted from the bottom, and the unit in it that it belongs to.

    Modules of one unit may import each other. None: the module is in no layer.
    """
    package, _, name = module.partition(".")
    if not name:
        return -1, package
    for group, entries in enumerate(LAYERS[package]):
        for entry in entries:
            if name == entry or name.startswith(f"{entry}."):
                return group, f"{package}.{entry}"
            parent = entry.removesuffix(".*")
            if entry != parent and (name == parent or name.startswith(f"{parent}.")):
                return group, module
    return None


def layer_violations(source: Source, known: frozenset[str]) -> Iterator[str]:
    """Imports inside one package that run against its layers."""
    own = layer(source.module)
    if own is None:
        yield (
            f"{source.module} is in no layer: add it to LAYERS in tests/test_architecture.py, "
            "in the group above everything that it imports"
        )
        return
    for target, line in imports(source, known):
        if target.partition(".")[0] != source.package or target == source.package:
            continue
        other = layer(target)
        if other is None:
            yield f"{source.module}:{line} imports {target}, which is in no layer"
        elif other[1] != own[1] and other[0] == own[0]:
            yield f"{source.module}:{line} imports {target}: stages of one group are strangers"
        elif other[0] > own[0]:
            yield f"{source.module}:{line} imports {target}, which is in a layer above it"


def stranger_violations(source: Source, known: frozenset[str]) -> Iterator[str]:
    """Imports of what the package must not know."""
    part = ".".join(source.module.split(".")[:2])
    strangers, why = STRANGERS_OF_PARTS.get(part, STRANGERS[source.package])
    for target, line in imports(source, known):
        if any(f"{target}.".startswith(f"{stranger}.") for stranger in strangers):
            yield f"{source.module}:{line} imports {target}: {why}"


def cycle_violations(sources: list[Source], known: frozenset[str]) -> Iterator[str]:
    """Modules that import each other in a ring, which the layers alone allow inside a unit."""
    # A package's own __init__ is run by every import below it: that is no ring.
    graph = {
        source.module: {
            target
            for target, _ in imports(source, known)
            if target in known and not source.module.startswith(f"{target}.")
        }
        for source in sources
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "imports run in a ring: " + " -> ".join(error.args[1])


def undeclared_violations(
    source: Source, known: frozenset[str], declared: frozenset[str]
) -> Iterator[str]:
    """Imports of packages that `pip install arc` would not bring."""
    unit = ".".join(source.module.split(".")[:2])
    allowed = declared | LAYERS.keys() | FOR_TESTS_ONLY.get(unit, frozenset())
    for target, line in imports(source, known):
        top = target.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            yield f"{source.module}:{line} imports {top}, no dependency of pyproject.toml"


# ----------------------------------------------------------------------- what a module contains


def environment_violations(source: Source) -> Iterator[str]:
    """Reads of the environment outside the configuration module."""
    if source.module in READS_ENVIRONMENT:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            found = isinstance(node.value, ast.Name) and node.value.id == "os"
        elif isinstance(node, ast.ImportFrom):
            found = node.module == "os" and any(a.name in ENVIRONMENT for a in node.names)
        else:
            continue
        if found:
            yield f"{source.module}:{node.lineno} reads the environment: only settings modules may"


def import_time_violations(source: Source) -> Iterator[str]:
    """Work done, and changing things made, by the mere import of a module."""
    for node in _run_at_import(source.tree):
        if isinstance(node, ast.Call) and _last_name(node.func) in IMPORT_TIME_CALLS:
            yield f"{source.module}:{node.lineno} calls {ast.unparse(node.func)} at import"
    # Not in a class: msgspec copies the empty defaults of a Struct.
    for node in source.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_empty_container(node.value):
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [ast.unparse(name) for name in names] != ["__all__"]:
                yield f"{source.module}:{node.lineno} makes an empty container at import: a global"


def _run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Lambda) or _is_main_guard(child):
            continue
        if isinstance(child, Function):
            for part in [*child.decorator_list, *child.args.defaults, *child.args.kw_defaults]:
                if part is not None:
                    yield part
                    yield from _run_at_import(part)
        else:
            yield child
            yield from _run_at_import(child)


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__ ==")


def _last_name(func: ast.expr) -> str:
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


def _is_empty_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        made = _last_name(value.func) in {"dict", "list", "set", "bytearray"}
        return made and not value.args and not value.keywords
    if isinstance(value, ast.Dict):
        return not value.keys
    return isinstance(value, ast.List) and not value.elts


def global_violations(source: Source) -> Iterator[str]:
    """Functions that change a module's names."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield f"{source.module}:{node.lineno} has a global statement"


def docstring_violations(source: Source) -> Iterator[str]:
    """Modules that do not say what they are. An empty `__init__.py` needs not."""
    if source.tree.body and ast.get_docstring(source.tree) is None:
        yield f"{source.module} has no docstring: what comes in, what goes out, what it never does"


def length_violations(source: Source) -> Iterator[str]:
    """Functions over the limit, their docstring not counted."""
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and (lines := _lines(node)) > MAX_FUNCTION_LINES:
            yield (
                f"{source.module}:{node.lineno} {node.name} has {lines} lines, "
                f"over {MAX_FUNCTION_LINES}: split it"
            )


def _lines(node: Function) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


# --------------------------------------------------------------------- the rules, on our sources


def violations(source: Source, known: frozenset[str]) -> list[str]:
    """Every rule for one module of arc/ or ingest/ that looks at that module alone."""
    return [
        *layer_violations(source, known),
        *stranger_violations(source, known),
        *environment_violations(source),
        *import_time_violations(source),
        *global_violations(source),
        *docstring_violations(source),
        *length_violations(source),
    ]


def assert_none(found: list[str]) -> None:
    """Fail with one line for each broken rule."""
    assert not found, "\n" + "\n".join(found)


@pytest.fixture(scope="module")
def ours() -> list[Source]:
    return [source for package in LAYERS for source in load(package)]


@pytest.fixture(scope="module")
def known(ours: list[Source]) -> frozenset[str]:
    return frozenset(source.module for source in ours)


def test_every_module_of_the_product_keeps_the_rules(
    ours: list[Source], known: frozenset[str]
) -> None:
    assert known >= {"arc", "ingest", "ingest.errors", "ingest.columns"}
    assert_none([found for source in ours for found in violations(source, known)])


def test_imports_never_run_in_a_ring(ours: list[Source], known: frozenset[str]) -> None:
    assert_none(list(cycle_violations(ours, known)))


def declared_packages() -> frozenset[str]:
    """Import names of what `pip install arc` brings, as far as their first dot."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = (re.split(r"[^\w-]", line, maxsplit=1)[0] for line in project["dependencies"])
    return frozenset(IMPORTED_AS.get(name, name.replace("-", "_")) for name in names)


def test_every_import_of_the_product_is_a_declared_dependency(
    ours: list[Source], known: frozenset[str]
) -> None:
    declared = declared_packages()
    assert_none([v for source in ours for v in undeclared_violations(source, known, declared)])


def test_every_declared_dependency_is_imported_by_the_product(
    ours: list[Source], known: frozenset[str]
) -> None:
    imported = {i.target.partition(".")[0] for source in ours for i in imports(source, known)}
    assert declared_packages() - imported == set()


@pytest.mark.parametrize("folder", sorted(OUTSIDE))
def test_programs_and_tests_have_docstrings_and_short_functions(folder: str) -> None:
    sources = load(folder)
    assert_none([v for s in sources for v in [*docstring_violations(s), *length_violations(s)]])


def test_the_switch_into_venv_needs_the_standard_library_only() -> None:
    source = _load_file(ROOT / "scripts" / "_venv.py")
    assert_none(list(undeclared_violations(source, frozenset(), frozenset())))


def test_every_name_is_in_one_layer_only() -> None:
    for package, groups in LAYERS.items():
        names = [name for group in groups for name in group]
        assert len(names) == len(set(names)), package


# ------------------------------------------------------------- the checker itself, on small texts

KNOWN = frozenset(
    {"arc", "arc.app", "arc.config", "arc.handlers", "arc.handlers.a", "arc.handlers.b", "arc.logs"}
    | {"ingest", "ingest.buffer", "ingest.columns", "ingest.errors", "ingest.kernels"}
    | {"ingest.kernels.a", "ingest.kernels.b", "ingest.limits", "ingest.new", "ingest.pipeline"}
)


def check(module: str, text: str, *, is_package: bool = False) -> list[str]:
    """What the rules say of a module with this text, below a docstring."""
    return violations(Source(module, ast.parse(f'"""Doc."""\n{text}\n'), is_package), KNOWN)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ingest.columns", "from ingest.errors import ClientError"),
        ("ingest.columns", "from ingest import errors"),
        ("ingest.columns", "from . import errors"),
        ("ingest.pipeline", "import ingest.buffer"),
        ("ingest.kernels.a", "from ingest.kernels.b import f"),
        ("ingest.kernels.a", "from .b import f"),
        ("arc.config", "import os\nvalue = os.environ.get('ARC_PORT')"),
        ("arc.app", "from arc.handlers.a import handle\nfrom ingest.pipeline import Pipeline"),
        ("arc.app", "def f():\n    with open('x') as file:\n        return file"),
        ("arc.app", "NAMES = {'a': 1}\n__all__ = []"),
        ("arc.app", "class A(Struct):\n    x: dict[str, int] = {}"),
        ("arc.app", "class A:\n    def f(self):\n        self.x = {}"),
        ("arc.app", "if __name__ == '__main__':\n    print('x')"),
        ("arc.app", "def f():\n" + "    x = 1\n" * 59),
        ("arc.app", 'def f():\n    """Doc.\n' + "\n" * 70 + '    """\n    return 1'),
    ],
)
def test_checker_lets_good_code_pass(module: str, text: str) -> None:
    assert check(module, text) == []


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("ingest.errors", "from ingest.columns import Column", "in a layer above"),
        ("ingest.errors", "from ingest import columns", "in a layer above"),
        ("ingest.errors", "from . import columns", "in a layer above"),
        ("ingest.errors", "from .columns import Column", "in a layer above"),
        ("ingest.errors", "import ingest.columns as c", "in a layer above"),
        ("ingest.errors", "def f():\n    import ingest.pipeline", "in a layer above"),
        ("ingest.errors", "if TYPE_CHECKING:\n    import ingest.pipeline", "in a layer above"),
        ("ingest.kernels.a", "import ingest.buffer", "in a layer above"),
        ("ingest.columns", "import ingest.limits", "strangers"),
        ("ingest.errors", "import ingest.kernels.a", "strangers"),
        ("ingest.kernels.a", "import ingest.errors", "strangers"),
        ("arc.handlers.a", "from arc.handlers import b", "strangers"),
        ("arc.handlers.a", "from .b import handle", "strangers"),
        ("arc.logs", "import arc.config", "strangers"),
        ("ingest.new", "", "add it to LAYERS in tests/test_architecture.py"),
        ("ingest.pipeline", "import ingest.new", "in no layer"),
        ("ingest.columns", "import arc.config", "nothing of arc/"),
        ("ingest.columns", "from aiohttp import web", "no HTTP"),
        ("ingest.columns", "import prometheus_client.core", "no metrics library"),
        ("ingest.columns", "from benchmarks.data import rows", "ingest.columns:2 imports"),
        ("arc.app", "import pyarrow.parquet as pq", "no Arrow logic"),
        ("arc.app", "def f():\n    from pyarrow import table", "no Arrow logic"),
        ("arc.app", "from ingest.testing import FakeStore", "no fakes"),
        ("arc.app", "from tests.support import x", "arc.app:2 imports"),
        ("arc.app", "import os\nx = os.environ['HOME']", "reads the environment"),
        ("arc.app", "import os\ndef f():\n    return os.getenv('A')", "reads the environment"),
        ("ingest.columns", "from os import environ", "reads the environment"),
        ("arc.app", "FILE = open('x')", "calls open at import"),
        ("arc.app", "TEXT = Path('x').read_text()", "calls Path('x').read_text at import"),
        ("arc.app", "LOOP = asyncio.get_event_loop()", "calls asyncio.get_event_loop at import"),
        ("arc.app", "class A:\n    lock = threading.Lock()", "calls threading.Lock at import"),
        ("arc.app", "def f(lock=Lock()):\n    return lock", "calls Lock at import"),
        ("arc.app", "ROWS = Counter('rows', 'Rows.')", "calls Counter at import"),
        ("arc.app", "if FAST:\n    print('x')", "calls print at import"),
        ("arc.app", "_cache: dict[str, int] = {}", "empty container"),
        ("arc.app", "_seen = set()", "empty container"),
        ("arc.app", "_all = []", "empty container"),
        ("arc.app", "x = 1\ndef f():\n    global x\n    x = 2", "global statement"),
        ("arc.app", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines, over 60"),
        ("arc.app", "async def f():\n" + "    x = 1\n" * 60, "f has 61 lines, over 60"),
        ("arc.app", "class A:\n    def f(self):\n" + "        x = 1\n" * 60, "f has 61 lines"),
    ],
)
def test_checker_finds_each_broken_rule(module: str, text: str, message: str) -> None:
    found = check(module, text)
    assert len(found) == 1
    assert message in found[0]


def test_checker_asks_for_a_module_docstring() -> None:
    assert list(docstring_violations(Source("arc.app", ast.parse("x = 1")))) != []
    assert list(docstring_violations(Source("arc", ast.parse(""), is_package=True))) == []


def test_checker_resolves_relative_imports_of_a_package() -> None:
    assert check("ingest.kernels", "from . import a", is_package=True) == []
    assert len(check("ingest.kernels", "from .. import pipeline", is_package=True)) == 1


def test_checker_finds_a_ring() -> None:
    texts = {"ingest.kernels.a": "from .b import f", "ingest.kernels.b": "from . import a"}
    ring = [Source(module, ast.parse(text)) for module, text in texts.items()]
    assert len(list(cycle_violations(ring, KNOWN))) == 1
    assert list(cycle_violations(ring[:1], KNOWN)) == []


def test_checker_finds_an_undeclared_dependency() -> None:
    source = Source("arc.app", ast.parse("import os\nimport arc.config\nimport numpy\nimport yaml"))
    found = list(undeclared_violations(source, KNOWN, frozenset({"numpy"})))
    assert found == ["arc.app:4 imports yaml, no dependency of pyproject.toml"]


def test_checker_lets_only_the_fakes_import_a_test_library() -> None:
    tree = ast.parse("from hypothesis import strategies")
    for module, count in (("ingest.testing", 0), ("ingest.pipeline", 1)):
        assert len(list(undeclared_violations(Source(module, tree), KNOWN, frozenset()))) == count
