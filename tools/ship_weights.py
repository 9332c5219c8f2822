"""Make the weights file that ships with the package from one of a run.

    python tools/ship_weights.py runs/crnn-small crnn-small [--samples 3500000] [--hours 2.4] [--hardware "two cores"]

Beside it goes its int8 form for engines, ``crnn-small.int8.onnx``, quantised with rendered words, so that it has seen
no more data than the weights have.

    python tools/ship_weights.py crnn-small crnn-small --keep-int8 --image '{"resize": "keep_ratio"}'

gives weights that ship other image settings, for reading, and both files their old numbers.

Tensors become float16 (the network computes in float32 again when they are loaded). Characters' places are compared
with those of words that Pillow draws, and the median error becomes the calibration's shift. What a file says of itself
is kept where it means something elsewhere: steps, samples, and the settings of the run without the folders of a
machine. ``src/crnn/weights/SHA256SUMS`` gets the checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw, ImageFont

import crnn
from crnn.config.model import parse_reader_config
from crnn.engines.exported_file import METADATA_KEY, SHA256_KEY, UNSEALED, sealed
from crnn.errors import CheckpointError, CrnnError
from crnn.export import export
from crnn.files import atomic_write
from crnn.model.checkpoint import load_weights, read_tensors, write_tensors
from crnn.model.weights import read_weights, resolve_weights

FOLDER = Path(__file__).resolve().parents[1] / "src" / "crnn" / "weights"
FACES = FOLDER.parent / "synth" / "faces"


def shipped_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating tensors as float16.

    Raises:
        ValueError: A number is too large for float16.
    """
    halves = {}
    for name, tensor in state.items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and not torch.isfinite(half).all():
            raise ValueError(f"{name} has numbers beyond float16")
        halves[name] = half
    return halves


