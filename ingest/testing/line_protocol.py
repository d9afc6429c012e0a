"""InfluxDB line protocol, good and faulty, with every escape and every spelling of a value.

In: a seed, or names and values to spell out. Out: bodies. Knows nothing of the decoder.

Format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAMES = ("usage", "idle time", "a,b", "a=b", "größe", 'say "hi"', "back\\slash", "日本", "v1", "x")
_MEASUREMENTS = ("cpu", "disk io", "a,b", "größe", "win.cpu", "m\\x", "a=b", 'q"uote')
_TAG_VALUES = ("web-1", "eu west", "a,b", "a=b", "日本", 'q"uote', "x\\y", "1", "true", "0i")
_STRINGS = ("", "plain", 'a "quoted" word', "back\\slash", "a,b c=d", "日本 🎉", "# no comment")

#: Spellings of each sort of field value; all of one column are of one sort.
SPELLINGS: dict[str, tuple[bytes, ...]] = {
    "float": (
        *(
            b"0",
            b"-0",
            b"1",
            b"1.5",
            b"-1.5",
            b".5",
            b"1.",
            b"1e3",
            b"1E-3",
            b"1.7976931348623157e308",
        ),
        *(b"5e-324", b"123456789012345678901234567890", b"0.1", b"1e+05", b"00.50"),
    ),
    "int": (b"0i", b"1i", b"-1i", b"9223372036854775807i", b"-9223372036854775808i", b"00007i"),
    "uint": (b"0u", b"1u", b"18446744073709551615u", b"9223372036854775807u"),
    "bool": (b"t", b"T", b"true", b"True", b"TRUE", b"f", b"F", b"false", b"False", b"FALSE"),
}

_ODD_LINES = (
    *(b"cpu", b"cpu ", b"cpu v", b"cpu v=", b"cpu =1", b"cpu v=1 x", b"cpu v=1 1 1", b",a=b v=1"),
    *(b"cpu,=b v=1", b"cpu,a= v=1", b"cpu,a v=1", b"cpu, v=1", b"cpu,a=b", b" v=1", b"cpu v=1,"),
    *(b"cpu v=1,,w=2", b"cpu v=1,w", b'cpu v="', b'cpu v="a', b'cpu v="a"b', b'cpu v=a"b"'),
    *(b"cpu v=1.2.3", b"cpu v=nan", b"cpu v=NaN", b"cpu v=inf", b"cpu v=-Inf", b"cpu v=1e999"),
    *(
        b"cpu v=1_000",
        b"cpu v=0x10",
        b"cpu v=1f",
        b"cpu v=--1",
        b"cpu v=-",
        b"cpu v=.",
        b"cpu v=e5",
    ),
    *(b"cpu v=9223372036854775808i", b"cpu v=-9223372036854775809i", b"cpu v=1.5i", b"cpu v=i"),
    *(b"cpu v=18446744073709551616u", b"cpu v=-1u", b"cpu v=u", b"cpu v=tRUE", b"cpu v=truth"),
    *(
        b"cpu v=1 9223372036854775808",
        b"cpu v=1 1.5",
        b"cpu v=1 -",
        b"cpu v=1 -9223372036854775808",
    ),
    *(b"cpu v=1 99999999999999999999999", b"cpu v=1 1e9", b"cpu v=1i,v=2i", b"cpu,a=b,a=c v=1"),
    *(b"cpu,time=a v=1", b"cpu time=1", b"cpu,a=1 a=2", b"cpu,a=1 a=2,a_value=3", b"cpu\\ v=1"),
    *(
        b"cpu v=1\\ 1",
        b"\\",
        b"cpu,a=b\\ v=1",
        b"cpu v=\\",
        b"cpu\0 v=1",
        b'cpu v="\0"',
        b"\xff v=1",
    ),
    *(
        b"cpu,a=\xff v=1",
        b'cpu v="\xff"',
        b"cpu \xc0\x80=1",
        b"cpu\tv=1",
        b"cpu v=1\t1",
        b"=",
        b"\r",
    ),
    *(b"cpu  v=1", b"cpu v=1  1", b"  cpu v=1", b"cpu v=1 ", b'cpu v="a\nb"', b"#", b"\x1b v=1"),
)


def escape(name: str, special: str = ",= ") -> bytes:
    """A name or tag value with a backslash before each special character."""
    for character in special:
        name = name.replace(character, "\\" + character)
    return name.encode()


def quote(text: str) -> bytes:
    """A string field: in quotes, with quotes and backslashes escaped."""
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'


def line(
    measurement: str, tags: Mapping[str, str], fields: Mapping[str, bytes], time: int | None = None
) -> bytes:
    """One line without its end; values of fields come spelled out."""
    head = b",".join([escape(measurement, ", "), *(_pair(name, tags[name]) for name in tags)])
    body = b",".join(escape(name) + b"=" + value for name, value in fields.items())
    return head + b" " + body + (b"" if time is None else b" %d" % time)


def _pair(name: str, value: str) -> bytes:
    return escape(name) + b"=" + escape(value)


@dataclass
class LineSort:
    """What the lines of one measurement have in common.

    Attributes:
        measurement: Its name.
        tags: Names of its tags; each line brings some.
        sorts: By field: a key of `SPELLINGS`, or "string".
    """

    measurement: str
    tags: list[str] = field(default_factory=list)
    sorts: dict[str, str] = field(default_factory=dict)


def random_line_sort(rng: random.Random) -> LineSort:
    """What lines of a measurement may look like, so that every decoder has to take them."""
    names = rng.sample(_NAMES, rng.randint(2, 6))
    split = rng.randint(0, len(names) - 1)
    # A uint above int64 makes a column that only a float64 table takes, and mixes with no int.
    kinds = [*SPELLINGS, "string"]
    sorts = {name: rng.choice(kinds) for name in names[split:]}
    return LineSort(rng.choice(_MEASUREMENTS), names[:split], sorts)


def random_line(rng: random.Random, sort: LineSort, per_second: int = 10**9) -> bytes:
    """One line of such a measurement, without its end."""
    tags = {name: rng.choice(_TAG_VALUES) for name in sort.tags if rng.random() < 0.9}
    kept = [name for name in sort.sorts if rng.random() < 0.8] or list(sort.sorts)[:1]
    fields = {name: _random_field(rng, sort.sorts[name]) for name in kept}
    time = None
    if rng.random() < 0.85:
        seconds = rng.randint(1_600_000_000, 1_900_000_000)
        time = seconds * per_second + rng.randrange(per_second)
        time = rng.choice((0, -1, 1)) if rng.random() < 0.02 else time
    return line(sort.measurement, tags, fields, time)


def _random_field(rng: random.Random, sort: str) -> bytes:
    if sort == "string":
        return quote(rng.choice(_STRINGS))
    if sort == "float" and rng.random() < 0.5:
        return repr(rng.uniform(-1e6, 1e6)).encode()
    if sort == "int" and rng.random() < 0.5:
        return b"%di" % rng.getrandbits(rng.randint(1, 62))
    return rng.choice(SPELLINGS[sort])


def random_line_body(
    rng: random.Random, lines: int = 40, faults: int = 0, per_second: int = 10**9
) -> bytes:
    """A body of lines, with comments, empty lines and either end of a line.

    Args:
        rng: Where all choices come from.
        lines: At most this many with rows, at least 1.
        faults: How many odd lines to add; some of them turn out to be harmless.
        per_second: Unit of the times.
    """
    sorts = {sort.measurement: sort for sort in (random_line_sort(rng) for _ in range(3))}
    chosen = rng.choices(list(sorts.values()), k=rng.randint(1, lines))
    found = [random_line(rng, sort, per_second) for sort in chosen]
    for _ in range(faults):
        found.insert(rng.randint(0, len(found)), rng.choice(_ODD_LINES))
    if rng.random() < 0.3:
        found.insert(rng.randint(0, len(found)), rng.choice((b"", b"# a comment, a=b c", b"#")))
    end = rng.choice((b"\n", b"\n", b"\r\n"))
    return end.join(found) + (end if rng.random() < 0.7 else b"")
