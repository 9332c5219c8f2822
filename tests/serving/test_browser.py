"""Both pages in Chromium: images in, readings out, nothing asked of another host, nothing on the console."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("starlette", reason="the service needs crnn[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")

import crnn  # noqa: E402
from crnn.serving.app import create_app  # noqa: E402
from crnn.serving.site import write_site  # noqa: E402

from .conftest import served  # noqa: E402

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNTIME = ROOT / "node_modules"
WORDS = ("Harbour", "STOP", "42 km", "café", "Open daily")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of drawn words."""
    folder = tmp_path_factory.mktemp("drawn")
    face = next((ROOT / "src/crnn/synth/faces").glob("open-sans/*.ttf"))
    for number, word in enumerate(WORDS):
        image = Image.new("RGB", (40 + 24 * len(word), 60), "white")
        ImageDraw.Draw(image).text((12, 6), word, fill="#223", font=ImageFont.truetype(str(face), 36))
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """A function that opens an address; afterwards there was no request to another host, and no complaint."""
    contexts, complaints, hosts = [], [], set()

    def open_at(address, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url[:8] else None)
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(host.startswith("127.0.0.1:") for host in hosts)


@pytest.fixture(scope="module")
def service():
    with served(create_app(crnn.load(), name="crnn-small")) as client:
        yield f"http://127.0.0.1:{client.port}/"


