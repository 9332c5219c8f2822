"""tools/ship_weights.py: what it refuses, before anything is written."""

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["crnn-small", "other", "--keep-int8"], "do not both exist"),
        (["crnn-vgg", "crnn-small", "--keep-int8"], "crnn-small.safetensors has other numbers"),
        (["crnn-small", "crnn-vgg", "--keep-int8"], "crnn-vgg.int8.onnx was not made from crnn-vgg.safetensors"),
        (["crnn-small", "../other"], "expected one without a folder"),
        (["nothing", "other"], "nothing"),
        (["crnn-small", "other", "--image", "[1]"], "no JSON object"),
        (["crnn-small", "other", "--image", '{"resizee": "squash"}'], "resizee"),
    ],
)
def test_nothing_is_written_where_it_cannot_be_right(arguments, said, tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "tools" / "ship_weights.py"))["main"]
    shipped, folder = ROOT / "src" / "crnn" / "weights", tmp_path / "weights"
    folder.mkdir()
    for name in ("crnn-small.safetensors", "crnn-small.int8.onnx"):
        shutil.copy(shipped / name, folder / name)
        shutil.copy(shipped / name, folder / name.replace("small", "vgg"))  # its int8 form is of other weights
    (folder / "crnn-vgg.safetensors").write_bytes((shipped / "crnn-vgg.safetensors").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setitem(main.__globals__, "FOLDER", folder)
    monkeypatch.setattr("sys.argv", ["ship_weights.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
