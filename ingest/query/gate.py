"""What SQL may say, and which tables it names. Decides on the parser's tree, never on the text.

In: the text of a client, and DuckDB's own parser. Out: a `Statement`, or an error that says what
is not allowed. Nothing is run or bound here, no table is looked up.

Allowed is one statement that reads: SELECT in all its forms, EXPLAIN of one, DESCRIBE, SUMMARIZE
and SHOW. A table function is allowed by name (`TABLE_FUNCTIONS`), since most of the others read
files; every kind of node that is not known here is refused. What gets through runs on an engine
that is locked down besides; see `ingest.query.engine`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import msgspec

from ingest.query.errors import QueryError

#: Functions that may stand in FROM: they make rows from their arguments alone.
TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"}
)

#: Functions that show or change what is not data, wait, or take bytes for objects in memory.
FORBIDDEN_FUNCTIONS = frozenset(
    {"combine", "combine_aggr", "current_query", "current_setting", "currval", "finalize"}
    | {"get_block_size", "getenv", "getvariable", "index_key", "json_serialize_plan", "nextval"}
    | {"parse_duckdb_log_message", "pg_sleep", "set_config", "setval", "sleep_ms"}
    | {"to_aggregate_state", "variant_bytes_to_variant", "write_log"}
)
_FORBIDDEN_PREFIXES = ("__internal", "duckdb_", "pragma_")

#: Nodes of the tree that are no expressions, by their type: table references, queries, and what
#: orders and limits them.
_REFERENCES = frozenset(
    {"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY"}
    | {"TABLE_FUNCTION"}
)
_QUERIES = frozenset({"CTE_NODE", "RECURSIVE_CTE_NODE", "SELECT_NODE", "SET_OPERATION_NODE"})
_MODIFIERS = frozenset(
    {"DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER"}
    | {"ASCENDING", "DESCENDING", "ORDER_DEFAULT"}
)
_PLAIN_NODES = _REFERENCES | _QUERIES | _MODIFIERS

_SERIALIZE = (
    "SELECT json_serialize_sql(?::VARCHAR, "
    "skip_null := true, skip_empty := true, skip_default := true)"
)

#: What SHOW DATABASES and its like are in the tree.
_SHOW_DATABASES, _SHOW_TABLES, _SHOW_ALL = '"databases"', '"tables"', "__show_tables_expanded"

_ALLOWED = "SELECT, SHOW, DESCRIBE or EXPLAIN"

_WORD = re.compile(rb"[A-Za-z_]+")


class Kind(enum.Enum):
    """What becomes of a statement."""

    ROWS = enum.auto()  # DuckDB runs it
    DATABASES = enum.auto()
    TABLES = enum.auto()


class TableName(msgspec.Struct, frozen=True, order=True):
    """A table as SQL names it; `database` is empty where it names none."""

    database: str
    name: str


class Statement(msgspec.Struct, frozen=True):
    """SQL that may be run.

    Attributes:
        kind: What becomes of it.
        sql: The text for DuckDB, one statement.
        tables: Named in it.
        maybe_tables: Named in it, where a common table expression has the same name.
        database: Of SHOW TABLES; None: that of the request; "": all of them.
        is_explained: Whether only its plan is asked for.
        references: How often it names a table; 0 where that cannot be told.
    """

    kind: Kind
    sql: str
    tables: frozenset[TableName] = frozenset()
    maybe_tables: frozenset[TableName] = frozenset()
    database: str | None = None
    is_explained: bool = False
    references: int = 0


def parse(sql: str, connection: duckdb.DuckDBPyConnection) -> Statement:
    """Tell what a text asks for.

    Args:
        sql: As the client sent it.
        connection: Whose parser is used; nothing is run on it but that.

    Raises:
        QueryError: it is not one statement, or not one that is allowed.
    """
    if "\0" in sql:
        raise QueryError("the SQL holds a NUL character")
    text = _without_end(_quote_keywords(sql))
    kind = _kind_of_only(text, connection)
    if kind == "EXPLAIN":
        prefix, inner = _split_explain(text)
        inner_kind = _kind_of_only(inner, connection)
        if inner_kind != "SELECT":
            raise QueryError(f"EXPLAIN of a statement of type {inner_kind}: wanted SELECT")
        found = _inspect(inner, connection)
        if found.kind is not Kind.ROWS:
            raise QueryError("EXPLAIN: wanted a SELECT after it")
        return msgspec.structs.replace(found, sql=prefix + inner, is_explained=True, references=0)
    if kind != "SELECT":
        raise QueryError(f"a statement of type {kind} is not allowed: wanted {_ALLOWED}")
    return _inspect(text, connection)


def _kind_of_only(sql: str, connection: duckdb.DuckDBPyConnection) -> str:
    """Type of the only statement in a text, as DuckDB names it."""
    try:
        found = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    if len(found) != 1:
        raise QueryError(f"found {len(found)} statements, wanted one: {_ALLOWED}")
    try:
        return found[0].type.name
    except ValueError:  # a kind of statement that DuckDB's Python has no name for
        return "other"


# --- tokens ------------------------------------------------------------------------------------


def _quote_keywords(sql: str) -> str:
    """Put quotes around keywords that name a database: `FROM default.cpu` is no SQL otherwise.

    Only keywords directly before a dot, and the last word of SHOW TABLES FROM, are touched.
    Quotes change what a keyword means nowhere else than there.
    """
    data = sql.encode("utf-8", "surrogatepass")
    tokens = _tokens(sql, data)
    words = [word.lower() for _, word in tokens]
    quoted = set()
    for i in range(len(tokens) - 2):
        start, end = tokens[i][0], tokens[i][0] + len(tokens[i][1])
        is_before_dot = data[end : end + 1] == b"." and tokens[i + 1][0] == end
        if words[i] and is_before_dot and tokens[i + 2][0] == end + 1:
            quoted.add((start, end))
    names = [word for word in words if word]
    if names[:2] == [b"show", b"tables"] and len(names) == 4 and names[2] in (b"from", b"in"):
        start, word = next(token for token in reversed(tokens) if token[1])
        quoted.add((start, start + len(word)))
    for start, end in sorted(quoted, reverse=True):
        data = b'%s"%s"%s' % (data[:start], data[start:end], data[end:])
    return data.decode("utf-8", "surrogatepass")


def _without_end(sql: str) -> str:
    """Cut off semicolons and comments at the end, so that the text can stand in parentheses."""
    data = sql.encode("utf-8", "surrogatepass")
    end = len(data)
    for start, _ in reversed(_tokens(sql, data)):
        if data[start : start + 1] != b";":
            break
        end = start
    return data[:end].decode("utf-8", "surrogatepass")


def _tokens(sql: str, data: bytes) -> list[tuple[int, bytes]]:
    """Where each token begins, in bytes, and its text if it is a keyword; comments left out."""
    kinds = duckdb.token_type
    try:
        found = duckdb.tokenize(sql)
    except (duckdb.Error, UnicodeEncodeError) as error:
        raise QueryError(str(error)) from error
    tokens = []
    for start, kind in found:
        if kind == kinds.comment:
            continue
        match = _WORD.match(data, start) if kind == kinds.keyword else None
        tokens.append((start, match[0] if match else b""))
    return tokens


def _split_explain(sql: str) -> tuple[str, str]:
    """EXPLAIN with or without ANALYZE, and the statement after it."""
    data = sql.encode()
    tokens = _tokens(sql, data)
    words = [word.lower() for _, word in tokens]
    skipped = 2 if words[1:2] == [b"analyze"] else 1
    if words[:1] != [b"explain"] or len(tokens) <= skipped:
        raise QueryError("EXPLAIN: wanted a SELECT after it")
    start = tokens[skipped][0]
    if skipped == 1 and data[start : start + 1] == b"(" and not _opens_query(words[2:]):
        raise QueryError("EXPLAIN with options is not allowed: wanted EXPLAIN or EXPLAIN ANALYZE")
    prefix = "EXPLAIN ANALYZE " if skipped == 2 else "EXPLAIN "
    return prefix, data[start:].decode()


def _opens_query(words: list[bytes]) -> bool:
    """Whether a query is what stands between parentheses."""
    first = next((word for word in words if word), b"")
    return first in (b"select", b"from", b"with", b"values")


# --- the tree ----------------------------------------------------------------------------------


def _inspect(sql: str, connection: duckdb.DuckDBPyConnection) -> Statement:
    """What a statement of type SELECT asks for."""
    root = _tree(sql, connection)
    shown = _shown(root, sql)
    if shown is not None:
        return shown
    named: list[TableName] = []
    local: set[str] = set()
    for node in _nodes(root):
        _check_node(node)
        named.extend(_named_tables(node))
        local |= set(_local_names(node))
    maybe = {name for name in named if not name.database and name.name.lower() in local}
    tables = frozenset(named) - maybe
    # A name that is a table's in one place and an expression's in another counts for neither.
    references = sum(name in tables for name in named)
    return Statement(Kind.ROWS, sql, tables, frozenset(maybe), references=references)


def _tree(sql: str, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """The only statement of a text, parsed: its outermost query."""
    try:
        row = connection.execute(_SERIALIZE, [sql]).fetchone()
        assert row is not None
        found = msgspec.json.decode(row[0])
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    except RecursionError:
        raise QueryError("the SQL is nested too deeply") from None
    if found.get("error"):
        raise QueryError(str(found.get("error_message", "the SQL cannot be parsed")))
    statements = found["statements"]
    if len(statements) != 1:
        raise QueryError(f"found {len(statements)} statements, wanted one: {_ALLOWED}")
    root: dict[str, Any] = statements[0]["node"]
    return root


def _shown(root: dict[str, Any], sql: str) -> Statement | None:
    """SHOW DATABASES and SHOW TABLES, which DuckDB cannot answer."""
    reference = root.get("from_table", {})
    if reference.get("type") != "SHOW_REF" or "query" in reference:
        return None
    path = reference.get("qualified_name", {}).get("path", [])
    if reference.get("show_type") == "SHOW_FROM":
        if len(path) > 2:
            raise QueryError(f"SHOW TABLES FROM {'.'.join(path)}: wanted the name of a database")
        return Statement(Kind.TABLES, sql, database=reference.get("schema_name", ""))
    if reference.get("show_type") == "SHOW":
        tables = frozenset([_table_name(reference)])
        return Statement(Kind.ROWS, sql, tables)
    match reference.get("table_name"):
        case str(name) if name == _SHOW_DATABASES:
            return Statement(Kind.DATABASES, sql)
        case str(name) if name == _SHOW_TABLES:
            return Statement(Kind.TABLES, sql)
        case str(name) if name == _SHOW_ALL:
            return Statement(Kind.TABLES, sql, database="")
    raise QueryError(f"SHOW {reference.get('table_name')}: wanted DATABASES, TABLES or a table")


def _nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object of the tree. Without recursion: the tree may be deep."""
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_node(node: dict[str, Any]) -> None:
    kind, expression = node.get("type"), node.get("class")
    if expression is None:
        # The serialiser gives a type to nodes only; of a value it is the text, under other keys.
        if isinstance(kind, str) and kind not in _PLAIN_NODES:
            raise QueryError(f"{kind} is not allowed in a query that reads")
        if kind == "SHOW_REF" and "query" not in node:
            raise QueryError("SHOW inside of a query is not allowed")
        if kind == "TABLE_FUNCTION":
            _check_table_function(node.get("function", {}))
    elif expression == "PARAMETER" or kind == "VALUE_PARAMETER":
        raise QueryError("parameters ($1, ?) are not taken: write the value")
    elif "function_name" in node:
        _check_function(str(node["function_name"]))


