"""A model as a repository of the Hugging Face Hub: weights, ONNX file, and a card of what the weights know."""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crnn.config.section import checked_call
from crnn.errors import CheckpointError, ConfigError, DataError, printable
from crnn.export import export
from crnn.files import check_free
from crnn.model.hub import WEIGHTS_FILE, explained, import_hub
from crnn.model.weights import Weights, read_weights, shipped_weights, with_info

ONNX_FILE = "model.onnx"
_METRICS = {"accuracy": "accuracy", "cer": "cer", "one_minus_ned": "1-NED"}  # keys of an evaluation, names on the hub
_RUN = ("train.batch_size", "optim.optimizer", "optim.learning_rate", "train.num_steps")


@checked_call
def push(
    model: str | Path,
    repository: str,
    *,
    private: bool = False,
    license: str = "",  # noqa: A002 - as the card has it
    results: Sequence[str] = (),
    dry_run: str | Path | None = None,
) -> str:
    """Upload a model to ``OWNER/NAME`` in one commit, so that ``crnn.load("hf://OWNER/NAME")`` reads with it.

    Absolute paths in what the weights say of their making are cut to names.

    Args:
        model: Name of shipped weights, a weights file, or a run folder.
        repository: ``OWNER/NAME``; it is made where there is none.
        private: Make it a private one.
        license: Identifier of the license of the weights, such as ``apache-2.0``; that of shipped weights is known.
        results: Files with the JSON of ``crnn evaluate``, for the card.
        dry_run: Folder, new or empty, to write the files in; nothing is uploaded.

    Returns:
        Address of the commit, or the folder.

    Raises:
        ConfigError: The repository's name is none.
        CheckpointError: The weights cannot be read, or the hub refuses.
        DataError: A file of results is none, or the folder is not empty.
        MissingExtraError: ``huggingface_hub`` is not installed.
    """
    hub = import_hub("crnn push")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
        raise ConfigError(f"repository {repository!r}: expected OWNER/NAME, of letters, digits, - _ and .")
    if dry_run is None and hub.get_token() is None:
        raise CheckpointError(f"{repository}: there is no token; log in with: hf auth login, or set HF_TOKEN")
    if dry_run is not None:
        check_free(dry_run)
    weights = read_weights(model)
    evaluations = [e for e in (weights.info.get("validation"), *map(_results, results)) if e]
    named = license or ("apache-2.0" if shipped_weights(str(model)) else "")
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / WEIGHTS_FILE).write_bytes(with_info(weights.path, _without_folders(weights.info)))
        export(files / WEIGHTS_FILE, files / ONNX_FILE)
        card = _card(hub, repository, weights, evaluations, named)
        (files / "README.md").write_text(card, encoding="utf-8")
        if dry_run is not None:
            shutil.copytree(files, dry_run, dirs_exist_ok=True)
            return str(dry_run)
        api = hub.HfApi(library_name="crnn")
        try:
            api.create_repo(repository, private=private or None, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=files, commit_message="Upload with crnn push")
        except Exception as error:  # as in crnn.model.hub
            raise explained(hub, error, repository) from error
    return str(commit.commit_url)


