"""Graphs on OpenVINO: on CPUs, often faster than ONNX Runtime, and in bfloat16 where the CPU computes in it.

Without telemetry, see `common.quiet.import_openvino`.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...common.quiet import import_openvino
from ...errors import EncoderError, MissingExtraError

#: Tiles of one request: what one thread computes alone.
_AT_ONCE = 4
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """Whether the library is here, found without importing it."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def _core() -> Any:
    return import_openvino().Core()


def processor() -> str:
    """The CPU's name and what it computes in."""
    capabilities = sorted(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return f"{_core().get_property('CPU', 'FULL_DEVICE_NAME')} {' '.join(capabilities)}"


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OpenVinoSession:
    """A graph of one input that runs on the CPU; see `histomix.encoders.onnx.session.OnnxSession`.

    Parameters
    ----------
    graph
        The file, or its bytes.
    threads
        CPU threads; None lets OpenVINO take one for each core.
    precision
        What it computes in. Left to itself OpenVINO would take bfloat16 where the CPU has it, and features would
        depend on the machine.
    hint
        For its errors.

    Raises
    ------
    EncoderError
        OpenVINO cannot run the graph, or the CPU does not compute in bfloat16.
    MissingExtraError
        OpenVINO is not installed.
    """

    def __init__(
        self,
        graph: Path | bytes,
        threads: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        *,
        hint: str = "Use the runtime onnx or torch",
    ) -> None:
        if not is_installed():
            raise MissingExtraError("openvino", "openvino", "the runtime openvino")
        self.graph, self._hint = graph, hint
        core = _core()
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EncoderError("this CPU does not compute in bfloat16 (avx512_bf16 or AMX)", hint=hint)
        streams = threads or _cores()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(streams),
        }
        try:
            model = core.read_model(io.BytesIO(graph) if isinstance(graph, bytes) else os.fspath(graph))
            # Each thread has tiles of its own, so that none waits for another within a layer.
            self._requests = import_openvino().AsyncInferQueue(core.compile_model(model, "CPU", settings), streams)
        except RuntimeError as error:  # what all of its exceptions are
            raise self._refused(error) from error
        self._requests.set_callback(self._keep)
        self._outputs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def run(self, images: np.ndarray) -> np.ndarray:
        """The first output.

        Raises
        ------
        EncoderError
            The graph does not take such an array.
        """
        with self._lock:  # one call at a time uses all threads
            self._outputs.clear()
            try:
                for start in range(0, len(images), _AT_ONCE):
                    part = np.ascontiguousarray(images[start : start + _AT_ONCE])
                    self._requests.start_async({0: part}, start)
                self._requests.wait_all()
            except RuntimeError as error:
                raise self._refused(error) from error
            return np.concatenate([self._outputs[start] for start in sorted(self._outputs)])

    def _keep(self, request: Any, start: int) -> None:
        """Copy what a request gave, since the next one overwrites it."""
        self._outputs[start] = np.array(request.get_output_tensor(0).data)

    def _refused(self, error: Exception) -> EncoderError:
        text = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        where = self.graph if isinstance(self.graph, Path) else None
        return EncoderError(f"OpenVINO cannot run the graph ({text.strip()})", where=where, hint=self._hint)
