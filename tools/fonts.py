"""Fetch the font families of ``tools/fonts.tsv`` from Debian's font packages and npm's ``@fontsource`` packages.

    make fonts                                  into fonts/, some hundred MB
    python tools/fonts.py --out DIR --jobs 4

Needs no root: packages are downloaded and unpacked, not installed. What is there already is not fetched again, so a
run that was stopped goes on where it was. Each package's folder holds its fonts and its licence.

    python tools/fonts.py --ship              writes the faces that come with crnn: src/crnn/synth/faces
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

LIST = Path(__file__).with_suffix(".tsv")
SHIPPED = Path(__file__).parents[1] / "src" / "crnn" / "synth" / "faces"
FONT_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc", ".woff", ".woff2"}
LICENCE_NAMES = {"license", "licence", "copyright", "license.txt", "ofl.txt"}
DONE = ".fetched"


class FetchError(Exception):
    """A package could not be had; the message is one line."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list: some files of a package that are under one licence."""

    source: str
    package: str
    version: str
    licence: str
    files: tuple[str, ...]
    ships: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a package."""

    fonts: int = 0
    skipped: tuple[str, ...] = ()
    fetched: bool = False
    note: str = ""


def read_list(path: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows of the list by source and package; lines that begin with # are remarks."""
    rows: dict[tuple[str, str], list[Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader((line for line in file if line.strip() and not line.startswith("#")), delimiter="\t")
        for line in lines:
            if len(line) != 6 or line[0] not in {"debian", "npm"}:
                raise SystemExit(
                    f"{path}: expected source (debian or npm), package, version, licence, files, ships; got {line}"
                )
            source, package, version, licence, files, ships = line
            row = Row(source, package, version, licence, tuple(files.split()), tuple(ships.split()))
            rows.setdefault((source, package), []).append(row)
    return rows


# --- packages ---------------------------------------------------------------------------------------------------------


def download(source: str, package: str, version: str, into: Path) -> Path:
    """The archive of a package, by the source's own program; the listed version for npm, Debian's present one."""
    if source == "debian":
        command = ["apt-get", "download", "-q", package]
    else:
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
    if shutil.which(command[0]) is None:
        raise FetchError(f"needs {command[0]}, which is not here")
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    archives = sorted(into.iterdir())
    if done.returncode or len(archives) != 1:
        said = (done.stderr.strip() or done.stdout.strip() or "no archive").splitlines()
        raise FetchError(f"{' '.join(command)}: {said[-1][:200]}")
    return archives[0]


def members(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the plain files of an archive that are fonts or licences."""
    if archive.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from _wanted(tar)
        if process.returncode:
            raise FetchError(f"dpkg-deb could not unpack {archive.name}")
    else:
        with tarfile.open(archive) as tar:
            yield from _wanted(tar)


def _wanted(tar: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, bytes]]:
    for member in tar:
        name = PurePosixPath(member.name)
        if member.isfile() and (name.suffix.lower() in FONT_SUFFIXES or name.name.lower() in LICENCE_NAMES):
            file = tar.extractfile(member)
            assert file is not None
            yield name, file.read()


def as_sfnt(content: bytes) -> bytes:
    """A font as TrueType or OpenType; web fonts are unwrapped, nothing else changes."""
    from fontTools.ttLib import TTFont

    if content[:4] not in {b"wOFF", b"wOF2"}:
        return content
    plain = io.BytesIO()
    with TTFont(io.BytesIO(content), recalcTimestamp=False) as font:
        font.flavor = None
        font.save(plain)
    return plain.getvalue()


def matches(name: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether a path is meant by patterns as in a .gitignore: the last that fits decides, ``!`` takes out."""
    chosen = False
    for pattern in patterns:
        if fnmatch(f"/{name}", f"*/{pattern.removeprefix('!')}"):
            chosen = not pattern.startswith("!")
    return chosen


def fetch(rows: list[Row], folder: Path, files: dict[Row, tuple[str, ...]]) -> Outcome:
    """Put some files of a package and its licence into ``folder``, all or nothing."""
    wanted = repr([(row.version, row.licence, files[row]) for row in rows])
    stamp = hashlib.sha256(wanted.encode()).hexdigest()
    marker = folder / DONE
    if marker.is_file() and marker.read_text(encoding="utf-8").split("\n")[0] == stamp:
        return Outcome(fonts=sum(1 for path in folder.iterdir() if path.suffix in {".ttf", ".otf", ".ttc"}))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        archives, new = Path(name) / "archive", Path(name) / "new"
        archives.mkdir()
        new.mkdir()
        archive = download(rows[0].source, rows[0].package, rows[0].version, archives)
        skipped = []
        fonts = 0
        for path, content in members(archive):
            if path.suffix.lower() not in FONT_SUFFIXES:
                (new / f"{path.name.split('.')[0].upper()}.txt").write_bytes(content)
            elif any(matches(path, files[row]) for row in rows):
                try:
                    plain = as_sfnt(content)
                except Exception as error:
                    skipped.append(f"{path.name}: {type(error).__name__}: {error}")
                    continue
                suffix = ".ttc" if plain[:4] == b"ttcf" else ".otf" if plain[:4] == b"OTTO" else ".ttf"
                (new / f"{path.stem}{suffix}").write_bytes(plain)
                fonts += 1
        if not fonts:
            raise FetchError(f"no file of {archive.name} fits {[files[row] for row in rows]}")
        (new / DONE).write_text(f"{stamp}\n{archive.name}\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    other = (
        ""
        if rows[0].version in archive.name.replace("%3a", ":")
        else f"{archive.name} instead of the listed {rows[0].version}"
    )
    return Outcome(fonts=fonts, skipped=tuple(skipped), fetched=True, note=other)


# --- the commands -----------------------------------------------------------------------------------------------------


def fetch_all(packages: dict[tuple[str, str], list[Row]], out: Path, jobs: int) -> int:
    """Fetch everything into a folder for each package; 0 when all went well."""
    totals: Counter[str] = Counter()
    failed: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {
            pool.submit(fetch, rows, out / package.replace("/", "-").removeprefix("@"), {r: r.files for r in rows}): (
                source,
                package,
            )
            for (source, package), rows in packages.items()
        }
        for number, future in enumerate(as_completed(waiting), start=1):
            source, package = waiting[future]
            try:
                outcome = future.result()
            except (FetchError, OSError, tarfile.TarError) as error:
                failed.append(f"{source} {package}: {error}")
                print(f"[{number}/{len(waiting)}] {package}: FAILED: {error}", file=sys.stderr)
                continue
            totals["fonts"] += outcome.fonts
            totals["fetched" if outcome.fetched else "already there"] += 1
            totals["skipped files"] += len(outcome.skipped)
            print(
                f"[{number}/{len(waiting)}] {package}: {outcome.fonts} fonts {outcome.note}".rstrip(), file=sys.stderr
            )
            for line in outcome.skipped:
                print(f"    skipped {line}", file=sys.stderr)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    print(
        f"{out}: {totals['fonts']} font files, {size:.0f} MB; packages: {totals['fetched']} fetched, "
        f"{totals['already there']} already there, {len(failed)} failed; {totals['skipped files']} files skipped"
    )
    for line in failed:
        print(f"  failed: {line}")
    return 1 if failed else 0


def ship(packages: dict[tuple[str, str], list[Row]], out: Path) -> int:
    """Write the faces that come with the package, and refuse those whose licence forbids it."""
    for (_, package), rows in packages.items():
        if not any(row.ships for row in rows):
            continue
        folder = out / package.rpartition("/")[2]
        outcome = fetch(rows, folder, {row: row.ships for row in rows})
        (folder / DONE).unlink(missing_ok=True)
        licence = " ".join((folder / "LICENSE.txt").read_text(encoding="utf-8").split()).lower()
        # Another container makes a modified version, which must not bear a reserved name. The licence's own text says
        # "reserved font name" too, without "with" before it.
        if "with reserved font name" in licence and "with reserved font name <" not in licence:
            shutil.rmtree(folder)
            raise SystemExit(f"{package}: declares a reserved font name, so its files must not be changed")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder.name}: {outcome.fonts} faces, {size / 1024:.0f} kB, {rows[0].licence}")
    return 0


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fonts"), help="folder to write (default: fonts)")
    parser.add_argument("--list", type=Path, default=LIST, help="the list (default: tools/fonts.tsv)")
    parser.add_argument("--jobs", type=int, default=4, help="packages at a time (default: 4)")
    parser.add_argument("--ship", action="store_true", help="write the faces that come with crnn instead")
    arguments = parser.parse_args()
    packages = read_list(arguments.list)
    if arguments.ship:
        return ship(packages, SHIPPED)
    return fetch_all(packages, arguments.out, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
