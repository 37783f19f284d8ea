"""Load a model in less time: nothing is computed or copied that its weights replace."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.serialization import config as serialization

_FILLS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_} | {
    getattr(nn.init, f"{name}_")
    for name in (
        *("normal", "uniform", "trunc_normal", "orthogonal"),
        *("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"),
    )
}


class UnfilledWeights(TorchFunctionMode):
    """Within this context a new model gets no random numbers, only memory.

    For models whose weights are all loaded afterwards. Drawing them takes seconds for a large
    tower.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func in _FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def mapped(path: Path, allowed: bool) -> Iterator[None]:
    """Within this context `torch.load` maps the file at `path` into memory instead of reading it.

    Not if it is not `allowed`, and not for files in PyTorch's format from before version 1.6, which
    is no ZIP archive.
    """
    with serialization.patch("load.mmap", allowed and zipfile.is_zipfile(path)):  # type: ignore[attr-defined]
        yield
