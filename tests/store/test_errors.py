"""Errors have types, also where PyTorch tells what happened in words alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from zfnet.store import errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "WorkerKilled"),
        (RuntimeError("DataLoader worker (pid(s) 7, 9) exited unexpectedly"), "WorkerKilled"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
                " dataloader's workers are out of shared memory."
            ),
            "WorkerKilled",
        ),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0."), "RuntimeError"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), "ProcessLost"),
        (torch.distributed.DistNetworkError("the socket has failed to connect"), "ProcessLost"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "OutOfMemory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "OutOfMemory"),
        (MemoryError(), "OutOfMemory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "RuntimeError"),
        (RuntimeError("unsupported memory format option"), "RuntimeError"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "RuntimeError"),
        (ValueError("out of memory"), "ValueError"),
        (FileNotFoundError("Connection"), "FileNotFoundError"),
    ],
)
def test_what_pytorch_says_in_words_gets_a_type(error, kind):
    known = errors.typed(error)
    assert type(known).__name__ == kind and "\n" not in str(known)
    assert (known is error) == (kind == type(error).__name__)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**57, dtype=torch.uint8),
        lambda: np.empty(2**57, np.uint8),
        lambda: bytearray(2**60),
    ],
)
def test_memory_that_is_not_there_is_known_from_the_real_thing(ask):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        ask()
    known = errors.typed(caught.value)
    assert isinstance(known, errors.OutOfMemory) and str(known).startswith("not enough memory (")


@pytest.mark.parametrize(
    "error",
    [
        errors.UserError("size = 3", "choose 4"),
        errors.Unsupported("a Fire", "choose another net"),
        errors.Damaged("a.safetensors", "half of it is gone"),
        errors.Damaged("a.csv", "no rows", "train again"),
        errors.NotDownloaded("vgg19 could not be downloaded", "connect to the network"),
        errors.WorkerKilled(),
        errors.ProcessLost("gone"),
    ],
)
def test_an_error_reaches_other_processes_as_it_is(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_message_is_what_and_cure():
    error = errors.Damaged("a.safetensors", "half of it is gone")
    assert str(error) == (
        "a.safetensors is damaged (half of it is gone): delete it to have it made again, or fetch"
        " it again"
    )
    assert str(errors.UserError("what")) == "what"
    assert errors.one_line(KeyError()) == "KeyError"
    assert errors.one_line(RuntimeError("a\n  b" + "c" * 300)) == "a b" + "c" * 197
