"""`convert`: the same values under another convention, in another layout, or as plain floats; or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgref.checkpoint.conventions import CONVENTIONS, Block, Convention, signatures
from dgref.checkpoint.header import Entry
from dgref.checkpoint.layouts import METADATA, relaid
from dgref.checkpoint.reading import Reader
from dgref.checkpoint.rules import FLOATS, dequantized, refused, replanned
from dgref.checkpoint.source import Source, open_source
from dgref.checkpoint.weights import Weight, find_weights
from dgref.checkpoint.writer import Planned, appearing, write_file
from dgref.errors import FileError, InputError, expected, unknown_name
from dgref.files import as_path
from dgref.formats.layouts import LAYOUTS

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: str
    converted: int  # weights
    copied: int  # other tensors
    bytes: int


def convert(
    path: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    layout: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a checkpoint's weights under another convention (`to`) or with scales in another `layout`.

    `to` is a row of CONVENTIONS, or `bfloat16`, `float16` or `float32` for plain floats. Every value stays the same,
    or InputError says which would not. `out` must not exist, and appears only once it is complete.
    """
    if (to is None) == (layout is None):
        raise InputError(expected("convert", f"to={to!r}, layout={layout!r}", "exactly one of to and layout"))
    if to is not None and to not in CONVENTIONS and to not in FLOATS:
        raise unknown_name("checkpoint convention", to, [*CONVENTIONS, *FLOATS])
    layout = LAYOUTS[layout].name if layout else None
    source, out = open_source(path), as_path("out", out)
    if source.problems:
        raise FileError(source.problems[0])
    weights, _ = find_weights(source, signatures(source.config, source.quantization))
    if not weights:
        raise refused(str(path), "no quantised weight", "something to convert")
    if to in CONVENTIONS:
        _check_all(weights, CONVENTIONS[to])
    with Reader() as reader, appearing(out) as partial:
        plan = _plan(source, weights, to, layout, reader)
        _write(source, plan, partial, to, weights[0].block, layout, progress or (lambda done, total, name: None))
    copied = len(source.tensors) - sum(len(weight.parts) for weight in weights)
    size = sum(tensor.size for tensors in plan.values() for tensor in tensors)
    return Conversion(str(out), len(weights), copied, size)


def _check_all(weights: list[Weight], to: Convention) -> None:
    """Refuse a checkpoint of which only a part could follow: no loader reads two conventions at once."""
    other = [weight for weight in weights if weight.convention.format != to.format]
    if other and len(other) < len(weights):
        got = f"{other[0].convention.format}, as {len(other)} of {len(weights)} weights are"
        raise refused(other[0].name, got, f"{to.format} everywhere, for {to.name}")


def _plan(
    source: Source, weights: list[Weight], to: str | None, layout: str | None, reader: Reader
) -> dict[str, list[Planned]]:
    """Return the tensors of every output file, in the order of the input."""
    by_part = {part.name: weight for weight in weights for part in weight.parts}
    plan: dict[str, list[Planned]] = {name: [] for name in source.headers}
    for name, entry in source.tensors.items():
        weight = by_part.get(name)
        if weight is None:
            plan[entry.file.name].append(_copied(entry, reader))
        elif entry is weight.payload:
            plan[entry.file.name] += list(_converted(weight, to, layout, reader, source))
    return plan


def _copied(entry: Entry, reader: Reader) -> Planned:
    return Planned(entry.name, entry.dtype, entry.shape, lambda: reader.chunks(entry))


def _converted(weight: Weight, to: str | None, layout: str | None, reader: Reader, source: Source) -> Iterator[Planned]:
    """Yield what replaces a weight's tensors."""
    if layout is not None:
        yield from (_copied(part, reader) for part in weight.parts if part is not weight.scale)
        yield relaid(weight, layout, reader)
    elif to in FLOATS:
        yield dequantized(weight, to, reader)
    else:
        yield from replanned(weight, CONVENTIONS[to], reader)


def _write(
    source: Source,
    plan: dict[str, list[Planned]],
    partial: Path,
    to: str | None,
    block: Block,
    layout: str | None,
    progress: Progress,
) -> None:
    """Write one file, or a folder of shards with index and configuration."""
    total, done = sum(tensor.size for tensors in plan.values() for tensor in tensors), 0
    folder = source.path.is_dir() or source.path.name.endswith(".index.json")
    if folder:
        partial.mkdir()
        _copy_rest(source, partial)
        _write_configuration(source, partial, to, block)
        _write_index(plan, partial)
    for name, tensors in plan.items():
        progress(done, total, name)
        metadata = {**source.headers[name].metadata, **({METADATA: layout} if layout else {})}
        write_file(partial / name if folder else partial, tensors, metadata)
        done += sum(tensor.size for tensor in tensors)
    progress(total, total, "")


def _copy_rest(source: Source, partial: Path) -> None:
    """Copy what is not tensors: tokenizer, licence, generation settings."""
    folder = source.path if source.path.is_dir() else source.path.parent
    made = ("config.json", "hf_quant_config.json")
    for file in folder.iterdir():
        written = file.suffix == ".safetensors" or file.name.endswith(".index.json") or file.name in made
        if file.is_file() and not file.is_symlink() and not written:
            shutil.copy2(file, partial / file.name)


def _write_index(plan: dict[str, list[Planned]], partial: Path) -> None:
    """Write the weight map, where there is more than one file."""
    if len(plan) < 2:
        return
    size = sum(tensor.size for tensors in plan.values() for tensor in tensors)
    weights = {tensor.name: name for name, tensors in plan.items() for tensor in tensors}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weights.items()))}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_configuration(source: Source, partial: Path, to: str | None, block: Block) -> None:
    """Write config.json with the claim of the new convention, so that the result does not contradict itself."""
    config, quantization = dict(source.config), dict(source.quantization)
    if to is not None:
        config.pop("quantization_config", None)
        config.pop("expert_dtype", None)
        quantization = {}
        config.update(claim(to, block))
    for name, table in (("config.json", config), ("hf_quant_config.json", quantization)):
        if table:
            (partial / name).write_text(json.dumps(table, indent=2) + "\n")


def claim(to: str, block: Block = (128, 128)) -> dict[str, Any]:
    """Return the part of config.json that declares a convention of weights in blocks; only the dtype of plain ones."""
    if to in FLOATS:
        return {"torch_dtype": to}
    row = CONVENTIONS[to]
    method, _, variant = row.signatures[-1 if to.startswith("deepseek") else 0].partition("/")
    table: dict[str, Any] = {"quant_method": method}
    if method == "fp8":
        table["weight_block_size"] = [128, 128] if row.packing == 2 else list(block)
        table |= {"scale_fmt": "ue8m0"} if row.scale_format == "float8_e8m0fnu" else {}
    if method == "modelopt":
        table["quant_algo"] = variant
    if method == "compressed-tensors":
        bits, size = 8 // row.packing, row.blocks[0][1] or None
        weights = {"num_bits": bits, "type": "float", "group_size": size}
        table |= {"format": variant, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    extra = {"expert_dtype": "fp4"} if variant == "fp4" else {}
    return {"quantization_config": table, **extra}
