"""The layout contract: pack, unpack, and the address of every coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from dgref.errors import FormatError, LayoutError, ShapeError, counted, expected, flag, whole_numbers
from dgref.formats.layouts.arrays import Array, dtype_name, movable, owned, raw
from dgref.formats.layouts.elements import ANY, Elements

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The bijection between the coordinates of a logical grid of scales and the addresses of a buffer.

    A grid has shape [..., rows, columns]; leading axes are batches, laid one after the other. `alignment` is the byte
    alignment that hardware asks of the buffer. `padding` is the value of every element that no coordinate maps to.
    `parameters` names the keyword arguments that the layout cannot do without.
    """

    name: str
    description: str
    source: str
    aliases: tuple[str, ...] = ()
    alignment: int = 16
    padding: int = 0
    elements: Elements = ANY
    parameters: tuple[str, ...] = ()
    copies: bool = False  # True: several addresses hold one scale, so pack is one-to-many

    # What a kind of layout defines, all of it about one matrix and in elements before packing into words:

    def element_shape(self, shape: Shape, **parameters) -> Shape:
        """Return the shape of one matrix's buffer, in elements."""
        raise NotImplementedError

    def locate(self, rows: np.ndarray, columns: np.ndarray, shape: Shape, **parameters) -> np.ndarray:
        """Return the element addresses of coordinates within one matrix; -1 where a coordinate is not stored."""
        raise NotImplementedError

    def arrange(self, codes: Array, **parameters) -> Array:
        """Put [..., rows, columns] raw codes into [..., *element_shape]."""
        raise NotImplementedError

    def restore(self, codes: Array, shape: Shape, **parameters) -> Array:
        """Take raw codes of `shape` out of [..., *element_shape]."""
        raise NotImplementedError

    def encode(self, scales: Array, **parameters) -> Array:
        """Return the codes that the buffer is made of."""
        return self.elements.encode(scales)

    # What every layout then has:

    def pack(self, scales: Array, **parameters) -> Array:
        """Return the buffer of a grid of scales; NumPy gives NumPy, torch gives torch."""
        scales = movable(scales, "scales")
        self._checked(scales.shape, parameters)
        self.elements.check(scales, self.name)
        codes, back = raw(self.encode(scales, **parameters))
        return self.elements.to_words(back(owned(self.arrange(codes, **parameters), codes)))

    def unpack(self, buffer: Array, shape: Shape, *, codes: bool = False, **parameters) -> Array:
        """Return the grid of scales of a buffer, whose shape may also be flat.

        With `codes`, packed words give their UE8M0 bytes instead of float32 values.
        """
        shape, codes = self._checked(shape, parameters), flag("codes", codes)
        buffer = movable(buffer, "buffer")
        need = self.buffer_shape(shape, **parameters)
        if prod(buffer.shape) != prod(need):
            got = f"{counted(prod(buffer.shape), 'element')} of shape {tuple(buffer.shape)}"
            raise LayoutError(expected("buffer", got, f"{prod(need):,} as {need}", f"{self.name}, scales {shape}"))
        if self.elements.produces != "the same dtype" and dtype_name(buffer) != self.elements.produces:
            raise FormatError(expected("buffer", dtype_name(buffer), self.elements.produces, self.name))
        bits, back = raw(self.elements.from_words(buffer.reshape(need)))
        result = back(owned(self.restore(bits, shape, **parameters), bits))
        return result if codes else self.elements.decode(result)

    def buffer_shape(self, shape: Shape, **parameters) -> Shape:
        """Return the shape of the buffer, leading axes included, in words where the layout packs words."""
        shape = self._checked(shape, parameters)
        one = self.element_shape(shape[-2:], **parameters)
        return (*shape[:-2], *(one[:-1] if self.elements.lanes > 1 else one))

    def view_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shapes [..., rows, columns] under which libraries pass the buffer on, with strides by column.

        Rows that only pad may be there or not. Layouts whose buffer is no such matrix have none.
        """
        return ()

    def size(self, shape: Shape, **parameters) -> int:
        """Return how many elements (words, where the layout packs words) the buffer has, padding included."""
        return prod(self.buffer_shape(shape, **parameters))

    def addresses(self, shape: Shape, **parameters) -> np.ndarray:
        """Return the element address of every coordinate: bytes of the words, where the layout packs words."""
        shape = self._checked(shape, parameters)
        rows, columns = np.indices(shape[-2:], dtype=np.int64, sparse=True)
        one = np.broadcast_to(self.locate(rows, columns, shape[-2:], **parameters), shape[-2:])
        batches = prod(shape[:-2])
        starts = np.arange(batches, dtype=np.int64) * prod(self.element_shape(shape[-2:], **parameters))
        return np.where(one < 0, -1, starts.reshape(*shape[:-2], 1, 1) + one)

    def element_address(self, coordinate: Shape, shape: Shape, **parameters) -> int:
        """Return the address of one coordinate in elements: a byte address, where the layout packs words."""
        shape = self._checked(shape, parameters)
        coordinate = whole_numbers("coordinate", coordinate, error=LayoutError)
        if len(coordinate) != len(shape) or any(i >= extent for i, extent in zip(coordinate, shape, strict=True)):
            raise LayoutError(expected("coordinate", coordinate, f"one inside {shape}", self.name))
        *batch, row, column = coordinate
        one = int(self.locate(np.int64(row), np.int64(column), shape[-2:], **parameters))
        if one < 0:
            raise LayoutError(expected("coordinate", coordinate, "one that is stored, not padding", self.name))
        flat = int(np.ravel_multi_index(batch, shape[:-2])) if batch else 0
        return flat * prod(self.element_shape(shape[-2:], **parameters)) + one

    def address(self, coordinate: Shape, shape: Shape, **parameters) -> int:
        """Return the index into the flat buffer that holds a coordinate: of the word, where it packs words."""
        return self.element_address(coordinate, shape, **parameters) // self.elements.lanes

    def lane(self, coordinate: Shape, shape: Shape, **parameters) -> int:
        """Return which byte of its word, counted from the least significant, holds a coordinate."""
        return self.element_address(coordinate, shape, **parameters) % self.elements.lanes

    def picture(self, shape: Shape | None = None, **parameters):
        """Return a small rich table of addresses; without a shape, one that shows the pattern."""
        from dgref.formats.layouts.picture import picture

        return picture(self, shape, **parameters)

    def _checked(self, shape: Shape, parameters: dict) -> Shape:
        """Return a shape with rows and columns; missing or unknown parameters are an error too."""
        shape = whole_numbers("shape of the scales", shape, error=ShapeError)
        if len(shape) < 2:
            raise ShapeError(expected("scales", f"shape {shape}", "[..., rows, columns]", self.name))
        missing = [name for name in self.parameters if name not in parameters]
        known = {*self.parameters, *self.options}
        unknown = [name for name in parameters if name not in known]
        if missing or unknown:
            got = f"missing {missing}" if missing else f"unknown {unknown}"
            need = " and ".join(sorted(known)) or "no parameters"
            raise LayoutError(expected("layout parameters", got, need, self.name))
        return shape

    @property
    def divisor(self) -> int:
        """What the number of rows must be a multiple of."""
        return 1

    @property
    def options(self) -> tuple[str, ...]:
        """Keyword arguments that the layout understands and can do without."""
        return ()
