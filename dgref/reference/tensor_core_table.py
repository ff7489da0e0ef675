"""The table of tensor-core models in docs/tensor-cores.md: `python -m dgref.reference.tensor_core_table`."""

from __future__ import annotations

from collections.abc import Iterator

from dgref.reference.tensor_core import TENSOR_CORES, TensorCore

_HEAD = "| instruction | formats | K | aligned at once | F | result | C | evidence |\n|---|---|---|---|---|---|---|---|"
_RESULT = {"float32": "fp32, toward zero", "e8m13": "13 mantissa bits, toward zero"}


def markdown() -> str:
    """Return one line for each group of rows that differ in their format only."""
    groups: dict[tuple, list[TensorCore]] = {}
    for row in TENSOR_CORES.values():
        groups.setdefault((row.architecture, row.instruction, *_cells(row)), []).append(row)
    return "\n".join([_HEAD, *_lines(groups)])


def _lines(groups: dict[tuple, list[TensorCore]]) -> Iterator[str]:
    for (architecture, instruction, *cells), rows in groups.items():
        formats = ", ".join(row.format for row in rows)
        k, step, bits, result, c, evidence = cells
        yield f"| {architecture}.{instruction} | {formats} | {k} | {step} | {bits} | {result} | {c} | {evidence} |"


def _cells(row: TensorCore) -> tuple:
    step = f"{row.step // row.group} sums of {row.group}" if row.group > 1 else row.step
    c = "a term" if row.c == "aligned" else "added after, fp32"
    return row.k, step, row.fraction_bits, _RESULT[row.output], c, f"{row.status}: {row.source}"


if __name__ == "__main__":
    print(markdown())
