"""A checkpoint on disk: one safetensors file, or a folder of shards with index and config."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgref.checkpoint.header import Entry, Header, read_header, strict_json
from dgref.errors import FileError, counted, expected
from dgref.files import as_path

_MAX_JSON = 256 << 20
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors$", re.ASCII)


@dataclass
class Source:
    """Tensors by name, the configuration beside them, and what was wrong while they were found."""

    path: Path
    tensors: dict[str, Entry] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)  # hf_quant_config.json
    problems: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.tensors.values())


def open_source(path: str | Path) -> Source:
    """Return the tensors at a path; a broken shard of a folder becomes a problem, a broken file an error."""
    path = as_path("checkpoint", path)
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(".index.json"):
        return _open_folder(path.parent)
    source = Source(path)
    _add(source, read_header(path))
    _read_configuration(source, path.parent)
    return source


def _open_folder(folder: Path) -> Source:
    """Read every shard that the folder or its index names."""
    source = Source(folder)
    _read_configuration(source, folder)
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    index = _read_index(source, folder)
    if not shards:
        raise FileError(expected(str(folder), "no *.safetensors file", "a folder with a checkpoint"))
    broken = []
    for name in shards:
        try:
            _add(source, read_header(folder / name))
        except FileError as error:
            broken.append(str(error))
    if len(broken) == len(shards):
        raise FileError(broken[0])
    source.problems += broken
    if index:
        _check_index(source, index)
    else:
        _check_numbers(source, shards)
    return source


def _add(source: Source, header: Header) -> None:
    """Add a shard's tensors; a name in two shards is a problem."""
    source.headers[header.file.name] = header
    for name, entry in header.tensors.items():
        if name in source.tensors:
            other = source.tensors[name].file.name
            source.problems.append(expected(name, f"two tensors, in {other} and {entry.file.name}", "one"))
        else:
            source.tensors[name] = entry


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file beside the tensors, under the same strictness as a header."""
    size = path.stat().st_size
    if size > _MAX_JSON:
        raise FileError(expected(str(path), f"{size} bytes", f"at most {_MAX_JSON}"))
    return strict_json(path.read_bytes(), str(path))


def _read_configuration(source: Source, folder: Path) -> None:
    for name, attribute in (("config.json", "config"), ("hf_quant_config.json", "quantization")):
        if (folder / name).is_file():
            try:
                setattr(source, attribute, read_json(folder / name))
            except FileError as error:
                source.problems.append(str(error))


def _read_index(source: Source, folder: Path) -> dict[str, Any]:
    """Return the weight map of the folder's index: tensor name to file name."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        found = sorted(folder.glob("*.safetensors.index.json"))
        if not found:
            return {}
        path = found[0]
    try:
        weights = read_json(path).get("weight_map")
    except FileError as error:
        source.problems.append(str(error))
        return {}
    if isinstance(weights, dict) and all(isinstance(file, str) for file in weights.values()):
        return weights
    source.problems.append(expected(f"{path.name}: weight_map", type(weights).__name__, "a map of names to files"))
    return {}


def _check_index(source: Source, index: dict[str, str]) -> None:
    """Hold the index against the shards, both ways."""
    for file in sorted(set(index.values()) - set(source.headers)):
        source.problems.append(expected(f"index: file {file[:120]!r}", "no such readable shard", "one in the folder"))
    for name, file in index.items():
        if file in source.headers and name not in source.headers[file].tensors:
            source.problems.append(expected(f"index: {name[:160]}", f"not in {file}", "the tensor in its shard"))
    extra = sorted(set(source.tensors) - set(index))
    if extra:
        source.problems.append(
            expected("index", f"{counted(len(extra), 'tensor')} missing, such as {extra[0]}", "every tensor")
        )


def _check_numbers(source: Source, shards: list[str]) -> None:
    """Without an index, hold the names of the shards against the count that they tell."""
    there: dict[tuple[str, int], set[int]] = {}
    for stem, number, count in (match.groups() for match in map(_NUMBERED.match, shards) if match):
        there.setdefault((stem, int(count)), set()).add(int(number))
    for (stem, count), numbers in there.items():
        missing = next((number for number in range(1, count + 1) if number not in numbers), None)
        if missing is not None:
            need = f"all, {stem}-{missing:05}-of-{count:05}.safetensors among them"
            source.problems.append(expected("shards", f"{len(numbers)} of {count}", need))
