"""The findings as one HTML page that needs nothing else: no script, no network. Pure.

In: `Findings`. Out: the text of the page, light or dark as the reader's system is. What was not
measured says why; nothing is left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from benchmarks.audit import plots
from benchmarks.audit.budget import LIMIT_OF
from benchmarks.audit.plots import Bar
from benchmarks.audit.schema import Benchmark, CellResult, Figure, Findings, Load, Share

_STYLE = Path(__file__).with_name("page.css")
#: Of the tables of programs.
_MOST_RESULTS = 400


def render(found: Findings) -> str:
    """The page."""
    sections = (
        _head(found),
        _next(found),
        _budget(found),
        _load(found),
        _matrix(found),
        _scaling(found),
        _hotspots(found),
        _findings(found),
        _memory(found),
        _package(found),
        _programs(found),
    )
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Performance audit</title>'
        f"<style>{style}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _head(found: Findings) -> str:
    summary, host = found.summary, found.summary.host
    memory = "not known" if host.memory_bytes is None else f"{host.memory_bytes / 2**30:.1f} GiB"
    tree = summary.commit.commit or "outside of git"
    changed = " with changes" if summary.commit.dirty else ""
    verdict = '<p class="good">Every row that was read back is as it was sent.</p>'
    if summary.wrong:
        lines = "".join(f"<li>{escape(each)}</li>" for each in summary.wrong)
        verdict = f'<p class="bad">Wrong results:</p><ul>{lines}</ul>'
    before, after = (
        ", ".join(f"{x:.1f}" for x in load) for load in (host.load_average, host.load_average_after)
    )
    facts = [
        ("Tree", f"{tree}{changed}"),
        ("Run", f"{summary.started}, {summary.took_s:.0f} s, {summary.cpu_s:.0f} CPU-seconds"),
        ("Sizes", "quick" if summary.quick else "full"),
        ("Machine", f"{host.name}: {host.cpu}, {host.cores} cores, {memory}, {host.kernel}"),
        ("Load average", f"{before} at the start, {after} at the end (the audit's own included)"),
        ("Versions", ", ".join(f"{k} {v or 'not there'}" for k, v in host.versions.items())),
    ]
    rows = "".join(
        f'<tr><th class="text">{k}</th><td class="text">{escape(v)}</td></tr>' for k, v in facts
    )
    return f"<h1>Performance audit</h1>{verdict}<table>{rows}</table>"


def _next(found: Findings) -> str:
    if not found.next_actions:
        return "<h2>What to look at next</h2><p>Nothing stands out.</p>"
    lines = "".join(
        f'<li>{escape(a.what)} <span class="dim">{escape(a.because)}</span></li>'
        for a in found.next_actions
    )
    return f"<h2>What to look at next</h2><ol>{lines}</ol>"


# --- stages and the physical limit ---------------------------------------------------------------


def _budget(found: Findings) -> str:
    metrics = found.metrics
    text = (
        "<h2>Stages, and the physical limit</h2><p>CPU nanoseconds a row, workload c, 1 000 rows a "
        "request, each stage alone. The second bar is what the same bytes cost with nothing done "
        "to them: received over loopback, copied once in memory, encoded by an encoder alone. "
        "What stands right of the line is left to win; what stands left of it no program on this "
        "machine can save without writing other files.</p>"
    )
    gone = [share for share in (*metrics.stages, *metrics.limits) if share.figure.value is None]
    known = [_segment(share, i) for i, share in enumerate(metrics.stages)]
    limits = [_segment(share, _colour_of(share.name, metrics.stages)) for share in metrics.limits]
    segments, floor = [s for s in known if s], [s for s in limits if s]
    if not segments or not floor:
        return text + plots.missing("Stages", "; ".join(share.figure.why for share in gone))
    at = sum(size for _, size, _ in floor)
    above = sum(size for _, size, _ in segments) - at
    words = f"physical limit {at:.0f} ns, {max(above, 0):.0f} ns are left"
    rows = [("stages", segments), ("physical limit", floor)]
    notes = "".join(f'<p class="dim">{escape(_why(share))}</p>' for share in gone)
    return text + plots.stack("Stage budget", "ns/row", rows, (at, words)) + notes


def _segment(share: Share, colour: int) -> tuple[str, float, int] | None:
    return None if share.figure.value is None else (share.name, share.figure.value, colour)


def _colour_of(limit: str, stages: Sequence[Share]) -> int:
    """The colour of the stage that it limits."""
    names = [share.name for share in stages]
    stage = next(stage for stage, name in LIMIT_OF.items() if name == limit)
    return names.index(stage) if stage in names else len(names)


def _why(share: Share) -> str:
    return f"{share.name}: not measured: {share.figure.why}"


# --- the daemon --------------------------------------------------------------------------------


def _load(found: Findings) -> str:
    out = ["<h2>A daemon under load</h2>"]
    if not found.metrics.load:
        return out[0] + '<p class="dim">Not measured: it was not asked for.</p>'
    out.append(
        "<p>Latencies are those of every acknowledged request; each row was read back from the "
        "files.</p>"
    )
    header = ("load", "rows/s", "p50 ms", "p95 ms", "p99 ms", "CPU-s a million rows")
    out.append(_table(header, (_load_row(load) for load in found.metrics.load)))
    first = found.metrics.load[0]
    name = f"Latency, {first.workload}"
    if first.latency_counts:
        out.append(plots.histogram(name, first.latency_edges_ms, first.latency_counts))
    else:
        out.append(plots.missing(name, first.p50.why))
    return "".join(out)


def _load_row(load: Load) -> list[str]:
    figures = (load.rows_per_s, load.p50, load.p95, load.p99, load.cpu_s_per_million_rows)
    return [escape(load.workload), *map(_cell, figures)]


# --- the matrix --------------------------------------------------------------------------------


def _matrix(found: Findings) -> str:
    cells = found.metrics.cells
    if not cells:
        return '<h2>Workloads</h2><p class="dim">Not measured: it was not asked for.</p>'
    text = (
        "<h2>Workloads</h2><p>From the bytes of a request to Parquet files, in one process without "
        "HTTP and without a log. Rates are of CPU-seconds of all threads; whiskers: the smallest "
        "and the largest of the repeats. Percentiles are of the time until a request's rows are "
        "accepted.</p>"
    )
    formats = list(dict.fromkeys(result.cell.format for result in cells))
    charts = [
        plots.bars(
            f"Throughput, {name}",
            "rows per CPU-second",
            [_bar(r, i) for r in cells if r.cell.format == name and r.requests],
        )
        for i, name in enumerate(formats)
        if any(r.requests for r in cells if r.cell.format == name)
    ]
    header = (
        *("workload", "requests", "rows/CPU-s", "spread", "rows/s", "p50 µs", "p95 µs", "p99 µs"),
        *("allocated bytes/row", "why not"),
    )
    table = _table(header, map(_cell_row, cells))
    charts_html = "".join(charts)
    return f"{text}{charts_html}<details open><summary>All cells</summary>{table}</details>"


def _bar(result: CellResult, colour: int) -> Bar:
    figure = result.rows_per_cpu_s
    spread = (min(figure.repeats), max(figure.repeats)) if len(figure.repeats) > 1 else None
    return Bar(
        result.cell.name.removeprefix(result.cell.format), figure.value, figure.why, spread, colour
    )


def _cell_row(result: CellResult) -> list[str]:
    figures = (result.rows_per_s, result.p50, result.p95, result.p99, result.allocated)
    spread = result.rows_per_cpu_s.spread
    return [
        escape(result.cell.name),
        f"{result.requests:,}" if result.requests else "&ndash;",
        _cell(result.rows_per_cpu_s),
        "&ndash;" if spread is None else f"{spread:.0%}",
        *map(_cell, figures),
        escape(result.rows_per_cpu_s.why),
    ]


def _scaling(found: Findings) -> str:
    charts = [
        plots.curve(
            f"Over {curve.over}",
            curve.points[0][1].unit if curve.points else "",
            [(n, figure.value, figure.why) for n, figure in curve.points],
        )
        for curve in found.metrics.scaling
    ]
    body = "".join(charts) or '<p class="dim">Not measured: it was not asked for.</p>'
    return f'<h2>Scaling</h2><div class="grid">{body}</div>'


# --- profile, findings, memory, package ----------------------------------------------------------


def _hotspots(found: Findings) -> str:
    shares = [
        Bar(share.name, share.figure.value, share.figure.why, None, i)
        for i, share in enumerate(found.metrics.profile_stages)
        if share.figure.value is None or share.figure.value > 0
    ]
    if not found.hotspots:
        why = escape(found.summary.why_no_hotspots)
        return f'<h2>Hotspots</h2><p class="dim">No profile: {why}</p>'
    chart = plots.bars("Busy time by stage", "share", shares)
    header = ("function", "where", "stage", "of its own", "with what it calls")
    rows = (
        [
            f"<code>{escape(s.function)}</code>",
            f"<code>{escape(s.file)}:{s.line}</code>",
            escape(s.stage),
            f"{s.self_share:.1%}",
            f"{s.total_share:.1%}",
        ]
        for s in found.hotspots
    )
    text = "<p>A sampled profile of the workers of the first load above.</p>"
    return f"<h2>Hotspots</h2>{text}{chart}{_table(header, rows, text_columns=3)}"


def _findings(found: Findings) -> str:
    accepted = found.summary.accepted_findings
    head = (
        f"<h2>Findings in the code</h2><p>{len(found.findings)} to look at; {accepted} more were "
        "looked at and accepted, each with its reason in <code>benchmarks/audit/accepted.toml"
        "</code>.</p>"
    )
    rows = (
        [
            escape(f.severity),
            escape(f.rule),
            f"<code>{escape(f.file)}:{f.line}</code><br>{escape(f.function)}",
            f"<code>{escape(f.code)}</code>",
            escape(f"{f.why}. To do: {f.do}."),
        ]
        for f in found.findings
    )
    header = ("severity", "rule", "where", "code", "why, and what to do")
    return head + (_table(header, rows, text_columns=5) if found.findings else "")


def _memory(found: Findings) -> str:
    memory = found.metrics.memory
    if memory.allocated.value is None:
        return f'<h2>Memory</h2><p class="dim">Not measured: {escape(memory.allocated.why)}</p>'
    text = (
        f"<p>{memory.allocated.value:,.0f} bytes a row are asked of the allocator from the bytes "
        f"of a request to its file ({escape(memory.workload)}; {escape(memory.method)}).</p>"
    )
    data = [Bar(share.name, share.figure.value) for share in memory.places]
    return f"<h2>Memory</h2>{text}{plots.bars('Allocated by place', 'bytes/row', data)}"


def _package(found: Findings) -> str:
    wheel = found.metrics.wheel_bytes
    size = (
        f"not measured: {escape(wheel.why)}"
        if wheel.value is None
        else f"{wheel.value / 1000:,.0f} kB"
    )
    data = [_import_bar(share) for share in found.metrics.imports]
    chart = plots.bars("Time to import", "s", data) if data else ""
    return f"<h2>Package</h2><p>Wheel: {size}.</p>{chart}"


def _import_bar(share: Share) -> Bar:
    repeats = share.figure.repeats
    spread = (min(repeats), max(repeats)) if len(repeats) > 1 else None
    return Bar(share.name, share.figure.value, share.figure.why, spread, 2)


def _programs(found: Findings) -> str:
    parts = "".join(map(_program, found.metrics.benchmarks))
    return f"<h2>Stage benchmarks</h2>{parts or '<p>None was asked for.</p>'}"


def _program(each: Benchmark) -> str:
    command = escape(f"python -m {each.module} {' '.join(each.arguments)}")
    took = "" if each.seconds.value is None else f", {each.seconds.value:.0f} s"
    why = f' <span class="dim">{escape(each.why)}</span>' if each.why else ""
    body = f"<pre><code>{escape(each.output)}</code></pre>" if each.output else ""
    if each.results:
        shown = list(each.results.items())[:_MOST_RESULTS]
        rows = ([escape(name), _cell(figure), escape(figure.unit)] for name, figure in shown)
        body = _table(("benchmark", "median", "unit"), rows)
    return f"<details><summary><code>{command}</code>{took}{why}</summary>{body}</details>"


# --- tables --------------------------------------------------------------------------------------


def _cell(figure: Figure) -> str:
    """A number, or a dash with the reason in its hint."""
    if figure.value is None:
        return f'<span class="dim" title="{escape(figure.why)}">&ndash;</span>'
    return plots.short(figure.value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table of escaped cells, the first columns of which are text."""

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (
            f'<{tag} class="text">{cell}</{tag}>'
            if i < text_columns or (tag, header[i]) == ("td", "why not")
            else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>{line("th", header)}{body}</table></div>'
