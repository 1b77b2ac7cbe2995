"""Prints what was measured: ratios first, then the figures with a target, then a line per run; and all as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.audit import Finding
from bench.machine import NOISY_PERCENT
from bench.results import Result, Skipped
from bench.targets import FIGURES, RATIOS, Target

_KINDS = ("web", "postgres", "worker", "client")
_HEAD = (
    "run",
    "conn",
    "req/s",
    "events/s",
    "p50 ms",
    "p99 ms",
    *(f"{kind} µs" for kind in _KINDS),
    "MiB",
    "others",
    "!",
)


def render(
    machine: Mapping[str, str], measured: Mapping[str, Result], skipped: Sequence[Skipped], finding: Finding
) -> str:
    """Everything that goes to standard output."""
    parts = [
        "\n".join(f"{name:12}{value}" for name, value in machine.items()),
        _targets("Ratios", RATIOS, measured),
        _targets("Figures", FIGURES, measured),
        _runs(measured.values()),
    ]
    if skipped:
        parts.append("\n".join(f"not measured: {skip.title}: {skip.reason}" for skip in skipped))
    return "\n\n".join(parts) + "\n\n" + _audit(finding)


def write_json(
    path: Path,
    machine: Mapping[str, str],
    measured: Mapping[str, Result],
    skipped: Sequence[Skipped],
    finding: Finding,
) -> None:
    """The same facts for a program."""
    values = {target.name: _value(target, measured) for target in (*RATIOS, *FIGURES)}
    targets = [
        {
            "name": target.name,
            "unit": target.unit or "ratio",
            "value": value,
            "must": target.must,
            "goal": target.goal,
            "verdict": None if value is None else target.verdict(value),
        }
        for target in (*RATIOS, *FIGURES)
        for value in [values[target.name]]
    ]
    document: dict[str, Any] = {
        "machine": dict(machine),
        "targets": targets,
        "runs": [result.as_json() for result in measured.values()],
        "not_measured": [{"name": skip.name, "reason": skip.reason} for skip in skipped],
        "audit": {"answered": finding.answered, "problems": list(finding.problems)},
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _value(target: Target, measured: Mapping[str, Result]) -> float | None:
    try:
        return target.value(measured)
    except KeyError:
        return None


def _targets(title: str, targets: Iterable[Target], measured: Mapping[str, Result]) -> str:
    rows: list[tuple[str, ...]] = [(title, "measured", "must", "goal", "")]
    for target in targets:
        value = _value(target, measured)
        sign = "< " if target.is_ceiling else ""
        bounds = [f"{sign}{_number(bound, target.unit)}" for bound in (target.must, target.goal)]
        found = "-" if value is None else _number(value, target.unit)
        rows.append((target.name, found, *bounds, "not measured" if value is None else target.verdict(value)))
    return _table(rows)


def _number(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.2f}"
    return f"{value:,.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def _runs(results: Iterable[Result]) -> str:
    rows = [_HEAD]
    notes = []
    for result in results:
        rows.append(
            (
                result.title,
                str(result.connections),
                f"{result.requests_per_second:,.0f}",
                f"{result.events_per_second:,.0f}",
                f"{result.p50_ms:.2f}",
                f"{result.p99_ms:.2f}",
                *(f"{result.cpu_us_per_event[kind]:.1f}" if kind in result.cpu_us_per_event else "" for kind in _KINDS),
                f"{result.rss_mib.get('web', 0):.0f}",
                f"{result.others_percent:.0f} %",
                "noisy" if result.is_noisy else "",
            )
        )
        if result.refused:
            notes.append(f"{result.title}: {result.refused:,} requests refused, timed out or broken")
        if result.note:
            notes.append(f"{result.title}: {result.note}")
    legend = (
        "µs: CPU per event, user and system, of all processes of a kind; client: wrk or psycopg. MiB: the largest web"
        f" process.\nothers: CPU of processes that are not ours, of all cores; noisy above {NOISY_PERCENT:.0f} %."
    )
    return "\n".join([_table(rows), legend, *notes])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _audit(finding: Finding) -> str:
    if not finding.problems:
        return f"Audit: {finding.answered:,} new events were answered with a 2xx, all are stored, and none twice."
    return "\n".join(["AUDIT FAILED:", *(f"  {problem}" for problem in finding.problems)])
