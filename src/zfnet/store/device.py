"""Where the work is done."""

import torch


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
