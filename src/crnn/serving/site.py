"""A static site that reads in browsers: the page, a network, and ONNX Runtime Web's files, which the user has."""

import json
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from crnn.decoding.confidence import UNCALIBRATED
from crnn.decoding.language import load_language
from crnn.decoding.language_prior import LanguagePrior
from crnn.engines.engine import Precision
from crnn.engines.exported_file import read_engine_file
from crnn.errors import ConfigError, DataError
from crnn.export import export
from crnn.files import check_free
from crnn.model.weights import shipped_engine_file
from crnn.reading_order import has_right_to_left

_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = ("page.css", "page.js", "local.js", "offline.js")
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)


def write_site(model: str, out: str | os.PathLike[str], runtime: str, precision: Precision = "int8") -> int:
    """Write the site into a new folder and return its bytes.

    Args:
        model: Name of shipped weights, ``hf://OWNER/NAME``, a weights file, a run folder, or an exported file.
        out: The folder; new or empty.
        runtime: Folder with the files of the npm package ``onnxruntime-web``: ``node_modules``, or one further down.
        precision: ``int8``, a quarter of the size, or ``fp32``; an exported file keeps its own.

    Raises:
        ConfigError: The runtime's files are not there, or the network is one that the page cannot read with.
        CheckpointError: The weights cannot be read.
        DataError: The folder cannot be written, or is not empty.
    """
    found = [Path(runtime, *way) for way in ((), ("dist",), ("onnxruntime-web", "dist"))]
    folder = next((path for path in found if all((path / name).is_file() for name in _RUNTIME)), None)
    if folder is None:
        raise ConfigError(
            f"--runtime {runtime}: has no {', '.join(_RUNTIME)}; expected node_modules with onnxruntime-web: "
            "npm install onnxruntime-web"
        )
    path = Path(out)
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as staging:
            site = Path(staging, "site")
            (site / "ort").mkdir(parents=True)
            for name in _RUNTIME:
                shutil.copyfile(folder / name, site / "ort" / name)
            _write_network(model, precision, site)
            _write_page(site)
            _write_list(site)
            size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
            site.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}. Choose another folder") from error
    return size


def _write_network(model: str, precision: Precision, site: Path) -> None:
    target = site / "model.onnx"
    ready = Path(model) if model.endswith(".onnx") else shipped_engine_file(model, precision)
    if ready is not None:
        target.write_bytes(read_engine_file(ready).model)
    else:
        export(model, target, precision=precision)
    file = read_engine_file(target)
    charset = file.config.charset.charset()
    if file.config.image.image_channels != 1 or has_right_to_left(charset.characters):
        raise ConfigError(f"{model}: reads in color, or from right to left; the page reads grey levels, left to right")
    settings = {
        "name": Path(model).stem,
        "characters": charset.characters,
        "image": file.config.image.model_dump(),
        "pooling": file.config.model.pooling,
        "calibration": (file.calibration or UNCALIBRATED).as_dict(),
        "language": file.config.charset.language,
        "prior": None,
    }
    if (name := file.config.charset.language) != "none":
        language = load_language(name)
        prior = LanguagePrior(language, charset)
        settings["prior"] = prior.tables()
        language.save(site / "language.lm")
        prior.numbers.save(site / "numbers.lm")
    (site / "settings.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _write_list(site: Path) -> None:
    """Name all files in the service worker, which keeps them from the first visit on."""
    worker = site / "offline.js"
    names = sorted(file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file() and file != worker)
    names[names.index("index.html")] = "./"
    script = worker.read_text(encoding="utf-8")
    worker.write_text(script.replace("const FILES = [];", f"const FILES = {json.dumps(names)};"), encoding="utf-8")


def _write_page(site: Path) -> None:
    page = resources.files("crnn.serving") / "page"
    for name in _PAGE:
        (site / name).write_bytes((page / name).read_bytes())
    html = (page / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    html = html.replace('<meta name="color-scheme"', f'{policy}\n<meta name="color-scheme"')
    html = html.replace("<script src", '<script src="local.js" type="module"></script>\n<script src')
    (site / "index.html").write_text(html, encoding="utf-8")
