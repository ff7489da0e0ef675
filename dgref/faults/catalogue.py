"""The catalogue: 47 ways in which people met wrong results in public, and how each of them is caught here.

DG deepseek-ai/DeepGEMM, V vllm-project/vllm, S sgl-project/sglang, F flashinfer-ai/flashinfer, PT pytorch/pytorch,
AO pytorch/ao, TR triton-lang/triton, CT vllm-project/compressed-tensors, MO NVIDIA/Model-Optimizer,
TE NVIDIA/TransformerEngine, HF huggingface/transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dgref.compare.hypotheses import HYPOTHESES
from dgref.faults.injectors import RUNNER_FAULTS


@dataclass(frozen=True)
class Row:
    """One row of the catalogue. `otherwise` says how a row is caught that no hypothesis stands for."""

    number: int
    family: str
    title: str
    met: str = ""
    otherwise: str = ""

    @property
    def recomputed(self) -> list[str]:
        """The hypotheses that name it by recomputing the outputs."""
        return [name for name, row in HYPOTHESES.items() if self.number in row.rows]

    @property
    def from_runs(self) -> list[str]:
        """The findings that name it from a run: repeats, poison, guards, provenance."""
        return [name for name, row in RUNNER_FAULTS.items() if self.number in row.rows]

    @property
    def how(self) -> str:
        """How it is named."""
        words = []
        if self.recomputed:
            words.append("recomputation: " + ", ".join(f"`{name}`" for name in self.recomputed))
        if self.from_runs:
            words.append("a run's evidence: " + ", ".join(f"`{name}`" for name in self.from_runs))
        return "; ".join([*words, *([self.otherwise] if self.otherwise else [])])


_TEXT = """
Scale values
1 | a scale that is no power of two is cut down to UE8M0 | S#39193
2 | a scale is rounded while the payload stays | HF#47030
3 | the packer leaves mantissas in | S#13067
4 | exponent bias or offset, 2^n | CT#538, V#35979
5 | UE8M0 byte 0 or 255 misdecoded | TR#11624
6 | a numeric cast where a bit view was meant | S#26701
7 | a scale inverted: the blocks', or the global one | modular#6600
8 | the global scale missing | S#23625
9 | global scales of gate and up, or of shards, differ | V#54974, MO#1411
10 | a scalar argument ignored: alpha, a result scale, a clamp | PT#190449, V#41935
Scale type
11 | float32 bits read as UE8M0 | V#53680, S#26306
12 | E4M3 scales read as UE8M0; NVFP4 taken for MXFP4 | S#19948
13 | wrong granularity | PT#159940, MO#2038
Scale layout
14 | K-major for MN-major |
15 | padding or stride of TMA missing |
16 | swizzle absent, doubled or another | V#42089, V#42118, F#4093
17 | permuted but not interleaved |
18 | order of the UE8M0 bytes in a word |
19 | a scale tile crosses batches, groups or ranks | F#3604, S#29038
20 | the scale buffer too small | V#55456
Payload
21 | nibble order | AO#2939, TR#5197
22 | gate and up in another order, or interleaved | V#40082
23 | the weight shuffle missing | V#46915
24 | A and B, or a transpose, swapped |
Memory
25 | padding rows or scales uninitialised | V#49783, V#45741, TE#3070, F#3057
26 | part of the output never written | F#3533, F#3398
27 | a stale workspace |
28 | a read or write out of bounds |
29 | wrong output strides | F#3103
Groups
30 | a label boundary inside a tile | DG#450
31 | labels, -1, masked_m or empty groups mishandled |
32 | max_m below the rows there are | DG#268
33 | ragged metadata along the wrong axis | TR#10382
Execution
34 | silent fallback to another kernel | V#50332, V#23094
35 | wrong architecture flags, no kernel image | DG#236, DG#403, F#3398
36 | an autotune key that leaves something out | F#3192, F#3363
37 | a stale or partial JIT artefact | DG#301, F#4489
38 | a TMA descriptor edited in flight | DG#343, DG#365, F#5438
39 | shared memory or registers reused too early | DG#449
40 | dependent-launch flags missing |
Arithmetic
41 | accumulator width or promotion interval | DG#37, DG#50
42 | fast accumulation left on |
43 | the tail of K dropped | ROCm/aiter#4331
44 | reduction order: benign, but variant over batches | V#27433, V#37718
45 | the recipe's own precision loss: no fault | V#38083
Oracle
46 | the reference follows another convention | V#46915
47 | the inputs or the tolerance cannot tell rivals apart | F#4093
"""
_OTHERWISE = {
    44: "called right, with the order that was found",
    45: "references use the quantised operands, so the loss never counts as a difference",
    47: "every rival that fits as well is listed; inputs of kind `coordinate_exponents` tell them apart",
}


def _rows() -> Iterator[Row]:
    family = ""
    for line in _TEXT.strip().splitlines():
        if "|" not in line:
            family = line
            continue
        number, title, met = (part.strip() for part in line.split("|"))
        yield Row(int(number), family, title, met, _OTHERWISE.get(int(number), ""))


CATALOGUE: tuple[Row, ...] = tuple(_rows())
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(row.family for row in CATALOGUE))


def family_of(fault: str) -> str:
    """Return the family of a hypothesis or runner fault: that of its first row."""
    first = (HYPOTHESES[fault] if fault in HYPOTHESES else RUNNER_FAULTS[fault]).rows[0]
    return next(row.family for row in CATALOGUE if row.number == first)
