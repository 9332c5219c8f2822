// The page: images in, readings out. What reads is `window.localReader` (in the browser) or the service at this address.

const $ = (id) => document.getElementById(id);
const ADVICE = {
  page: "This looks like a page or several lines: crop to one line, or find all lines where the page offers it.",
  turned: "This line looks turned: turn it.",
  too_wide: "This is longer than can be read at once: crop it into parts.",
  frames: "The file has several pages or frames; the first was read.",
};

/** Readings by HTTP. `readAll(images, options, say, each)` gives one result for each, `{text, ...}` or `{error}`, as it comes. */
const service = {
  headers() {
    const token = $("token").value.trim();
    return token ? { Authorization: `Bearer ${token}` } : {};
  },
  async info() {
    const answer = await fetch("info", { headers: this.headers() });
    if (answer.status === 401) { $("token-field").hidden = false; $("options").open = true; }
    const told = answer.ok ? await answer.json() : {};
    this.maxBytes = told.max_bytes ?? Infinity;
    return told;
  },
  /** Yield groups of at most so many images, whose bytes one request may hold. */
  *groups(images, most) {
    let group = [], bytes = 0;
    for (const image of images) {
      if (group.length && (group.length === most || bytes + image.blob.size > 0.9 * this.maxBytes)) {
        yield group;
        group = [];
        bytes = 0;
      }
      group.push(image);
      bytes += image.blob.size;
    }
    if (group.length) yield group;
  },
  async readAll(images, options, say, each) {
    let count = 0;
    const give = (results) => { for (const result of results) each(count++, result); };
    for (const group of this.groups(images, options.detect ? 1 : 16)) { // whole photos take long
      const form = new FormData();
      for (const [name, value] of Object.entries(options)) form.append(name, value);
      for (const { name, blob } of group) form.append("images", blob, name);
      const answer = await fetch("read", { method: "POST", body: form, headers: this.headers() })
        .catch(() => { throw new Error("The service does not answer; is it running?"); });
      const values = await answer.json().catch(() => ({ error: `the service answers with ${answer.status}` }));
      if (answer.status === 401) { $("token-field").hidden = false; $("options").open = true; }
      if (answer.status === 413 && group.length === 1) {
        give([{ error: `The image has more than the ${Math.floor(this.maxBytes / 2 ** 20)} MB that the service takes.` }]);
        continue;
      }
      if (!answer.ok) throw new Error(values.error);
      if (images.length > group.length) say(`${count + group.length} of ${images.length} images read …`);
      give(values.readings.map((of) => (of.lines ? { ...of, text: rowsOf(of.lines) } : of)));
    }
  },
};
const reader = window.localReader ?? service;

/** Texts of the lines of a photo, those of a row on one line. */
const rowsOf = (lines) => lines.map((line, k) => (k ? (line.row === lines[k - 1].row ? "\t" : "\n") : "") + line.text).join("");

/** Items: {name, blob (as given), shown (turned and cropped), url, size, result, node}. */
const items = [];
let number = 0;

