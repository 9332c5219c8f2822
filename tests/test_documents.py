"""What README, ARCHITECTURE and the other documents say is there is there."""

import re
import shlex
from pathlib import Path

import pytest

from crnn.cli import main
from crnn.config.model import ImageConfig, ModelConfig
from crnn.config.run import Config, preset_names

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def fenced(text, language=""):
    """The blocks of code in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(text):
    """Every ``crnn ...`` line of a document's blocks, in words; continued lines joined, comments left out."""
    lines = "\n".join(fenced(text, "[a-z]*")).replace("\\\n", " ").splitlines()
    pattern = re.compile(r"(?:\$ )?(?:\.venv/bin/|torchrun .*-m )?crnn +([^#]*)")
    return [shlex.split(found[1]) for line in lines if (found := pattern.match(line))]


def test_the_architecture_names_modules_that_exist():
    package = ROOT / "src" / "crnn"
    exist = {str(path.relative_to(package).with_suffix("")) for path in package.rglob("*")}
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+)`", ARCHITECTURE)) - {"data/formats/NAME"}
    path_of_reading = re.search(r"Eighteen files hold the idea.*?\n\n", ARCHITECTURE, re.DOTALL)[0]
    assert len(files := set(re.findall(r"`([a-z_/]+)`", path_of_reading))) == 18
    assert named | files <= exist


def test_the_commands_of_the_documents_exist(capsys):
    main(["--help"])
    commands = set(re.findall(r"^  (\w+) ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE))
    for document in DOCUMENTS:
        for line in command_lines(document.read_text(encoding="utf-8")):
            assert line[0] in commands, f"{document.name}: crnn {' '.join(line)}"
    assert {line[0] for line in command_lines(README)} == commands


@pytest.mark.parametrize("command", ["read", "evaluate"])
def test_the_flags_in_the_readme_exist(command, capsys):
    main([command, "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    used = {word.strip("[]") for line in command_lines(README) if line[0] == command for word in line if "--" in word}
    assert set() < used <= known


def test_the_training_commands_of_the_readme_have_settings_that_exist(capsys):
    shown = 0
    for line in command_lines(README):
        if line[0] == "train" and line[1] != "CONFIG":
            flags = [word for word in line[2:] if word != "--resume"]
            assert main(["config", "show", line[1], *flags]) == 0, capsys.readouterr().err
            shown += 1
    assert shown >= 4


def test_the_presets_are_those_that_the_documents_name():
    sentence = re.search(r"`CONFIG` is a TOML file or a preset: (.*?)\. `DATA`", README, re.DOTALL)
    assert set(re.findall(r"`([a-z-]+)`", sentence[1])) == set(preset_names())


@pytest.mark.parametrize("backbone", ["vgg", "small"])
def test_the_sizes_of_the_networks_are_those_of_the_readme(backbone):
    from crnn.model.crnn import build_model

    network = build_model(ModelConfig(backbone=backbone), ImageConfig(), 37, seed=0)
    millions = round(sum(p.numel() for p in network.parameters()) / 1e6, 2)
    assert float(re.search(rf"`{backbone}`.*?\(([\d.]+) M", README)[1]) == millions


def test_the_python_of_the_readme_runs(trained_run, tmp_path, monkeypatch):
    (program,) = fenced(README, "python")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "crnn-small").symlink_to(trained_run.folder)
    (tmp_path / "word.png").write_bytes((trained_run.words.parent / "images" / "1.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program, names)
    assert names["reading"].text == trained_run.labels[0]


def test_the_parameters_of_the_modelzoo_exist_here():
    text = (ROOT / "docs" / "modelzoo.md").read_text(encoding="utf-8")
    settings = {f"{s}.{key}" for s, field in Config.model_fields.items() for key in field.annotation.model_fields}
    named = set(re.findall(r"`((?:charset|image|train|model|optim|checkpoint|data)\.[a-z_]+)`", text))
    assert len(named) >= 15
    assert named <= settings


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("https://", "http://")):
            assert (document.parent / target).exists(), target


def shipped():
    """Every text file of the project, but for what is made and the history."""
    folders = ("src", "tests", "tools", "benchmarks", "examples", "docs", ".ci")
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    found += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in ("", ".md", ".toml", ".txt")]
    return sorted(p for p in found if "__pycache__" not in p.parts and ".egg-info" not in str(p) and p.suffix != ".pyc")


# A path of somebody's machine; those that every system has, such as /dev/null, are fine.
PLACE = re.compile(r"(?<![\w.~})\]/-])/(?:work|home|Users|root|mnt|tmp)/\w")


def test_no_file_speaks_of_the_place_where_it_was_written():
    assert PLACE.search("see /" + "home/somebody/crops")
    files = shipped()
    assert len(files) > 60
    bad = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        bad += [f"{path.relative_to(ROOT)}: {text[m.start() : m.start() + 40]!r}" for m in PLACE.finditer(text)]
    assert bad == []
