"""Reads images with an exported network, and without crnn: NumPy, Pillow and ONNX Runtime are all that it needs.

crnn export crnn-small crnn-small.onnx
python examples/read_plain.py crnn-small.onnx word.png ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

if len(sys.argv) < 3:
    sys.exit("usage: python read_plain.py MODEL.onnx IMAGE ...")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["crnn_metadata"])
characters, settings = metadata["characters"], metadata["config"]["image"]
for path in sys.argv[2:]:
    image = Image.open(path).convert("L")
    width = settings["image_width"]
    if settings["resize"] == "keep_ratio":
        steps = int(image.width * 32 * settings["width_scale"] / (image.height * settings["width_step"]) + 0.5)
        width = min(max(steps * settings["width_step"], settings["min_width"]), settings["max_width"])
    pixels = np.asarray(image.resize((width, 32), Image.Resampling.BICUBIC))
    (log_probs,) = session.run(["log_probs"], {"images": pixels[np.newaxis, np.newaxis]})  # (1, T, V)
    best = log_probs[0].argmax(axis=1)
    # A class counts where it differs from the one before it; the last class is the blank.
    kept = [k for k, before in zip(best, [-1, *best[:-1]], strict=True) if k != before and k < len(characters)]
    print(path, "".join(characters[k] for k in kept), sep="\t")
