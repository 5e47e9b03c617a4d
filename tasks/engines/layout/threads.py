"""Bounds on the threads of the numeric libraries. Call before anything imports them for use."""

from __future__ import annotations

from typing import Any

import cv2
import onnxruntime


def bound(threads: int) -> None:
    """Let ONNX sessions made from now on, and OpenCV, use `threads` threads each and not one a core.

    Both PyMuPDF's layout model and RapidOCR make their sessions with options of their own and leave the number open, which
    means all cores of the machine: with several workers on it they would fight.
    """

    class BoundedSession(onnxruntime.InferenceSession):
        def __init__(self, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
            options = sess_options if sess_options is not None else onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            if threads > 1:
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            super().__init__(model, options, *args, **kwargs)

    # Its builds since 1.32 carry a client for its makers' statistics; documents are nobody else's business.
    onnxruntime.disable_telemetry_events()
    onnxruntime.InferenceSession = BoundedSession
    cv2.setNumThreads(threads if threads > 1 else 0)
