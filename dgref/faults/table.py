"""The bench as tables: for the terminal, for the README, and the generated page of the diagnosis."""

from __future__ import annotations

from collections.abc import Callable

from dgref.compare.hypotheses import HYPOTHESES
from dgref.errors import counted
from dgref.faults.bench import OTHERS, Bench, Outcome
from dgref.faults.catalogue import CATALOGUE, FAMILIES, family_of

HEADER = ("faults", "instances", "caught", "named first", "in the first three", "same bits as the first")


def rows(result: Bench, key: Callable[[str], str] = family_of) -> list[tuple[str, ...]]:
    """Return one row of counts for each group of faults, and the total last."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in result.outcomes:
        groups.setdefault(key(outcome.fault), []).append(outcome)
    order = [name for name in FAMILIES if name in groups] or sorted(groups)
    table = [_row(name, groups[name]) for name in order]
    return [*table, _row("all", result.outcomes)]


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    counts = (
        len(outcomes),
        sum(outcome.caught for outcome in outcomes),
        sum(outcome.first for outcome in outcomes),
        sum(outcome.third for outcome in outcomes),
        sum(outcome.same_bits and not outcome.first for outcome in outcomes),
        *(sum(outcome.passed[rule] for outcome in outcomes) for rule in OTHERS),
    )
    return (name, *map(str, counts))


def header() -> tuple[str, ...]:
    """Return the titles of the columns."""
    return (*HEADER, *(f"passed by {rule}" for rule in OTHERS))


def markdown(result: Bench) -> str:
    """Return the table of the README and the sentence under it."""
    lines = ["| " + " | ".join(header()) + " |", "|" + "---|" * len(header())]
    lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
    return "\n".join([*lines, "", summary(result)])


def summary(result: Bench) -> str:
    """Return what the bench found in a few sentences."""
    first, third = result.rate(lambda o: o.first), result.rate(lambda o: o.third)
    beyond = result.rate(lambda o: o.beyond_bound)
    caught = result.rate(lambda o: o.caught)
    slowest = max((outcome.seconds for outcome in result.outcomes), default=0.0)
    alike = sum(o.same_bits and not o.first for o in result.outcomes)
    return (
        f"{counted(len(result.outcomes), 'injected fault')} (seed {result.seed}): {caught:.1%} caught, "
        f"{beyond:.1%} even where no arithmetic is declared; the fault's own name first in {first:.1%}, among the "
        f"first three in {third:.1%}; where another name came first, "
        f"{counted(alike, 'time')} it gave the very same output bits. "
        f"{counted(result.silent, 'further injection')} changed no output bit. "
        f"{counted(result.correct, 'correct result')} by other valid arithmetics: {len(result.alarms)} called wrong; "
        f"of the {result.orders} diagnosed against another declared order, {len(result.unnamed_orders)} were not "
        f"called right. Slowest diagnosis {slowest:.1f} s."
    )


def page() -> str:
    """Return docs/diagnosis.md: every row of the catalogue and how it is named, then every hypothesis."""
    lines = [_INTRODUCTION, "| row | fault | met in | how it is named |", "|---|---|---|---|"]
    for family in FAMILIES:
        lines.append(f"| | **{family}** | | |")
        lines += [
            f"| {row.number} | {row.title} | {row.met} | {row.how} |" for row in CATALOGUE if row.family == family
        ]
    lines += ["", "## Hypotheses", "", "| hypothesis | rows | what went wrong |", "|---|---|---|"]
    for name, row in HYPOTHESES.items():
        numbers = ", ".join(map(str, row.rows))
        lines.append(f"| `{name}` | {numbers} | {row.summary}{' (benign)' if row.benign else ''} |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Diagnosis

`dgref.diagnose(case, inputs, outputs)`, `dgref diagnose DUMP`, and every failed case of `dgref run` answer with one
sentence, the evidence for it and a fix:

> the scale bytes of b were packed big-endian; re-reading them little-endian makes all 1,048,576 output bits equal

A hypothesis is one function that says how a kernel may have misread its operands. It is *confirmed* only when
recomputing the outputs that way makes the observed bits agree with the declared arithmetic (or, where none is
declared, puts every output within the derived bound). Hypotheses are tried on a sample of rows and columns, most of
them where something differs, likeliest first; what agrees there is then confirmed on everything, as far as the budget
goes, and the sentence says on how many outputs. If no single one explains all, pairs are tried. What explains more
than half of the error is a *suspicion*; less is *none*. Where several explain every output equally well, the sentence
names them together, and names inputs that would tell them apart where such were found (`separate` in the JSON is the
case to run).

A kernel may be right and what it declares wrong. Where the outputs have every bit of another arithmetic with a name,
and no fault gives the same, the answer is to declare that (`other_arithmetic`); where they are within the bound of an
fp32 accumulator and their errors a hundredth of the declared ones, that they are more precise than declared
(`more_precise_than_declared`).

Where nothing is declared and every element is within its bound, nothing is wrong; a factor that no published
accumulator explains is then remarked on (docs/bound.md, 6).

Races, uninitialised memory, stale caches and silent fallbacks leave nothing to recompute. They are named from what a
run shows: outputs that change between launches over two poison patterns and repeats, overwritten guard bytes, and
pairs of provenance entries that must agree (`requested_kernel` and `kernel`, `architecture` and `built_for`,
`problem_key` and `tuned_key`, `source_hash` and `artefact_hash`). Rows 38, 39 and 40 look alike from outside: all are
named `race`.

## What to dump

One file, `.npz`, `.safetensors` or `.pt`, of arrays under the op's own names ([operations.md](operations.md)): the
payload as bytes or a native dtype, FP4 two codes a byte or one; its scales as the kernel reads them, `a.scale`, and for
NVFP4 `a.global_scale`; what came out, `d`. BF16 that NumPy cannot name goes as `uint16`, with `--out bfloat16`.

Where a layout by column is named (`mn_major_tma`, `packed_ue8m0`, ...), its scales may come as the buffer, in its own
shape or in one axis, or as the tensor that DeepGEMM hands around: rows x scales (or words) with strides by column,
which not every file keeps. The shape says which; where it fits both, strides by column say that it is the tensor, and
strides by row are refused rather than guessed at. So is every shape that is neither, with what it would fit.

```python
import numpy as np
import dgref

x, w = (np.random.default_rng(seed).standard_normal((64, 512), dtype=np.float32) for seed in (0, 1))
a, b = dgref.quantize(x, "mxfp4"), dgref.quantize(w, "mxfp4")
d = dgref.reference.gemm(a, b).clip(0)  # the kernel's output; this one has a ReLU too many
arrays = {"a": a.packed(), "a.scale": a.scale, "b": b.packed(), "b.scale": b.scale, "d": d.view(np.uint16)}
np.savez("dump.npz", **arrays)
print(dgref.diagnose("gemm", {"a": a, "b": b}, d).sentence)  # the same, of tensors in memory
```

```console
dgref diagnose dump.npz --a mxfp4 --b mxfp4 --out bfloat16
dgref diagnose dump.npz --a mxfp4:swizzle_128x4 --b mxfp4:swizzle_128x4 --out bfloat16  # if scales are swizzled
```

With an op's name, parameters go beside the operands: `{"a": a, "b": b, "grouped_layout": ends, "psum": True}`.

## What is injected

`dgref faults` injects every one of these into correct results and counts what is caught and named. This page is
generated: `python -m dgref.faults.table > docs/diagnosis.md`.

## Asking a kernel what it reads

A kernel that can be launched can be asked. `dgref fingerprint SUITE --case ID --backend B --addresses` launches it in
the case's shapes, formats and layouts, on operands of which every element names itself: element i holds the digits of
i, one digit a launch, as values that every format involved holds exactly, while the other operand has a single one in
each row. Each output is then one such value, and the digits of all launches are the address that was read for it. No
list of suspects is needed, so this answers where no hypothesis fits. Here the backend of
[write-a-backend.md](write-a-backend.md) takes the scales of `a` 8 rows away, as the halves of an MMA fragment lie:

```console
$ dgref fingerprint fingerprint --case mxfp4-mxfp4 --backend ./my_fp4_backend.py --addresses
a's payload: all 163,840 read where they belong
b's payload: all 270,336 read where they belong
a's scales: 5,120 of 5,120 read elsewhere; (row, block) reads (row xor 8, block)
  (0, 0) reads (8, 0)
  (40, 0) reads (32, 0)
  (80, 0) reads (88, 0)
  (120, 0) reads (112, 0)
b's scales: all 8,448 read where they belong
confirmed on inputs of kind coordinate_exponents: reading so gives all 42,240 outputs (155 launches)
```

A rule stands there only if it gives every address that was decoded: a shift, a division, a constant or a reversal of a
coordinate, an exchange of coordinates, one layout read as another, wrong strides of a buffer, an order within small
groups, bits of coordinates at other places. Where none does, the examples remain. What the addresses are worth is then
measured: outputs on inputs of which every scale differs are predicted from them, and `confirmed` says that all came out
so. `not confirmed` with everything in place means that values are wrong, not addresses.
C is zero in every launch, which a line says where a case has one: `dgref run` finds a C that is left out or misread.

- Two check digits tell an address from a value that was changed on the way, and a launch over ones takes a constant
  factor out. What is zero or NaN whatever is written, as behind the end of a buffer, shows no address.
- A payload read wrongly makes the other one look misread, so the further outputs decide which it is. They cannot where
  K is reordered in one of them: nibbles swapped in `a` give the very bits of nibbles swapped in `b`. Both are named.
- Columns of the output at the places of others look like rows of `b` and of its scales that are read there.
- One recorded output does where every scale of the grid differs from all others, as float32 scales do in suite
  `fingerprint`: the diagnosis then names their addresses itself, as `scale_addresses`, if no hypothesis fits. A byte
  names one of 256 places at most, and a grid has thousands: those have to be asked.

It serves every op whose outputs are sums of products of `a` and `b`: `gemm`, the three grouped ones, `einsum` over one
axis, `hc_prenorm`. Elsewhere the command says why it cannot: a logit adds up heads behind a ReLU, and Mega MoE has an
activation and a cast between its products, so that nothing that was written comes back. Small shapes of a few tiles
each way suffice.

## The catalogue
"""

if __name__ == "__main__":
    print(page(), end="")