def told(info: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What the file says of its making; paths are of no use to others."""
    facts = {key: info[key] for key in ("hours", "hardware") if key in info} | facts  # of weights that ship already
    settings = {section: dict(values) for section, values in info.get("run", {}).items()}
    for section, key in (("data", "validation"), ("checkpoint", "save_checkpoint_path"), ("train", "warm_start")):
        settings.get(section, {}).pop(key, None)
    fonts = settings.get("fonts", {})
    fonts["folders"] = [f if f in ("shipped", "system") else Path(f).name for f in fonts.get("folders", [])]
    averaged = {"averaged": info["averaged"]} if "averaged" in info else {}
    return {"step": info.get("step"), "samples": info.get("samples"), **averaged, **facts, "run": settings}


def fitted_shift(path: Path) -> float:
    """Return by how many pixels of the network's image characters lie left of drawn ones, with the weights' shift.

    The median over some 2,000 characters of words in plain faces; readings of other lengths are left out.
    """
    reader, rng = crnn.load(path, threads=1), random.Random(1)
    fonts = [ImageFont.truetype(str(f), 40) for n in ("open-sans", "nunito") for f in sorted((FACES / n).glob("*.ttf"))]
    images, places = [], []
    for word in ("places", "distance", "kingdom", "holiday", "mountain", "welcome", "yesterday", "question") * 40:
        font, margin = rng.choice(fonts), rng.randint(4, 40)
        image = Image.new("L", (int(font.getlength(word)) + 2 * margin, 60), 255)
        ImageDraw.Draw(image).text((margin, 2), word, fill=0, font=font)
        images.append(image)
        places.append([margin + font.getlength(word[:k]) for k in range(len(word) + 1)])
    errors: list[float] = []
    for reading, image, edges in zip(reader.read(images), images, places, strict=True):
        if len(reading.characters) == len(edges) - 1:
            squashed = reader.config.image.resize == "squash"
            scale = reader.config.image.image_width / image.width if squashed else 32 / image.height
            middles = [(c.start + c.end) / 2 for c in reading.characters]
            errors += (scale * (np.add(edges[1:], edges[:-1]) / 2 - middles)).tolist()
    return float(np.median(errors))


def check_same_numbers(state: dict[str, torch.Tensor], target: Path, quantised: Path) -> None:
    """Raise ``CheckpointError`` if new weights are not those that ship, or the int8 file was not made from these."""
    old, _ = read_tensors(target)
    source = json.loads({e.key: e.value for e in onnx.load(quantised).metadata_props}[METADATA_KEY])["info"]
    if source["source_sha256"] != hashlib.sha256(target.read_bytes()).hexdigest():
        raise CheckpointError(f"--keep-int8: {quantised.name} was not made from {target.name}; leave it out")
    if state.keys() != old.keys() or any(not torch.equal(old[name], state[name]) for name in state):
        raise CheckpointError(f"--keep-int8: {target.name} has other numbers than the new weights; leave it out")


def restate(target: Path, path: Path) -> None:
    """Give an int8 file the settings and the calibration of the weights that it was made from; its graph stays."""
    weights = read_weights(target)
    model = onnx.load(path)
    entries = {entry.key: entry for entry in model.metadata_props}
    metadata = json.loads(entries[METADATA_KEY].value)
    metadata["config"] = weights.config.model_dump(mode="json", exclude_none=True)
    metadata["calibration"] = None if weights.calibration is None else weights.calibration.as_dict()
    metadata["info"]["source_sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
    entries[METADATA_KEY].value, entries[SHA256_KEY].value = json.dumps(metadata), UNSEALED
    atomic_write(path, sealed(model.SerializeToString()), CheckpointError)


def main() -> None:
    """Check the arguments, and ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="weights file or run folder")
    parser.add_argument("name", help="name under which it ships")
    parser.add_argument("--samples", type=int, help="images seen in all stretches of the training")
    parser.add_argument("--hours", type=float, help="wall time of all stretches")
    parser.add_argument("--hardware", help="what it was trained on")
    parser.add_argument("--image", type=json.loads, default={}, help="image settings for reading, as JSON")
    parser.add_argument("--language", help="language that readings use: en, or none")
    parser.add_argument("--keep-int8", action="store_true", help="the int8 file that is there keeps its numbers")
    options = parser.parse_args()
    target, quantised = FOLDER / f"{options.name}.safetensors", FOLDER / f"{options.name}.int8.onnx"
    if options.name != Path(options.name).name:
        parser.error(f"the name is {options.name!r}; expected one without a folder")
    if options.keep_int8 and not (target.is_file() and quantised.is_file()):
        parser.error(f"--keep-int8: {target.name} and {quantised.name} do not both exist in {FOLDER}")
    if not isinstance(options.image, dict):
        parser.error("--image is no JSON object; expected settings as '{\"min_width\": 80}'")
    try:
        ship(options, target, quantised)
    except CrnnError as error:
        parser.error(str(error))


def ship(options: argparse.Namespace, target: Path, quantised: Path) -> None:
    """Write both files and the checksums."""
    path = resolve_weights(options.run)
    weights = load_weights(path)
    _, metadata = read_tensors(path)
    facts = {k: getattr(options, k) for k in ("samples", "hours", "hardware") if getattr(options, k) is not None}
    metadata["info"] = told(weights.info, facts)
    config = weights.config.model_dump(mode="json", exclude_none=True)
    config["image"] |= options.image
    if options.language is not None:
        config["charset"]["language"] = options.language
    metadata["config"] = parse_reader_config(config, "the settings").model_dump(mode="json", exclude_none=True)
    if metadata.get("calibration") is not None:
        before = metadata["calibration"].get("shift", 0.0)
        metadata["calibration"]["shift"] = round(before + fitted_shift(path), 2)
        print(f"places are shifted by {metadata['calibration']['shift']} pixels")
    FOLDER.mkdir(exist_ok=True)
    state = shipped_state(weights.tensors)
    if options.keep_int8:
        check_same_numbers(state, target, quantised)
    write_tensors(target, state, metadata)
    if options.keep_int8:
        restate(target, quantised)
    else:
        export(target, quantised, precision="int8")
    files = sorted([*FOLDER.glob("*.safetensors"), *FOLDER.glob("*.onnx")])
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (FOLDER / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    for file in (target, quantised):
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
