"""What the arguments of the drop-in may be, as annotations."""

from __future__ import annotations

from typing import Annotated

import torch

from dgref.annotations import SCALES

Vector = Annotated[torch.Tensor, 1]
Matrix = Annotated[torch.Tensor, 2]
Stack = Annotated[torch.Tensor, 3]
Stacks = Annotated[torch.Tensor, 4]
Scaled = Annotated[tuple[Matrix, Matrix], SCALES]
ScaledStack = Annotated[tuple[Stack, Stack], SCALES]
ScaledFlat = Annotated[tuple[torch.Tensor, Matrix], SCALES]  # matrices one behind the other, in any shape
ScaledKeys = Annotated[tuple[Matrix, Vector], SCALES]
Query = Annotated[tuple[Stack, Matrix | None], SCALES]
PagedQuery = Annotated[tuple[Stacks, Stack | None], SCALES]
Block = tuple[int, int]
Recipe = tuple[int, int, int]
