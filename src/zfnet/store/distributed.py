"""Where the work is done: on which device, in one process, or in several that torchrun started, on
one machine or many, which share every batch of a training and the batches of a scan.

    torchrun --nproc-per-node 2 -m zfnet train demo      # or: make train PROFILE=demo NPROC=2

Without torchrun every function here is that of a single process. NCCL on CUDA, a GPU for each
process; gloo on the CPU.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from zfnet.store import artefacts
from zfnet.store.errors import ProcessLost, require, typed


def default_device() -> torch.device:
    """The GPU where there is one, with convolutions in full float32: cuDNN's TF32 rounds inputs to
    ten bits, and no two ways of computing would agree.

    Training alone keeps TF32 (`train`, with its own validation and test), where it is faster and
    noise is no harm.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun started; nothing when it did not.

    Raises UserError where there are more processes than GPUs, and ProcessLost where another process
    is lost.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        require(
            local < gpus,
            f"{os.environ['LOCAL_WORLD_SIZE']} processes, but {gpus} GPUs",
            f"start one process for each (NPROC={gpus})",
        )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        yield
        dist.barrier()
    except RuntimeError as error:
        if isinstance(lost := typed(error), ProcessLost):
            raise lost from error
        raise
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # whoever is lost does not answer
                dist.destroy_process_group()


def share() -> tuple[int, int]:
    """(rank, processes): which of how many this process is."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that writes, and speaks."""
    return share()[0] == 0


def from_first(find: Callable[[], object]):
    """What `find()` gives in the first process, in all of them; only the first calls it."""
    if share()[1] == 1:
        return find()
    sent = [None, None]
    if is_first():
        try:
            sent[0] = find()
        except Exception as error:  # or the others would wait for ever
            sent[1] = error
    dist.broadcast_object_list(sent)
    if sent[1] is not None:
        raise sent[1]
    return sent[0]


def gathered(own) -> list:
    """What each process gives, in the order of their ranks, in all of them."""
    given = [own] * share()[1]
    if len(given) > 1:
        dist.all_gather_object(given, own)
    return given


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over the processes of a small CPU tensor, in the order of their ranks."""
    return torch.stack(gathered(values)).sum(0)


class _Whole(nn.Module):
    """A net behind one call, as DistributedDataParallel wants it."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, images)


def averaged(
    model: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]
) -> nn.Module:
    """`call(model, images)` as a module whose gradients are means over the processes; the model
    itself where there is but one.
    """
    return nn.parallel.DistributedDataParallel(_Whole(model, call)) if share()[1] > 1 else model


def artefact(
    path: Path, key: str, build: Callable[[], tuple[artefacts.Tensors, dict]]
) -> tuple[artefacts.Tensors, dict]:
    """`artefacts.artefact`, where all processes take part in `build()` and the first writes; all
    get the same.
    """
    if share()[1] == 1:
        return artefacts.artefact(path, key, build)
    if there := from_first(lambda: artefacts.current(path, key)):
        return there
    tensors, meta = build()
    from_first(lambda: artefacts.save_tensors(path, tensors, {**meta, "key": key}))
    return tensors, {**meta, "key": key}
