"""Results as JUnit XML, for every CI system that shows tests."""

from __future__ import annotations

from xml.etree import ElementTree

from dgref.results import Result, Results

ERRORS = ("error", "missing")  # no verdict on the bits
_ILLEGAL = {  # XML 1.0 2.2: not characters
    code: None for code in [*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF]
}


def render(results: Results) -> str:
    """Return one testsuite a backend, one testcase a case."""
    root = ElementTree.Element("testsuites", name="dgref", tests=str(len(results)))
    for backend in dict.fromkeys(row.backend for row in results):
        rows = [row for row in results if row.backend == backend]
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(backend), tests=str(len(rows)))
        suite.set("failures", str(sum(row.bad and row.status not in ERRORS for row in rows)))
        suite.set("errors", str(sum(row.status in ERRORS for row in rows)))
        suite.set("skipped", str(sum(_is_skipped(row) for row in rows)))
        for row in rows:
            _testcase(suite, row)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _testcase(suite: ElementTree.Element, row: Result) -> None:
    family, _, name = _clean(row.case).rpartition("/")
    seconds = f"{row.seconds.get('total', 0):.3f}"
    case = ElementTree.SubElement(suite, "testcase", name=name, time=seconds)
    case.set("classname", f"{_clean(row.backend)}.{family}")
    if not row.bad and not _is_skipped(row):
        return
    kind = "skipped" if _is_skipped(row) else "error" if row.status in ERRORS else "failure"
    message = f"waived: {row.reason}" if row.status == "waived" else row.reason
    child = ElementTree.SubElement(case, kind, message=_clean(message))
    if row.bad:
        child.set("type", row.status)
        notes = [f"{word}: {line}" for word, line in row.notes]
        child.text = _clean("\n".join([row.reason, *notes, *filter(None, [row.evidence.get("traceback")])]))


def _is_skipped(row: Result) -> bool:
    """Say whether a result is no verdict of this run: JUnit has no other word for a known failure."""
    return not row.ran or row.status == "waived"


def _clean(text: str) -> str:
    return text.translate(_ILLEGAL)
