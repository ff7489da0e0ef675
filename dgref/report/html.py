"""Results as one self-contained page that opens anywhere, without a network."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from dgref.errors import counted
from dgref.nested import REMARKS
from dgref.report.causes import Cause, causes, known_failures, reasons_not_run
from dgref.report.pictures import pictures
from dgref.results import COMMON_GROUPS, GROUPS, STATUSES, Result, Results
from dgref.suite import LEVELS
from dgref.version import VERSION

_MEANINGS = {
    "exact": "equal to the infinitely precise result",
    "model": "every bit as the declared arithmetic says",
    "bounded": "within the derived bound",
    "wrong": "must be looked at",
    "missing": "the program wrote no output",
    "unexpected pass": "a waiver says that it fails",
    "waived": "known failures",
    "not judged": "only timed",
    "not run": "unsupported or unavailable here",
}
SHOWN_CAUSES = 16
SHOWN_OF_A_CAUSE = 3  # in full
SHOWN_IDS = 12  # of the others
SHOWN_WORST = 4
SHOWN_REASONS = 8  # why results were not run


def render(results: Results) -> str:
    """Return the page as text."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("dgref.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"breakable": breakable, "coded": coded}
    template = environment.get_template("report.html.j2")
    return template.render(page=_page(results), style=_asset("style.css"), script=_asset("script.js"))


def _asset(name: str) -> Markup:
    return Markup((files("dgref.report") / "templates" / name).read_text(encoding="utf-8"))


def breakable(text: str) -> Markup:
    """Return a name that a narrow column may break behind its slashes, underscores and signs, never inside a word."""
    return Markup("<wbr>").join(re.findall(r"[^/_@-]+[/_@-]*|[/_@-]+", text))


def coded(text: str) -> Markup:
    """Return a sentence in which what stands between backticks is set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _page(results: Results) -> dict[str, Any]:
    backends = list(dict.fromkeys(row.backend for row in results))
    found, idle = causes(results), reasons_not_run(results)
    return {
        "title": f"dgref conformance: {device_name(results.machine)}",
        "headline": _headline(results),
        "subline": _subline(results),
        "tiles": _tiles(results),
        "causes": [_cause(cause) for cause in found[:SHOWN_CAUSES]],
        "rare": [tile for tile in _tiles(results) if tile["label"] not in COMMON_GROUPS],
        "warnings": [*results.warnings, *results.unmet],
        "makeup": results.makeup,
        "hidden": sum(len(cause.rows) for cause in found[SHOWN_CAUSES:]),
        "idle": idle[:SHOWN_REASONS],
        "idle_count": sum(not row.ran for row in results),
        "idle_hidden": sum(reason.count for reason in idle[SHOWN_REASONS:]),
        "backends": backends,
        "matrix": _matrix(results, backends),
        "speed": [_speed(row) for row in results if row.throughput],
        "rows": _data([_row(row) for row in results]),
        "count": len(results),
        "machine": list(machine_facts(results.machine)),
        "version": VERSION,
    }


def device_name(machine: dict[str, Any]) -> str:
    """Return the GPU's name, or the processor's where there is no GPU."""
    return (machine.get("gpu") or {}).get("name") or machine.get("processor") or "unknown machine"


def _headline(results: Results) -> str:
    ran = sum(row.ran for row in results)
    if not ran:
        return "Nothing could run"
    held = Counter(row.group for row in results)
    waived, conform = held["waived"], sum(held[name] for name in LEVELS[:3])
    parts = [
        f"{held[name]:,} of {counted(ran, noun)} {verb if held[name] == 1 else verbs}"
        for name, noun, verb, verbs in _BAD
        if held[name]
    ]
    if not parts and conform:
        rows = f"{'other ' if waived else ''}result"
        parts = [f"All {counted(conform, rows)} conform" if conform > 1 else f"The {rows} conforms"]
    if not parts and held["not judged"]:
        parts = [f"{counted(held['not judged'], 'result')} timed, not judged"]
    return ", ".join([*parts, *([known_failures(waived)] if waived else [])])


_BAD = (
    ("wrong", "result", "is wrong", "are wrong"),
    ("missing", "output", "is missing", "are missing"),
    ("unexpected pass", "result", "passes though waived", "pass though waived"),
)


def _subline(results: Results) -> str:
    machine = results.machine
    parts = [device_name(machine), machine.get("architecture") or "no GPU", machine.get("system", "")]
    parts.append(f"commit {machine['commit']}" if machine.get("commit") else "")
    return " · ".join(part for part in parts if part)


def _tiles(results: Results) -> list[dict[str, Any]]:
    counts = Counter(row.group for row in results)
    return [
        {"tone": _tone(name), "count": counts[name], "label": name, "meaning": _MEANINGS[name]}
        for name in GROUPS
        if counts[name] or name in COMMON_GROUPS
    ]


def _tone(group: str) -> str:
    """Return the class of the style sheet that a group's colour has."""
    return group.replace(" ", "-")


