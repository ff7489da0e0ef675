"""Processes of one job: how they find each other, and gathers of tensors of different lengths."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from dgref.errors import UnavailableError, expected

_rank_on_node: int | None = None


def init_dist(local_rank: int, num_local_ranks: int) -> tuple[int, int, dist.ProcessGroup]:
    """Join the job that MASTER_ADDR, MASTER_PORT, WORLD_SIZE (nodes) and RANK (this node) describe.

    Returns this process's rank, their number, and a group of all: NCCL with a GPU, Gloo without.
    """
    global _rank_on_node
    _rank_on_node = local_rank
    nodes, node = int(os.getenv("WORLD_SIZE", "1")), int(os.getenv("RANK", "0"))
    address, port = os.getenv("MASTER_ADDR", "127.0.0.1"), os.getenv("MASTER_PORT", "8361")
    options = {
        "backend": "nccl" if torch.cuda.is_available() else "gloo",
        "init_method": f"tcp://{address}:{port}",
        "world_size": nodes * num_local_ranks,
        "rank": node * num_local_ranks + local_rank,
    }
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        torch.set_default_device("cuda")
        options["device_id"] = torch.device("cuda", local_rank)
    dist.init_process_group(**options)
    return dist.get_rank(), dist.get_world_size(), dist.new_group(list(range(options["world_size"])))


def uneven_all_gather(tensor: torch.Tensor, dim: int = 0, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """Return the tensors of all ranks, one after the other along `dim`, where their lengths may differ."""
    count = dist.get_world_size(group)
    own = torch.tensor([tensor.shape[dim]], device=tensor.device)
    gathered = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(gathered, own, group=group)
    lengths = [int(length) for length in gathered]
    room = tensor.new_zeros([max(lengths) if axis == dim % tensor.dim() else n for axis, n in enumerate(tensor.shape)])
    room.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    parts = [torch.empty_like(room) for _ in range(count)]
    dist.all_gather(parts, room, group=group)
    return torch.cat([part.narrow(dim, 0, length) for part, length in zip(parts, lengths, strict=True)], dim)


def dist_print(s: str = "", once_in_node: bool = False) -> None:
    """Print from every process, or from the first of each node, and wait for the others."""
    if _rank_on_node is None:
        raise UnavailableError(expected("process group", "none", "init_dist before dist_print"))
    if _rank_on_node == 0 or not once_in_node:
        print(s, flush=True)
    dist.barrier()
