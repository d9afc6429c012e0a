"""Every static rule on code that has its trap and on code that has not."""

from __future__ import annotations

import pytest

from benchmarks.audit import hot
from benchmarks.audit.rules import RULES, check
from benchmarks.audit.sources import parse
from tests.audit.this_tree import ROOT, all_findings, tree

#: A file all of whose functions are hot, by the table.
HOT_FILE = "ingest/msgpack_decoder.py"
COLD_FILE = "arc/cli.py"


def found(body: str, file: str = HOT_FILE) -> list[str]:
    """Names of the rules that find something in a function with this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return [finding.rule for finding in check(parse(f"def f(x, values):\n{lines}\n", file))]


@pytest.mark.parametrize(
    "body",
    [
        "for v in values:\n    v.item()",
        "for i in range(9):\n    int(values[i])",
        "return [float(values[i]) for i in range(9)]",
        "for v in values:\n    np.asarray(v)",
        "while x:\n    pa.array(v, pa.int64())",
        "for batch in values:\n    batch.column(0).to_pylist()",
        "return {k: v.tolist() for k, v in values.items()}",
        "return [w for v in values for w in v.tolist()]",
        "for v in values:\n    if v:\n        x = v.as_py()",
    ],
)
def test_a_conversion_in_a_loop_is_found(body: str) -> None:
    assert found(body) == ["conversion-in-loop"]
    assert found(body, COLD_FILE) == []


@pytest.mark.parametrize(
    "body",
    [
        "return float(values[0])",
        "for v in values:\n    int(v)",
        "for v in values:\n    def later():\n        return v.item()",
        "for v in values:\n    pass\nelse:\n    x.item()",
        "x = values.astype(float)",
    ],
)
def test_a_conversion_outside_of_a_loop_is_none(body: str) -> None:
    assert found(body) == []


@pytest.mark.parametrize(
    "body",
    [
        "x = values.tolist()",
        "for v in values.to_pylist():\n    pass",
        "return [v for v in values.tolist()]",
    ],
)
def test_a_column_made_a_list_is_found_once(body: str) -> None:
    assert found(body) == ["column-to-list"]
    assert found(body, COLD_FILE) == []


@pytest.mark.parametrize(
    "body",
    [
        "return pa.array(x)",
        "return pa.array(x, from_pandas=True)",
        "return pa.chunked_array([x])",
        'return pa.table({"a": x})',
        'return pa.record_batch({"a": x})',
        "return pa.Table.from_pylist(x)",
    ],
)
def test_inference_is_found_wherever_it_is(body: str) -> None:
    assert found(body) == ["inference"]
    assert found(body, COLD_FILE) == ["inference"]


@pytest.mark.parametrize(
    "body",
    [
        "return pa.array(x, pa.int64())",
        "return pa.array(x, type=pa.int64())",
        "return pa.array(np.zeros(3))",
        'return pa.table({"a": x}, schema=s)',
        "return pa.table(x)",
        "return pa.Table.from_pylist(x, schema=s)",
        "return pa.Table.from_arrays(x, schema=s)",
    ],
)
def test_a_type_that_is_given_is_no_inference(body: str) -> None:
    assert found(body) == []


@pytest.mark.parametrize(
    "body",
    [
        "return bytes(memoryview(x))",
        "return bytes(x)",
        "return x.copy()",
        "return x[1:].tobytes()",
        "return x.to_pybytes()",
    ],
)
def test_a_copy_is_found_on_a_hot_path(body: str) -> None:
    assert found(body) == ["copy"]
    assert found(body, COLD_FILE) == []


@pytest.mark.parametrize(
    "body",
    ["return bytes(8)", "return bytes((1, x))", "return bytes()", "return shutil.copy(x, values)"],
)
def test_bytes_that_are_made_are_no_copy(body: str) -> None:
    assert found(body) == []


def test_a_join_in_a_loop_is_found_wherever_it_is() -> None:
    body = "for v in values:\n    x = np.concatenate([x, v])"
    assert found(body) == found(body, COLD_FILE) == ["join-in-loop"]
    assert found("return np.concatenate([v for v in values])") == []


def test_a_context_manager_is_found_where_calls_are_hot() -> None:
    body = "with x:\n    pass"
    assert found(body) == ["context-manager"]
    assert found(body, COLD_FILE) == []
    assert found(body, "ingest/table_build.py") == [], "once a flush"


def test_a_lock_taken_by_hand_is_found_where_calls_are_hot() -> None:
    assert found("x.acquire()") == ["lock"]
    assert found("x.acquire()", COLD_FILE) == []


@pytest.mark.parametrize(
    "body",
    [
        "return asyncio.Queue()",
        "return queue.Queue(0)",
        "return queue.Queue(maxsize=0)",
        "return queue.SimpleQueue()",
        "return collections.deque()",
        "return deque(values)",
        "return deque(values, maxlen=None)",
        "return x._work_queue",
    ],
)
def test_a_queue_without_a_bound_is_found_wherever_it_is(body: str) -> None:
    assert found(body, COLD_FILE) == ["unbounded-queue"]


@pytest.mark.parametrize(
    "body",
    [
        "return asyncio.Queue(100)",
        "return queue.Queue(maxsize=x)",
        "return deque(maxlen=10)",
        "return deque(values, 10)",
    ],
)
def test_a_queue_with_a_bound_is_none(body: str) -> None:
    assert found(body) == []


def test_every_rule_has_a_trap_and_a_remedy_in_words() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.why and rule.do for rule in RULES)


def test_a_finding_names_its_line_and_function() -> None:
    text = "class A:\n    def f(self):\n        # why\n        return deque()\n\nQ = deque()\n"
    one, other = check(parse(text, COLD_FILE))
    assert (one.line, one.function, one.code) == (4, "A.f", "return deque()")
    assert (other.line, other.function) == (6, "<module>")


# --- this tree ---------------------------------------------------------------------------------


def test_the_table_of_hot_functions_names_what_is_there() -> None:
    assert hot.unknown(tree()) == []


def test_a_name_that_no_module_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "HOT_CALLS", {"arc/a.py": ("f", "g"), "arc/b.py": ("*",)})
    monkeypatch.setattr(hot, "HOT_FLUSHES", {})
    assert hot.unknown([parse("def f(): ...", "arc/a.py")]) == ["arc/b.py", "arc/a.py: g"]


def test_findings_of_this_tree_point_to_lines_that_exist() -> None:
    lines = {module.file: module.lines for module in tree()}
    assert all_findings()
    for finding in all_findings():
        assert (ROOT / finding.file).is_file()
        assert lines[finding.file][finding.line - 1].strip() == finding.code