def _cause(cause: Cause) -> dict[str, Any]:
    """Return a cause with its first results in full and the names of some others."""
    others = cause.rows[SHOWN_OF_A_CAUSE:]
    return {
        "name": cause.name,
        "tone": _tone(cause.rows[0].group),
        "count": len(cause.rows),
        "failures": [_failure(row) for row in cause.rows[:SHOWN_OF_A_CAUSE]],
        "others": [f"{row.case} on {row.backend}" for row in others[:SHOWN_IDS]],
        "hidden": max(len(others) - SHOWN_IDS, 0),
    }


def _failure(row: Result) -> dict[str, Any]:
    diagnosis = row.diagnosis or {}
    return {
        "case": row.case,
        "backend": row.backend,
        "status": row.status.replace("_", " "),
        "reason": row.reason,
        "raised": row.evidence.get("raised", ""),
        "traceback": row.evidence.get("traceback", ""),
        "cause": row.explanation,
        "certainty": _certainty(diagnosis),
        "fix": diagnosis.get("fix", ""),
        "ask": diagnosis.get("ask", ""),
        "reproduce": row.reproduce,
        "pictures": pictures(row.outputs, wrong=True),
        "worst": _worst(row),
    }


def _certainty(diagnosis: dict[str, Any]) -> str:
    agreed, total = diagnosis.get("agreed"), diagnosis.get("total")
    if diagnosis.get("status") not in ("confirmed", "suspicion"):
        return ""
    return diagnosis["status"] + (f": explains {agreed:,} of {counted(total, 'output')}" if agreed and total else "")


def _worst(row: Result) -> list[str]:
    parts = ((name, part) for name, output in row.outputs.items() for part in output.get("worst", [])[:SHOWN_WORST])
    return [f"{name}{part['line']}" for name, part in parts if "line" in part]


def _matrix(results: Results, backends: list[str]) -> list[dict[str, Any]]:
    """Return a group for each operation, its choices of formats under it, those that most backends ran first.

    What nothing here ran comes last; a group in which something is wrong is open.
    """
    groups: dict[str, dict[str, _Cells]] = {}
    for row in results:
        cells = groups.setdefault(row.op, {}).setdefault(formats_of(row), {})
        cells.setdefault(row.backend, Counter())[row.group] += 1
    wholes = {op: _sum(rows.values()) for op, rows in groups.items()}
    return [
        {
            "op": op,
            "cells": [_cell(wholes[op].get(name, Counter())) for name in backends],
            "rows": [_formats(name, cells, backends) for name, cells in sorted(groups[op].items(), key=_order)],
            "open": any(counts[name] for name, *_ in _BAD for counts in wholes[op].values()),
        }
        for op in sorted(groups, key=lambda op: _order((op, wholes[op])))
    ]


