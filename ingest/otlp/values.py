"""Nested parts of OTLP messages as JSON text: values without a column, events, links, exemplars.

In: messages of `opentelemetry.proto`, or their twins of `ingest.otlp.json_requests`, which have
the same attributes. Out: text; docs/otlp.md says what it looks like. Makes no column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from ingest.errors import LimitError
from ingest.otlp.schema import MAX_VALUE_DEPTH

#: A message of the protobuf library, or its twin: what they share is their attributes.
Message: TypeAlias = Any

_ENCODE: Final = msgspec.json.Encoder().encode


def json_text(value: Any) -> str:
    """JSON text of what `plain` and its like return."""
    return _ENCODE(value).decode()


def plain(value: Message, depth: int = 1) -> Any:
    """An `AnyValue` as what JSON has.

    Args:
        value: The message. One that sets nothing is None, and so is one that refers to a table of
            texts, which these three signals do not have.
        depth: How many values it lies in, itself included.

    Raises:
        LimitError: values within one another beyond `MAX_VALUE_DEPTH`.
    """
    if depth > MAX_VALUE_DEPTH:
        raise LimitError("values within one another", depth, MAX_VALUE_DEPTH, "send them flatter")
    kind = value.WhichOneof("value")
    if kind == "double_value":
        return plain_double(value.double_value)
    if kind == "array_value":
        return [plain(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return plain_map(value.kvlist_value.values, depth + 1)
    if kind is None or kind == "string_value_strindex":
        return None
    if kind == "bytes_value":
        return bytes(value.bytes_value)  # base64 when it is encoded
    return getattr(value, kind)


def plain_map(attributes: Iterable[Message], depth: int = 1) -> dict[str, Any]:
    """`KeyValue`s as an object; of two with one key the later one counts."""
    return {attribute.key: plain(attribute.value, depth) for attribute in attributes}


def map_text(attributes: Iterable[Message]) -> str | None:
    """`KeyValue`s as the text of an object; None when there are none."""
    return json_text(plain_map(attributes)) if attributes else None


def body_text(value: Message) -> str | None:
    """A value that is not a string as JSON; None when it sets nothing."""
    return None if value.WhichOneof("value") is None else json_text(plain(value))


def integers_text(values: Iterable[int]) -> str | None:
    """Integers as an array; None when there are none."""
    return json_text(list(map(int, values))) if values else None


def doubles_text(values: Iterable[float]) -> str | None:
    """Doubles as an array; None when there are none."""
    return json_text([plain_double(value) for value in values]) if values else None


def plain_double(value: float) -> float | str:
    """A double as what JSON has: a number, or the word for one that is none."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# ----------------------------------------------------------------------------- lists of messages


def events_text(events: Iterable[Message]) -> str | None:
    """Events of a span."""
    return _texts(events, _event)


def _event(event: Message) -> dict[str, Any]:
    said = {"time_unix_nano": int(event.time_unix_nano), "name": event.name}
    return said | _present(
        attributes=plain_map(event.attributes),
        dropped_attributes_count=event.dropped_attributes_count,
    )


def links_text(links: Iterable[Message]) -> str | None:
    """Links of a span."""
    return _texts(links, _link)


def _link(link: Message) -> dict[str, Any]:
    return _present(
        trace_id=link.trace_id.hex(),
        span_id=link.span_id.hex(),
        trace_state=link.trace_state,
        attributes=plain_map(link.attributes),
        dropped_attributes_count=link.dropped_attributes_count,
        flags=link.flags,
    )


def exemplars_text(exemplars: Iterable[Message]) -> str | None:
    """Exemplars of a data point."""
    return _texts(exemplars, _exemplar)


def _exemplar(exemplar: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"time_unix_nano": int(exemplar.time_unix_nano)}
    kind = exemplar.WhichOneof("value")
    if kind == "as_double":
        said["value_double"] = plain_double(exemplar.as_double)
    elif kind == "as_int":
        said["value_int"] = exemplar.as_int
    return said | _present(
        trace_id=exemplar.trace_id.hex(),
        span_id=exemplar.span_id.hex(),
        attributes=plain_map(exemplar.filtered_attributes),
    )


def quantiles_text(quantiles: Iterable[Message]) -> str | None:
    """Quantiles of a summary."""
    return _texts(quantiles, _quantile)


def _quantile(quantile: Message) -> dict[str, Any]:
    return {"quantile": plain_double(quantile.quantile), "value": plain_double(quantile.value)}


def entity_refs_text(refs: Iterable[Message]) -> str | None:
    """References of a resource to its entities."""
    return _texts(refs, _entity_ref)


def _entity_ref(ref: Message) -> dict[str, Any]:
    return _present(
        schema_url=ref.schema_url,
        type=ref.type,
        id_keys=list(ref.id_keys),
        description_keys=list(ref.description_keys),
    )


def _texts(
    messages: Iterable[Message], as_object: Callable[[Message], dict[str, Any]]
) -> str | None:
    if not messages:
        return None
    return json_text([as_object(message) for message in messages])


def _present(**fields: Any) -> dict[str, Any]:
    """Without what is 0, "" or empty, which the protocol does not tell from absent."""
    return {name: value for name, value in fields.items() if value}