def _results(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        "".join([found["protocol"], *(row["name"] for row in found["datasets"])]).encode()  # texts, and there
        for row in found["datasets"]:
            for key in _METRICS:
                if row.get(key) is not None and not (type(row[key]) in (int, float) and math.isfinite(row[key])):
                    raise ValueError(f"{key} is {row[key]!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"--results {path}: is not the JSON of crnn evaluate --json ({error!r})") from error
    return dict(found)


def _without_folders(value: Any) -> Any:
    """Cut paths that say how a machine and its user are called to their names; also behind ``NAME=``."""
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    name, equals, path = value.rpartition("=")
    is_path = re.match(r"[~/\\]|\.\.[/\\]|[A-Za-z]:[/\\]|file:", path)
    return name + equals + re.split(r"[/\\]", path.rstrip("/\\"))[-1] if is_path else value


def _cell(value: Any) -> str:
    """Return a value for a line of Markdown, without markup of its own."""
    return re.sub(r"([|<`\\])", r"\\\1", printable(str(value)))


def _card(hub: Any, repository: str, weights: Weights[Any], evaluations: list[dict[str, Any]], named: str) -> str:
    name = repository.partition("/")[2]
    figures = [(one, row) for one in evaluations for row in one["datasets"]]
    data = hub.ModelCardData(
        license=named or None,
        library_name="crnn",
        pipeline_tag="image-to-text",
        tags=["ocr", "text-recognition", "crnn", "ctc", "onnx"],
        model_name=name if figures else None,
        eval_results=None if not figures else [
            hub.EvalResult(
                task_type="image-to-text", task_name="Text recognition", dataset_type=row["name"],
                dataset_name=row["name"], metric_type=metric, metric_name=f"{metric}, protocol {one['protocol']}",
                metric_value=row[key],
            )
            for one, row in figures
            for key, metric in _METRICS.items()
            if row.get(key) is not None
        ],
    )  # fmt: skip
    sections = [f"---\n{data.to_yaml()}\n---", f"# {name}", *_body(repository, weights, evaluations)]
    return "\n\n".join(sections) + "\n"


def _body(repository: str, weights: Weights[Any], evaluations: list[dict[str, Any]]) -> Iterator[str]:
    config, info = weights.config, _without_folders(weights.info)
    charset = config.charset.charset()
    yield f"Reads images of a word or a line: a [CRNN](https://arxiv.org/abs/1507.05717), `{config.model.backbone}`."
    yield f'```python\nimport crnn  # pip install "crnn[hub]"\n\ncrnn.load("hf://{repository}").read("word.png").text\n```'
    yield (
        f"`{WEIGHTS_FILE}` has settings and characters in it; `{ONNX_FILE}` takes pixels as they are "
        f"(N, {config.image.image_channels}, {config.image.image_height}, W) and gives log-probabilities, blank last."
    )
    yield f"Characters ({len(charset.characters)}):\n\n```\n{charset.characters}\n```"
    settings = {
        f"{section}.{key}": value for section, keys in info.get("run", {}).items() for key, value in keys.items()
    }
    facts = {
        "language of readings": config.charset.language or "none",
        "unsure colored images": "read again by their chroma" if config.image.chroma_retry else None,
        "training data": ", ".join(map(str, info.get("data") or settings.get("data.train") or ())),
        "steps": info.get("step"), "samples seen": info.get("samples"), "hours": info.get("hours"),
        "hardware": info.get("hardware"), **{f"`{key}`": settings.get(key) for key in _RUN},
    }  # fmt: skip
    if imported := info.get("imported"):
        facts |= {
            "weights of": imported.get("source"), "their licence": imported.get("licence"),
            "SHA-256 of their file": imported.get("sha256"), "changes": "; ".join(imported.get("changes") or ()),
        }  # fmt: skip
    rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in facts.items() if value not in (None, ""))
    yield f"| training | |\n|---|---|\n{rows}".rstrip()
    for one in evaluations:
        table = (
            f"Protocol {_cell(one['protocol'])}:\n\n| set | samples | accuracy, % | CER, % |\n|---|---:|---:|---:|\n"
        )
        for row in one["datasets"]:
            values = (100 * row[key] if row.get(key) is not None else float("nan") for key in ("accuracy", "cer"))
            table += (
                f"| {_cell(row['name'])} | {_cell(row.get('samples', ''))} | "
                + " | ".join(f"{v:.2f}" for v in values)
                + " |\n"
            )
        yield table.rstrip()
    if (fitted := weights.calibration) is not None:
        curve = fitted.language or fitted.greedy
        yield f"Confidences: fitted on {curve.samples} readings, calibration error {100 * curve.error_after:.1f} %."
