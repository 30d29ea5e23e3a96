"""The one place that opens ONNX Runtime.

Its telemetry is off: ``ORT_DISABLE_TELEMETRY`` stands in the environment before it is imported (`common.quiet`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from ...errors import EncoderError


class OnnxSession:
    """A graph of one input that runs on the CPU; its threads sleep while they wait, as others read the next tiles then.

    Parameters
    ----------
    graph
        The file, or its bytes.
    threads
        CPU threads; None lets ONNX Runtime take one for each core.
    what, mend
        Words for its errors.

    Raises
    ------
    EncoderError
        ONNX Runtime cannot read the graph.
    """

    def __init__(
        self,
        graph: Path | bytes,
        threads: int | None = None,
        *,
        what: str = "the graph",
        hint: str = "Use the runtime torch",
    ) -> None:
        import onnxruntime

        self.graph = graph
        self._what, self._where, self._hint = what, graph if isinstance(graph, Path) else None, hint
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # what fails is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                graph if isinstance(graph, bytes) else os.fspath(graph), options, providers=["CPUExecutionProvider"]
            )
        except _refusals() as error:
            raise self._refused(error) from error
        self._input = self._session.get_inputs()[0].name

    def run(self, images: np.ndarray) -> np.ndarray:
        """The first output.

        Raises
        ------
        EncoderError
            The graph does not take such an array.
        """
        try:
            embedding: np.ndarray = self._session.run(None, {self._input: np.ascontiguousarray(images)})[0]
            return embedding
        except _refusals() as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> EncoderError:
        text = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        # What stands before the words is for those who write ONNX Runtime: "[ONNXRuntimeError] : 7 : FAIL : ...".
        reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
        return EncoderError(f"{self._what} cannot be used ({reason})", where=self._where, hint=self._hint)


def _refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises (its own exceptions share no base but Exception), and its checks of the input."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (ValueError, *(getattr(state, name) for name in names))