function make(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function options() {
  const lines = !$("lines").parentElement.hidden && $("lines").checked;
  const given = lines ? { detect: "true" } : { n_best: String(Math.min(Math.max(Number($("count").value) || 1, 1), 10)) };
  if ($("lexicon").value.trim()) given.lexicon = $("lexicon").value;
  if ($("pattern").value) given.pattern = $("pattern").value;
  if (!$("language").checked) given.lm = "none";
  return given;
}

async function read(list) {
  if (!list.length) return;
  say(`Reading ${list.length} ${list.length === 1 ? "image" : "images"} …`);
  $("problem").hidden = true;
  for (const item of list) item.failed = false;
  try {
    const each = (k, result) => { list[k].result = result; show(list[k]); };
    await reader.readAll(list.map(({ name, shown }) => ({ name, blob: shown })), options(), say, each);
    const bad = done().filter((item) => item.result.error).length, right = done().length - bad;
    const told = `${right === items.length ? "" : `${right} of `}${items.length} ${items.length === 1 ? "image" : "images"} read`;
    say(`${told}${bad ? `, ${bad} cannot be` : ""}.`);
  } catch (error) {
    say("");
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    for (const item of list) { item.failed = true; if (!item.result) show(item); }
  }
}

function say(text) {
  $("status").textContent = text;
  $("bar").hidden = !items.length;
}

async function add(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  const others = [...files].filter((file) => !images.includes(file)).map((file) => file.name);
  $("left-out").textContent = `Left out, as no image: ${others.slice(0, 3).join(", ")}${others.length > 3 ? ", …" : ""}`;
  $("left-out").hidden = !others.length;
  if (!images.length) return;
  const added = images.map((file) => ({ name: file.name || `image ${++number}`, blob: file, shown: file, result: null }));
  for (const item of added) {
    items.push(item);
    item.node = make("li", { className: "item" });
    $("results").append(item.node);
    await refresh(item);
  }
  await read(added);
}

/** Show the image of an item anew. */
async function refresh(item) {
  if (item.url) URL.revokeObjectURL(item.url);
  item.url = URL.createObjectURL(item.shown);
  try {
    const bitmap = await createImageBitmap(item.shown);
    item.size = [bitmap.width, bitmap.height];
    bitmap.close();
  } catch { item.size = null; } // the browser cannot show it; the reader may
  show(item);
}

function show(item) {
  const result = item.result;
  const seen = make("div", { className: "seen" });
  if (item.size) {
    seen.style.width = `min(100%, ${(16 * item.size[0]) / item.size[1]}rem)`; // at most 16 rem high
    seen.append(make("img", { src: item.url, alt: `Image ${item.name}` }));
  } else seen.append(make("p", { className: "name", textContent: "This browser cannot show the image." }));
  const told = make("div");
  told.append(make("p", { className: "name", textContent: item.name }));
  if (!result) told.append(make("p", { className: "text nothing", textContent: item.failed ? "not read" : "…" }));
  else if (result.error) told.append(make("p", { className: "note", textContent: result.error }));
  else if (result.lines) describeLines(item, result, seen, told);
  else describe(item, result, seen, told);
  const edit = [["Turn left", () => turn(item, 3)], ["Turn right", () => turn(item, 1)], ["Crop", () => crop(item)]];
  const buttons = make("div", { className: "buttons" });
  for (const [label, act] of item.size ? edit : []) {
    buttons.append(make("button", { type: "button", textContent: label, onclick: act, ariaLabel: `${label}: ${item.name}` }));
  }
  if (result?.text) {
    const copy = () => navigator.clipboard.writeText(result.text).then(() => say("Copied."), () => say("Cannot be copied."));
    buttons.append(make("button", { type: "button", textContent: "Copy", onclick: copy, ariaLabel: `Copy: ${result.lines ? item.name : result.text}` }));
  }
  buttons.append(make("button", { type: "button", textContent: "Remove", ariaLabel: `Remove: ${item.name}`, onclick: () => remove(item) }));
  told.append(buttons);
  item.node.classList.toggle("long", item.size !== null && item.size[0] > 6 * item.size[1]);
  item.node.replaceChildren(seen, told);
}

/** Write text, confidence, other readings, and the places of the characters. */
function describe(item, result, seen, told) {
  const text = make("p", { className: "text", dir: "auto" });
  if (!result.text) { text.textContent = "no text"; text.classList.add("nothing"); }
  const places = item.size ? overlay(item, result, seen) : [];
  const same = result.characters.map((c) => c.text).join("") === result.text; // not from right to left
  if (same) {
    result.characters.forEach((character, k) => {
      const letter = make("span", { textContent: character.text, title: percent(Math.exp(character.score)) });
      letter.onpointerenter = () => places[k]?.classList.add("on");
      letter.onpointerleave = () => places[k]?.classList.remove("on");
      text.append(letter);
    });
  } else text.textContent = result.text;
  const sure = make("p", { className: "sure" });
  const meter = make("meter", { min: 0, max: 1, low: 0.5, high: 0.9, optimum: 1, value: result.confidence });
  meter.setAttribute("aria-label", "Confidence");
  sure.append(meter, percent(result.confidence));
  told.append(text, sure);
  if (result.warning) told.append(make("p", { className: "note", textContent: ADVICE[result.warning] ?? result.warning }));
  if (result.alternatives?.length) {
    const others = make("ul", { className: "others" });
    others.setAttribute("aria-label", "Other readings");
    for (const other of result.alternatives) {
      others.append(make("li", {}, make("bdi", { textContent: other.text || "no text" })));
    }
    told.append(others);
  }
}

/** Write the lines of a photo, and frame them in it. */
function describeLines(item, result, seen, told) {
  seen.classList.add("whole");
  const frames = item.size ? drawn(item, seen, "polygon", result.lines.map((line) => ({ points: line.box.join(" ") }))) : [];
  let row;
  result.lines.forEach((line, k) => {
    const text = make("span", { dir: "auto", textContent: line.text, title: percent(line.confidence) });
    text.classList.toggle("doubtful", line.confidence < 0.5);
    text.onpointerenter = () => frames[k]?.classList.add("on");
    text.onpointerleave = () => frames[k]?.classList.remove("on");
    if (!k || line.row !== result.lines[k - 1].row) told.append(row = make("p", { className: "text line" }));
    row.append(text);
  });
  if (!result.lines.length) told.append(make("p", { className: "text nothing", textContent: "no lines found" }));
}

function overlay(item, result, seen) {
  return drawn(item, seen, "rect", result.characters.map((character) => (
    { x: character.start, y: 0, width: Math.max(character.end - character.start, 1), height: item.size[1] })));
}

/** Draw shapes over an image, in its pixels. */
function drawn(item, seen, shape, all) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${item.size[0]} ${item.size[1]}`);
  svg.setAttribute("preserveAspectRatio", "xMinYMin meet"); // as object-fit and object-position of the image
  svg.setAttribute("aria-hidden", "true");
  const places = all.map((values) => {
    const place = document.createElementNS("http://www.w3.org/2000/svg", shape);
    for (const [name, value] of Object.entries(values)) place.setAttribute(name, value);
    svg.append(place);
    return place;
  });
  seen.append(svg);
  return places;
}

const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 1 : 0)} %`;

// ---- Turning and cropping

async function edited(item, width, height, draw) {
  const bitmap = await createImageBitmap(item.shown);
  const canvas = make("canvas", { width, height });
  draw(canvas.getContext("2d"), bitmap);
  bitmap.close();
  item.shown = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  item.result = null;
  await refresh(item);
  await read([item]);
}

async function turn(item, quarters) {
  const [width, height] = item.size;
  await edited(item, height, width, (context, bitmap) => {
    context.translate(quarters === 1 ? height : 0, quarters === 1 ? 0 : width);
    context.rotate((quarters * Math.PI) / 2);
    context.drawImage(bitmap, 0, 0);
  });
  item.node.querySelector(`button[aria-label^="${quarters === 1 ? "Turn right" : "Turn left"}"]`)?.focus();
}

async function crop(item) {
  const dialog = $("crop"), canvas = $("crop-canvas"), fields = ["x", "y", "w", "h"].map((k) => $(`crop-${k}`));
  const [width, height] = item.size;
  const bitmap = await createImageBitmap(item.shown);
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = `${Math.round(width * Math.min((0.85 * innerWidth - 64) / width, (0.5 * innerHeight) / height, 8))}px`;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  const frame = () => {
    let [x, y, w, h] = fields.map((field) => Math.round(Number(field.value) || 0));
    x = Math.min(Math.max(x, 0), width - 1);
    y = Math.min(Math.max(y, 0), height - 1);
    return [x, y, Math.min(Math.max(w, 1), width - x), Math.min(Math.max(h, 1), height - y)];
  };
  const paint = () => {
    const scale = canvas.clientWidth / width, [x, y, w, h] = frame();
    Object.assign($("crop-frame").style, {
      left: `${x * scale}px`, top: `${y * scale}px`, width: `${w * scale}px`, height: `${h * scale}px`,
    });
  };
  const set = (values) => { fields.forEach((field, k) => { field.value = Math.round(values[k]); }); paint(); };
  let start = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
  };
  const stage = $("crop-stage");
  stage.onpointerdown = (event) => { start = at(event); stage.setPointerCapture(event.pointerId); event.preventDefault(); };
  stage.onpointermove = (event) => {
    if (!start) return;
    const [x, y] = at(event);
    set([Math.min(x, start[0]), Math.min(y, start[1]), Math.abs(x - start[0]), Math.abs(y - start[1])]);
  };
  stage.onpointerup = () => { start = null; };
  for (const field of fields) field.oninput = paint;
  dialog.returnValue = "";
  dialog.showModal();
  set([0, 0, width, height]);
  dialog.onclose = async () => {
    const [x, y, w, h] = frame();
    if (dialog.returnValue === "keep" && (w < width || h < height)) {
      await edited(item, w, h, (context, image) => context.drawImage(image, x, y, w, h, 0, 0, w, h));
    }
    item.node.querySelector('button[aria-label^="Crop"]')?.focus();
  };
}