_Cells = dict[str, Counter[str]]  # by backend: how many results of each group


def _sum(rows: Iterable[_Cells]) -> _Cells:
    whole: _Cells = {}
    for cells in rows:
        for name, counts in cells.items():
            whole.setdefault(name, Counter()).update(counts)
    return whole


def _formats(name: str, cells: _Cells, backends: list[str]) -> dict[str, Any]:
    return {"recipes": name, "cells": [_cell(cells.get(backend, Counter())) for backend in backends]}


def _order(item: tuple[str, _Cells]) -> tuple[int, str]:
    """Return what sorts by how many backends ran something, most first, then by name."""
    name, cells = item
    return -sum(set(counts) != {"not run"} for counts in cells.values()), name


def formats_of(row: Result) -> str:
    """Return a result's recipes, layouts and output format as one line."""
    parts = [f"{recipe}@{row.layouts[name]}" if name in row.layouts else recipe for name, recipe in row.recipes.items()]
    return " × ".join(parts) + (f" → {row.out}" if row.out else "")


def _cell(counts: Counter[str]) -> dict[str, Any]:
    held = [name for name in GROUPS if counts[name]]
    parts = [{"tone": _tone(name), "count": counts[name]} for name in held]
    title = ", ".join(f"{counts[name]} {name}" for name in held)
    return {"total": sum(counts.values()), "parts": parts, "title": title}


def _speed(row: Result) -> dict[str, Any]:
    numbers = row.throughput
    share = 100 * numbers.get("of_roof", 0.0)
    return {
        "case": row.case,
        "backend": row.backend,
        "time": f"{numbers['microseconds']:.1f} µs",
        "tflops": f"{numbers.get('tflops', 0):.1f}",
        "gbps": f"{numbers.get('gigabytes_per_second', 0):.0f}",
        "percent": f"{min(share, 100):.1f}",
        "roof": f"{share:.0f}%",
    }


def _data(rows: list[dict[str, Any]]) -> Markup:
    """Return rows as JSON that may stand inside a script element: no `<` can end it."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _row(row: Result) -> dict[str, Any]:
    """Return what script.js makes a result's row of, drill-down and all."""
    label = row.level or row.status if row.status == "pass" else row.status.replace("_", " ")
    return {
        "tone": _tone(row.group),
        "label": label,
        "case": row.case,
        "backend": row.backend,
        "ran": row.ran,
        "why": row.why,
        "reason": row.reason,
        "facts": [list(fact) for fact in _facts(row)],
        "pictures": str(pictures(row.outputs, row.bad)) if row.ran else "",
        "reproduce": row.reproduce,
    }


def _facts(row: Result) -> Any:
    yield "operation", f"{row.op} " + " ".join(f"{axis}={size}" for axis, size in row.shape.items())
    yield "formats", formats_of(row)
    if row.required:
        yield "required", row.required
    if row.arithmetic:
        yield "arithmetic", row.arithmetic
    for name, output in row.outputs.items():
        if output.get("summary"):
            yield f"output {name}", output["summary"]
    if row.evidence.get("runs"):
        yield "launches", f"{row.evidence['runs']}, over poison {' and '.join(row.evidence.get('poisons', []))}"
    if isinstance(row.evidence.get("guards"), list):
        yield "guard bytes", "; ".join(map(str, row.evidence["guards"])) or "untouched"
    for remark in ("raised", "judged", *REMARKS):
        if row.evidence.get(remark):
            yield remark, row.evidence[remark]
    if row.seconds:
        yield "seconds", ", ".join(f"{stage} {value:.3f}" for stage, value in row.seconds.items())
    yield "status", f"{row.status}: {STATUSES[row.status]}"


def machine_facts(machine: dict[str, Any]) -> Any:
    """Yield (name, text) for everything known about the machine."""
    for name, value in machine.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if value not in (None, ""):
            yield name, str(value)