@contextmanager
def static(folder):
    """Serve files on a free port; yield the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def texts(page):
    return page.locator(".text:not(.nothing)").all_inner_texts()


def read(page, files, count):
    page.set_input_files("#files", files)
    page.locator("#status", has_text=f"{count} image{'s' * (count > 1)} read.").wait_for()
    return texts(page)


def downloaded(page, button):
    with page.expect_download() as waiting:
        page.click(button)
    return Path(waiting.value.path()).read_text(encoding="utf-8")


def test_the_lines_of_a_photo_are_found_by_row_and_other_files_named(open_page, images, tmp_path):
    parts = [Image.open(images[n]) for n in (0, 1, 4)]
    photo, corners = Image.new("RGB", (700, 200), "white"), ((20, 20), (450, 22), (20, 120))
    for part, corner in zip(parts, corners, strict=True):
        photo.paste(part, corner)
    photo.save(tmp_path / "photo.png")
    (tmp_path / "note.txt").write_text("no image")
    sizes = [(x, y, x + part.width, y + part.height) for part, (x, y) in zip(parts, corners, strict=True)]
    boxes = np.array([[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in sizes])
    with served(create_app(crnn.load(), name="crnn-small", detector=lambda _: boxes)) as client:
        page = open_page(f"http://127.0.0.1:{client.port}/")
        page.locator("#lines").wait_for()
        assert read(page, [tmp_path / "photo.png", tmp_path / "note.txt"], 1) == ["Harbour\nSTOP", "Open daily"]
        assert page.locator("polygon").count() == 3
        assert page.inner_text("#left-out") == "Left out, as no image: note.txt"
        page.uncheck("#lines")
        page.locator("polygon").first.wait_for(state="detached")
        assert page.locator(".item rect").count() > 0  # one reading of the whole image


def test_images_are_read_edited_and_saved(service, open_page, images):
    page = open_page(service)
    expected = [reading.text for reading in crnn.load(n_best=3).read(images)]
    assert read(page, images, 5) == expected
    values = json.loads(downloaded(page, "#json"))
    assert [(value["image"], value["text"]) for value in values] == [
        (f"{n}.png", text) for n, text in enumerate(expected)
    ]
    assert len(values[0]["alternatives"]) == 2
    rows = [line.split("\t") for line in downloaded(page, "#tsv").splitlines()]
    assert [row[:2] for row in rows] == [[f"{n}.png", text] for n, text in enumerate(expected)]
    assert page.locator(".item").first.locator("rect").count() == len(expected[0])  # the places of its characters

    first = page.locator(".item").first
    first.get_by_text("Turn right").click()
    first.locator(".note", has_text="turned").wait_for()  # a line of 60 x 208 pixels
    first.get_by_text("Turn left").click()
    first.locator(".text", has_text=expected[0]).wait_for()

    page.click("summary")
    page.fill("#lexicon", "Harbour\nStopped")
    page.click("text=Read again")
    page.locator(".item").nth(1).locator(".text", has_text="Stopped").wait_for()
    assert set(texts(page)) <= {"Harbour", "Stopped"}
    page.click("#clear")
    assert page.locator(".item").count() == 0


def test_a_line_is_cropped_by_keyboard_alone(service, open_page, images):
    page = open_page(service)
    (whole,) = read(page, images[-1], 1)
    assert whole == "Open daily"
    page.get_by_label("Crop: 4.png").focus()
    page.keyboard.press("Enter")
    page.locator("#crop[open]").wait_for()
    page.locator("#crop-w").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("118")
    page.keyboard.press("Enter")
    page.locator(".text", has_text=re.compile("^Open$")).wait_for()
    assert page.locator("*:focus").get_attribute("aria-label") == "Crop: 4.png"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Remove
    assert page.locator(".item").count() == 0
    assert page.locator("*:focus").get_attribute("id") == "choose"


def test_everything_can_be_reached_and_has_a_name(service, open_page, images):
    page = open_page(service)
    read(page, images[:2], 2)
    page.click("summary")
    unnamed = page.locator("button, input:visible, textarea:visible, meter, img").evaluate_all(
        "all => all.filter(node => !(node.ariaLabel || node.textContent.trim() || node.alt || node.labels?.length))"
        ".map(node => node.outerHTML)"
    )
    assert unnamed == []
    reached = set()
    for _ in range(40):  # beyond the last one, the page itself has the focus
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate_handle("document.activeElement").evaluate("node => node.id || node.textContent.trim()")
        )
    assert {"choose", "photo", "language", "lexicon", "pattern", "count", "copy", "tsv", "json", "clear"} <= reached
    assert {"Turn left", "Turn right", "Crop", "Copy", "Remove"} <= reached


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark"), (320, "light")])
def test_nothing_is_wider_than_the_screen(service, open_page, images, width, scheme):
    page = open_page(service, viewport={"width": width, "height": 800}, color_scheme=scheme)
    read(page, images, 5)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if "CRNN_SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["CRNN_SCREENSHOTS"]) / f"{width}-{scheme}.png", full_page=True)


def test_a_dropped_and_a_pasted_image(service, open_page, images):
    page = open_page(service)
    data = list(images[1].read_bytes())
    page.evaluate(
        """data => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(data)], "drop.png", {type: "image/png"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, bubbles: true}));
        }""",
        data,
    )
    page.locator("#status", has_text="2 images read.").wait_for()
    assert texts(page) == ["STOP", "STOP"]


def test_what_is_wrong_is_said(browser, service, images):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(service)
        page.click("summary")
        page.fill("#pattern", "(")
        page.set_input_files("#files", [images[0]])
        page.locator("#problem", has_text="no regular expression").wait_for()
        page.fill("#pattern", "")
        page.click("text=Read again")
        page.locator("#status", has_text="1 image read.").wait_for()
        damaged = {"name": "x.png", "mimeType": "image/png", "buffer": images[1].read_bytes()[:100]}
        page.set_input_files("#files", [damaged])
        page.locator("#status", has_text="2 images read, 1 cannot be.").wait_for()
        assert "cut short" in page.locator(".note").inner_text()


def test_a_token_is_asked_for_on_the_page(browser, images):
    with served(create_app(crnn.load(), token="open-sesame-open")) as client, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.locator("#token-field").wait_for()
        page.fill("#token", "open-sesame-open")
        page.keyboard.press("Tab")
        assert read(page, images[1], 1) == ["STOP"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not (RUNTIME / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not here: make node_modules")
    folder = tmp_path_factory.mktemp("site") / "page"
    write_site("crnn-small", folder, str(RUNTIME))
    return folder


def test_the_static_page_reads_as_the_package_does_and_offline(site, open_page, images):
    with static(site) as address:
        page = open_page(address)
        reader = crnn.load(site / "model.onnx", engine="onnx", n_best=3)
        expected = reader.read(images)
        assert read(page, images, 5) == [reading.text for reading in expected]
        values = json.loads(downloaded(page, "#json"))
        assert [v["confidence"] for v in values] == pytest.approx([r.confidence for r in expected], abs=0.03)
        assert [v["warning"] for v in values] == [r.warning for r in expected]
        assert [v["score"] for v in values] == pytest.approx([r.score for r in expected], abs=0.01)
        for value, reading in zip(values, expected, strict=True):
            assert [c["start"] for c in value["characters"]] == pytest.approx(
                [c.start for c in reading.characters], abs=0.2
            )
        page.click("summary")
        page.uncheck("#language")
        page.fill("#count", "1")
        page.click("text=Read again")
        page.locator(".others").first.wait_for(state="detached")
        page.locator("#status", has_text="5 images read.").wait_for()
        assert texts(page) == [r.text for r in crnn.load(site / "model.onnx", engine="onnx", lm="none").read(images)]
        page.evaluate("navigator.serviceWorker.ready")
    page.reload()  # now there is no server
    assert read(page, images[1:2], 1) == ["STOP"]


def test_the_static_page_reads_colored_and_quoted_words(site, open_page, tmp_path):
    face = ImageFont.truetype(str(next((ROOT / "src/crnn/synth/faces").glob("open-sans/*.ttf"))), 36)
    image = Image.new("RGB", (208, 60), (60, 128, 60))  # as bright as the letters
    ImageDraw.Draw(image).text((12, 6), "Harbour", fill=(200, 60, 40), font=face)
    patches = np.random.default_rng(0).integers(-40, 40, (8, 26)).repeat(8, axis=0)[:60].repeat(8, axis=1)
    image = Image.fromarray((np.asarray(image) + patches[:, :, None]).clip(0, 255).astype(np.uint8))
    image.save(tmp_path / "colored.png")
    image.putalpha(254)
    image.save(tmp_path / "transparent.png")
    quoted = Image.new("RGB", (240, 60), "white")
    ImageDraw.Draw(quoted).text((12, 6), "'Harbour'", fill="#223", font=face)
    quoted.save(tmp_path / "quoted.png")
    files = sorted(tmp_path.iterdir())
    reader = crnn.load(site / "model.onnx", engine="onnx")
    expected = reader.read(files)
    assert reader.read(image.convert("L")).text != "Harbour"
    with static(site) as address:
        page = open_page(address)
        assert read(page, files, 3) == ["Harbour", "'Harbour'", "Harbour"]
        values = json.loads(downloaded(page, "#json"))
    assert [v["score"] for v in values] == pytest.approx([r.score for r in expected], abs=0.01)
    assert [v["confidence"] for v in values] == pytest.approx([r.confidence for r in expected], abs=0.03)


def crops(count):
    folder = os.environ.get("CRNN_CROPS")
    files = sorted(path for path in Path(folder or "none").rglob("*") if path.suffix in (".png", ".jpg"))
    if len(files) < count:
        pytest.skip(f"CRNN_CROPS names no folder with {count} real crops")
    return files[:: len(files) // count][:count]


@pytest.mark.parametrize("language", [True, False])
def test_real_crops_in_the_browser_and_here(site, open_page, language):
    files = crops(200)
    reader = crnn.load(site / "model.onnx", engine="onnx", lm="auto" if language else "none")
    expected = [reading.text for reading in reader.read(files)]
    with static(site) as address:
        page = open_page(address)
        page.set_default_timeout(300_000)
        page.click("summary")
        page.fill("#count", "1")
        page.set_checked("#language", language)
        read(page, files, 200)
        found = [value["text"] for value in json.loads(downloaded(page, "#json"))]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 196


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "nowhere"}, "--runtime nowhere: has no ort.wasm.min.mjs"),
        ({"model": "absent"}, "model 'absent' is no weights file"),
    ],
)
def test_a_site_that_cannot_be_written(arguments, message, tmp_path):
    if not (RUNTIME / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not here: make node_modules")
    given = {"model": "crnn-small", "runtime": str(RUNTIME)} | arguments
    with pytest.raises(crnn.errors.CrnnError, match=message):
        write_site(given["model"], tmp_path / "site", given["runtime"])
    assert list(tmp_path.iterdir()) == []
