"""RapidOCR's recognizer behind the simplest FastAPI route, for ``benchmarks/serve.py --beside rapidocr_route:app``.

It needs the packages ``fastapi`` and ``rapidocr`` (its weights are in its wheel) and ``onnxruntime``.
"""

from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request
from rapidocr import RapidOCR

app = FastAPI()
engine = RapidOCR(params={"Global.log_level": "error"})


@app.post("/read")  # type: ignore[untyped-decorator]
async def read(request: Request) -> dict[str, Any]:
    """Read one line; the network runs in the event loop, as in most examples of such routes."""
    image = cv2.imdecode(np.frombuffer(await request.body(), np.uint8), cv2.IMREAD_COLOR)
    found = engine(image, use_det=False, use_cls=False, use_rec=True)
    return {"text": found.txts[0] if found.txts else "", "confidence": float(found.scores[0]) if found.scores else 0.0}
