"""How many tiles are encoded at once, and how many threads read ahead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..common.memory import available_memory

if TYPE_CHECKING:
    from ..encoders import Encoder

#: Larger batches are no faster: a CPU is busy from 16 on, a GPU from 256 on.
LARGEST = {"cpu": 64, "cuda": 256}
# Memory of a batch inside a model, as a multiple of its normalised images. The widest networks in use (ViT-g/14, the
# first maps of a DenseNet) need about 40.
_ACTIVATIONS = 64
_SHARE_OF_FREE = 0.25
_UNKNOWN = 16


def find_batch_size(encoders: Sequence[Encoder], free_bytes: int | None = None) -> int:
    """The number of tiles that the encoders can encode at once: a power of two, bounded whatever memory there is.

    It changes speed and memory; values agree between batch sizes up to the rounding of float32 sums.

    Parameters
    ----------
    encoders
        The encoders that get each batch, one after the other.
    free_bytes
        Memory that is free; None asks the device.
    """
    device = "cuda" if any(_device(encoder) == "cuda" for encoder in encoders) else "cpu"
    free = _free_bytes(device) if free_bytes is None else free_bytes
    if free is None:
        return _UNKNOWN
    one_tile = max(encoder.tile_spec().size_px ** 2 for encoder in encoders) * 3 * 4 * _ACTIVATIONS
    affordable = max(1, int(free * _SHARE_OF_FREE) // one_tile)
    return 1 << (min(affordable, LARGEST[device]).bit_length() - 1)


def reader_threads() -> int:
    """Threads that read ahead of the model: two keep a CPU model fed, and a GPU beside many cores needs more."""
    return max(2, min(8, (os.cpu_count() or 2) // 2))


def _device(encoder: Encoder) -> str:
    return str(getattr(encoder, "device", "cpu")).partition(":")[0]


def _free_bytes(device: str) -> int | None:
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return available_memory()
