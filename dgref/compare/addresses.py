"""Which scale and which element of the payload a kernel reads, asked with designed operands and confirmed with others.

What is read of one operand is seen through the other. A payload that is misread makes the other one look misread, so
that further outputs have to tell which of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare.address_outputs import element_indices, reads_of
from dgref.compare.address_probe import Prober
from dgref.compare.address_report import Addresses, Finding
from dgref.compare.address_rules import examples, rule, silent
from dgref.formats.native import to_numpy
from dgref.inputs import distinct_scales
from dgref.reference.contraction import finish
from dgref.suite import InputChoice

TELLING = InputChoice("coordinate_exponents", 31)  # each output is one product: any order of adding gives the same
Launch = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]
Source = tuple[str, str]  # an operand, and "payload" or "scales"
Found = Mapping[Source, np.ndarray]  # the flat index read for every element of the operand
Counts = tuple[int, int, int]  # outputs given, of how many that depend on known addresses, and how many others


def read_addresses(case: Any, launch: Launch) -> Addresses:
    """Return which payload and scales a kernel reads in the shapes, formats and layouts of a product's case.

    `launch` runs the kernel on the inputs that it is given, and returns its outputs by name.
    """
    return _Reader(case, launch).answer()


class _Reader:
    def __init__(self, case: Any, launch: Launch):
        self.case, self.launches, self._launch = replace(case, inputs=TELLING), 0, launch
        made = self.case.make_inputs()
        self.prober = Prober(self.case, made, self._d)
        self.inputs = {name: self._telling(name, value) for name, value in made.items()}

    def _d(self, inputs: Mapping[str, Any]) -> np.ndarray:
        self.launches += 1
        return to_numpy(self._launch(inputs)["d"], "d")

    def _telling(self, name: str, value: Any) -> Any:
        """Return an input of the further outputs: nothing is added, and no global scale rounds anything.

        Groups of K, which are made one by one, are made to differ too.
        """
        neutral = self.prober.inputs[name]
        if name not in ("a", "b"):
            return neutral
        if name == "b":
            data = np.array(value.data)
            for number, part in enumerate(self.prober.parts):
                held = data.reshape(-1, *data.shape[-2:])[part.group, :, part.span]
                held[...] = np.roll(held, number, axis=1)
            value = replace(value, data=data)
        if value.scale is None:
            return value
        scales = distinct_scales(value.scaling.scale_format, value.scale.shape)
        return replace(value, scale=scales, global_scale=neutral.global_scale)

    def answer(self) -> Addresses:
        """Ask for both payloads, then for the scales, then confirm."""
        found = {(name, "payload"): self.prober.ask(name, "payload") for name in "ab"}
        moved = [part for part, read in found.items() if (read != self._right(part))[read >= 0].any()]
        for name in "ab":
            scale = self.inputs[name].scale
            if scale is not None and scale.size > 1:
                found[name, "scales"] = self.prober.ask(name, "scales", uniform=bool(moved))
        chosen, rivals, counts = self._chosen(found, moved)
        findings = tuple(self._finding(part, read) for part, read in chosen.items())
        others = tuple(self._finding(part, found[part]) for part in rivals)
        return Addresses(findings, self.launches, TELLING.kind, *counts, others, ("c",) if "c" in self.inputs else ())

    def _chosen(self, found: Found, moved: list[Source]) -> tuple[Found, list[Source], Counts]:
        """Return what explains every further output, payloads that do so just as well, and the agreement."""
        observed = self.prober.run(self.inputs)
        alone = [{**found, **{part: self._right(part) for part in moved if part != kept}} for kept in moved]
        agreements = [self._agreement(choice, observed) for choice in alone]
        full = [i for i, (agreed, total, _) in enumerate(agreements) if agreed == total > 0]
        if not full:
            return found, [], self._agreement(found, observed)
        return alone[full[0]], [moved[i] for i in full[1:]], agreements[full[0]]

    def _agreement(self, found: Found, observed: np.ndarray) -> Counts:
        """Return how many outputs a reading gives, of how many that depend on known addresses, and how many others."""
        (a, no_a), (b, no_b) = (self._values(name, found) for name in "ab")
        a, no_a = (array.reshape(-1, array.shape[-1]) for array in (a, no_a))
        b, no_b = (array.reshape(-1, *array.shape[-2:]) for array in (b, no_b))
        agreed = total = unknown = 0
        for part in self.prober.parts:
            left, no_left = (array[part.lines, part.span] for array in (a, no_a))
            right, no_right = (array[part.group, :, part.span] for array in (b, no_b))
            with np.errstate(all="ignore"):
                sums = (left @ right.T).astype(np.float32)
                given = finish(sums, out=self.prober.out).astype(np.float32)
            blind = _meet(no_left, (right != 0) | no_right) | _meet(left != 0, no_right)
            agreed += int(np.count_nonzero((given == observed[part.rows]) & ~blind))
            total += int(np.count_nonzero(~blind))
            unknown += int(np.count_nonzero(blind))
        return agreed, total, unknown

    def _values(self, name: str, found: Found) -> tuple[np.ndarray, np.ndarray]:
        """Return the values that an operand's elements have when read so, and which of them are unknown."""
        tensor, read = self.inputs[name], found[name, "payload"]
        values = np.asarray(tensor.values(), np.float64).reshape(-1)[np.maximum(read, 0)]
        unknown = read < 0
        if tensor.scale is not None:
            part = (name, "scales")
            read = found[part] if part in found else self._right(part)
            values = values * np.asarray(tensor.scale_values(), np.float64).reshape(-1)[np.maximum(read, 0)]
            unknown = unknown | (read < 0)
        return np.where(unknown, 0.0, values), unknown

    def _right(self, part: Source) -> np.ndarray:
        """Return the flat index that belongs to every element."""
        return element_indices(self.inputs[part[0]], part[1], self.prober.parts)

    def _finding(self, part: Source, read: np.ndarray) -> Finding:
        reads = reads_of(self.inputs[part[0]], part[1], read, self.prober.parts, self._layout(part))
        asked, wrong = int(reads.asked.sum()), int((reads.known & (reads.found != reads.right)).sum())
        words, shown = (rule(reads), tuple(examples(reads))) if wrong else (None, ())
        return Finding(*part, asked, int(reads.known.sum()), wrong, words, silent(reads), shown)

    def _layout(self, part: Source) -> str | None:
        choice = self.case.operands.get(part[0])
        return (choice.layout or "linear") if choice and part[1] == "scales" else None


def _meet(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return which rows of two masks hold an element in common."""
    return left.astype(np.float32) @ right.T.astype(np.float32) > 0
