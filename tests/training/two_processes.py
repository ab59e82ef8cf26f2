"""A stand-in for the accelerators of two processes, which run as threads."""

import threading
from types import SimpleNamespace

import torch


class Together:
    """Two accelerators that exchange tensors; `of(rank)` is the one of a thread."""

    def __init__(self):
        self.barrier, self.given = threading.Barrier(2), [None, None]

    def of(self, rank):
        def exchange(tensor):
            self.barrier.wait()
            self.given[rank] = tensor.clone()
            self.barrier.wait()
            return list(self.given)

        def pad(tensor, pad_index=0):
            longest = max(len(each) for each in exchange(tensor))
            padding = tensor.new_full((longest - len(tensor), *tensor.shape[1:]), pad_index)
            return torch.cat([tensor, padding])

        return SimpleNamespace(
            num_processes=2,
            is_main_process=rank == 0,
            gather=lambda tensor: torch.cat(exchange(tensor)),
            pad_across_processes=pad,
            reduce=lambda tensor, reduction: sum(exchange(tensor)),
        )