// ---- All of them

function remove(item) {
  const place = items.indexOf(item);
  items.splice(place, 1);
  URL.revokeObjectURL(item.url);
  item.node.remove();
  say(items.length ? `${items.length} left.` : "");
  (items[Math.min(place, items.length - 1)]?.node.querySelector("button") ?? $("choose")).focus();
}

const done = () => items.filter((item) => item.result);
const flat = (text) => text.replace(/[\t\r\n]+/g, " ");

function download(name, text, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

$("choose").onclick = () => $("files").click();
$("photo").onclick = () => $("camera").click();
for (const id of ["files", "camera"]) {
  $(id).onchange = async (event) => { const files = [...event.target.files]; event.target.value = ""; await add(files); };
}
$("form").onsubmit = (event) => { event.preventDefault(); read([...items]); };
$("lines").onchange = () => read([...items]);
$("copy").onclick = () => navigator.clipboard.writeText(done().map((item) => item.result.text ?? "").join("\n"))
  .then(() => say("Copied."), () => say("Cannot be copied."));
$("tsv").onclick = () => download("readings.tsv", done().flatMap((item) => (item.result.lines ?? [item.result]).map((of) =>
  `${flat(item.name)}\t${flat(of.text ?? "")}\t${of.error ? "" : of.confidence.toFixed(3)}\n`)).join(""),
  "text/tab-separated-values");
$("json").onclick = () => download("readings.json",
  JSON.stringify(done().map((item) => ({ image: item.name, ...item.result })), null, 1), "application/json");
$("clear").onclick = () => { for (const item of [...items]) remove(item); };
$("token").onchange = () => start();

document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) { event.preventDefault(); add(files); }
});

async function start() {
  const info = await reader.info();
  if (!info.model) return;
  const where = window.localReader
    ? "It reads on your machine: no image leaves it."
    : "Images go to this service alone, which keeps none.";
  const what = info.detect ? "Text from words, lines and whole photos" : "Text from images of single words and lines";
  $("about").textContent = `${what}. ${where} Model: ${info.model}.`;
  $("language").parentElement.hidden = info.language === "none";
  $("lines").parentElement.hidden = !info.detect;
  $("lines").checked = Boolean(info.detect);
  for (const id of ["lexicon", "pattern"]) $(id).parentElement.hidden = Boolean(window.localReader);
}
start();
