"""Host memory that a GPU copies into while the CPU continues: page-locked, and no larger than what it holds.

torch's own allocator (``pin_memory=True``) rounds each size up to a power of two: the weights of BERT-large would take
2.1 GB instead of 1.3. So ordinary memory is registered with CUDA instead.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


def page_locked(elements: int, owner: object, cudart: Any = None) -> Tensor:
    """Float32 zeros, [elements], in page-locked memory, all pages of which exist already.

    Args:
        owner: what uses the memory as page-locked; when it dies, the memory becomes ordinary again.
        cudart: ``torch.cuda.cudart()``, or what stands in for it.
    """
    content = torch.empty(elements, dtype=torch.float32).fill_(0.0)
    if not elements:
        return content
    runtime = torch.cuda.cudart() if cudart is None else cudart
    if int(runtime.cudaHostRegister(content.data_ptr(), content.nbytes, 0)):
        with suppress(RuntimeError, AssertionError):
            torch.ones(1, device="cuda")  # CUDA keeps the error for whoever launches the next kernel
        return torch.empty(elements, dtype=torch.float32, pin_memory=True).fill_(0.0)
    # At the interpreter's end CUDA may be gone already, and everything is freed anyway.
    weakref.finalize(owner, runtime.cudaHostUnregister, content.data_ptr()).atexit = False
    return content
