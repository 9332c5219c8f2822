"""``scripts/fonts.py``: the list, and fetching without a network."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest
from fontTools.ttLib import TTFont

from crnn.synth.face_glyphs import shipped_folder

ROOT = Path(__file__).parents[1]
OSWALD = shipped_folder() / "oswald" / "oswald-latin-400-normal.ttf"
Printed = pytest.CaptureFixture[str]
NPM = """#!{python}
import pathlib, shutil, sys
assert sys.argv[1:3] == ["pack", "--silent"], sys.argv
name = sys.argv[3].rpartition("@")[0].rpartition("/")[2]
source = pathlib.Path({archives!r}) / (name + ".tgz")
if not source.exists():
    sys.exit("npm error 404 Not Found")
with (pathlib.Path({archives!r}) / "calls").open("a") as calls:
    calls.write(name + "\\n")
shutil.copy(source, name + "-1.2.3.tgz")
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fonts_script", ROOT / "scripts" / "fonts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages that a stand-in for npm gives out: one good, one with a damaged font, one with a reserved name."""
    place = tmp_path / "archives"
    place.mkdir()
    web = io.BytesIO()
    with TTFont(OSWALD) as font:
        font.flavor = "woff2"
        font.save(web)
    free, reserved = "SIL OPEN FONT LICENSE", "Copyright X, with Reserved Font Name 'X'"
    for name, font_bytes, licence in (("good", web.getvalue(), free), ("bad", b"wOF2 no font", free),
                                      ("mine", web.getvalue(), reserved)):  # fmt: skip
        files = {"files/a-latin-400.woff2": web.getvalue(), "files/b-latin-700.woff2": font_bytes,
                 "files/c-greek-400.woff2": web.getvalue(), "LICENSE": licence.encode(), "index.js": b"x"}  # fmt: skip
        with tarfile.open(place / f"{name}.tgz", "w:gz") as tar:
            for path, content in files.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "npm").write_text(NPM.format(python=sys.executable, archives=str(place)))
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return place


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fonts.py", *map(str, arguments)])
    return int(script.main())


def font_list(tmp_path: Path, *names: str, ships: str = "") -> Path:
    path = tmp_path / "list.tsv"
    rows = [f"npm\t@fontsource/{name}\t1.2.3\tOFL-1.1\t*-latin-*.woff2\t{ships}\n" for name in names]
    path.write_text("# a remark\n" + "".join(rows))
    return path


def test_the_list_names_sources_versions_and_free_licences(script: ModuleType) -> None:
    packages = script.read_list(script.LIST)
    rows = [row for rows in packages.values() for row in rows]
    assert len(packages) > 150
    assert all(row.version and row.licence and row.files for row in rows)
    free = ("OFL", "Apache-2.0", "font exception", "MIT", "BSD", "public domain", "CC0", "Unlicense", "permissive")
    assert not [row for row in rows if not any(word in row.licence for word in free) and "ParaType" not in row.licence]
    assert len({(row.package, row.files) for row in rows}) == len(rows)


def test_what_ships_is_what_the_list_says(script: ModuleType) -> None:
    listed = [row for rows in script.read_list(script.LIST).values() for row in rows if row.ships]
    assert {row.package.rpartition("/")[2] for row in listed} == {
        p.name for p in shipped_folder().iterdir() if p.is_dir()
    }
    for row in listed:
        names = [
            path.with_suffix(".woff2") for path in (shipped_folder() / row.package.rpartition("/")[2]).glob("*.ttf")
        ]
        assert len(names) == len(row.ships)
        assert all(script.matches(PurePosixPath(name.name), row.ships) for name in names)


def test_the_last_pattern_that_fits_decides(script: ModuleType) -> None:
    patterns = ("*.ttf", "!*Math*", "NiceMath.ttf")
    assert script.matches(PurePosixPath("usr/share/A.ttf"), patterns)
    assert not script.matches(PurePosixPath("usr/share/AMath.ttf"), patterns)
    assert script.matches(PurePosixPath("NiceMath.ttf"), patterns)
    assert not script.matches(PurePosixPath("A.otf"), patterns)
    assert script.matches(PurePosixPath("./usr/opentype/adobe/A.otf"), ("opentype/adobe/*",))


def test_fonts_and_licences_are_fetched_once(
    script: ModuleType,
    archives: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = font_list(tmp_path, "good", "bad")
    assert run(script, monkeypatch, "--list", names, "--out", tmp_path / "fonts", "--jobs", 1) == 0
    good = tmp_path / "fonts" / "fontsource-good"
    assert {path.name for path in good.iterdir()} == {"a-latin-400.ttf", "b-latin-700.ttf", "LICENSE.txt", ".fetched"}
    assert (good / "a-latin-400.ttf").read_bytes()[:4] == b"\0\1\0\0"
    said = capsys.readouterr()
    assert "3 font files" in said.out
    assert "2 fetched, 0 already there, 0 failed; 1 files skipped" in said.out
    assert "skipped b-latin-700.woff2" in said.err
    assert run(script, monkeypatch, "--list", names, "--out", tmp_path / "fonts") == 0
    assert "0 fetched, 2 already there" in capsys.readouterr().out
    assert (archives / "calls").read_text().split() == ["good", "bad"]


def test_a_package_that_is_not_there_fails_alone_and_leaves_nothing(
    script: ModuleType,
    archives: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = font_list(tmp_path, "nowhere", "good")
    assert run(script, monkeypatch, "--list", names, "--out", tmp_path / "fonts") == 1
    said = capsys.readouterr().out
    assert "1 fetched, 0 already there, 1 failed" in said
    assert "failed: npm @fontsource/nowhere" in said
    assert "404 Not Found" in said
    assert [path.name for path in (tmp_path / "fonts").iterdir()] == ["fontsource-good"]


def test_a_missing_program_is_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(script, monkeypatch, "--list", font_list(tmp_path, "good"), "--out", tmp_path / "fonts") == 1
    assert "needs npm, which is not here" in capsys.readouterr().out


def test_a_reserved_name_does_not_ship(
    script: ModuleType, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHIPPED", tmp_path / "faces")
    assert run(script, monkeypatch, "--ship", "--list", font_list(tmp_path, "good", ships="*-latin-400.woff2")) == 0
    assert {path.name for path in (tmp_path / "faces" / "good").iterdir()} == {"a-latin-400.ttf", "LICENSE.txt"}
    with pytest.raises(SystemExit, match="mine: declares a reserved font name"):
        run(script, monkeypatch, "--ship", "--list", font_list(tmp_path, "mine", ships="*-latin-400.woff2"))
    assert not (tmp_path / "faces" / "mine").exists()