def _check_table_function(call: dict[str, Any]) -> None:
    name = str(call.get("function_name", ""))
    if name.lower() not in TABLE_FUNCTIONS:
        allowed = ", ".join(sorted(TABLE_FUNCTIONS))
        raise QueryError(f"table function {name!r} is not allowed: wanted a table or {allowed}")


def _check_function(name: str) -> None:
    folded = name.lower()
    if folded in FORBIDDEN_FUNCTIONS or folded.startswith(_FORBIDDEN_PREFIXES):
        raise QueryError(f"function {name!r} is not allowed")


def _named_tables(node: dict[str, Any]) -> Iterator[TableName]:
    if node.get("type") == "BASE_TABLE" and "class" not in node:
        yield _table_name(node)


def _table_name(reference: dict[str, Any]) -> TableName:
    path = reference.get("qualified_name", {}).get("path", [])
    if reference.get("catalog_name") or len(path) > 2:
        raise QueryError(f"table {'.'.join(path)}: wanted table or database.table")
    return TableName(reference.get("schema_name", ""), reference.get("table_name", ""))


def _local_names(node: dict[str, Any]) -> Iterator[str]:
    """Names of common table expressions that a node defines, in lower case."""
    for entry in node.get("cte_map", {}).get("map", []):
        yield str(entry.get("key", "")).lower()
    for key in ("cte_name", "ctename"):
        if key in node:
            yield str(node[key]).lower()
