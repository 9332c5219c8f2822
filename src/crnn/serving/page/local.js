// Reading on the visitor's machine: ONNX Runtime Web computes the network, this file does the rest as the package does.

import * as ort from "./ort/ort.wasm.min.mjs";

const CACHED = { cache: "no-cache" }; // asks whether the file has changed; the service worker answers offline

// ---- Images: as in crnn.image

/** An image, upright and over its ground: `luma`, `colors()` (red, green, blue), `width` and `height`. */
async function opened(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  if (width * height > 50_000_000) throw new Error(`it has ${width} x ${height} pixels, at most 50,000,000 are read`);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const plane = (channel) => {
    const levels = new Uint8Array(width * height);
    for (let i = 0; i < levels.length; i++) levels[i] = data[4 * i + channel];
    return levels;
  };
  const luma = new Uint8Array(width * height), alpha = plane(3);
  for (let i = 0; i < luma.length; i++) {
    // The weights of Pillow (ITU-R 601-2), in whole numbers.
    luma[i] = (data[4 * i] * 19595 + data[4 * i + 1] * 38470 + data[4 * i + 2] * 7471 + 0x8000) >> 16;
  }
  const colors = () => [0, 1, 2].map(plane);
  if (alpha.every((value) => value === 255)) return { luma, colors, width, height };
  const over = (levels, ground) => levels.map((level, i) => Math.round((level * alpha[i] + ground * (255 - alpha[i])) / 255));
  const spread = (pixels) => {
    const mean = pixels.reduce((a, b) => a + b, 0) / pixels.length;
    return Math.sqrt(pixels.reduce((sum, level) => sum + (level - mean) ** 2, 0) / pixels.length);
  };
  // Black where the image would nearly vanish on white.
  const ground = 2 * spread(over(luma, 255)) < spread(over(luma, 0)) ? 0 : 255;
  return { luma: over(luma, ground), colors: () => colors().map((levels) => over(levels, ground)), width, height };
}

const LEAST_CHROMA = 32;

/** The chroma of red, green and blue, its first and last percentile at 0 and 255; null for grey. */
function chroma([red, green, blue]) {
  const levels = red.map((r, i) => Math.max(r, green[i], blue[i]) - Math.min(r, green[i], blue[i]));
  const ordered = levels.slice().sort(), cut = Math.floor(levels.length / 100);
  const low = ordered[cut], range = ordered[levels.length - 1 - cut] - low;
  if (range < LEAST_CHROMA) return null;
  const stretched = (level) => Math.floor((255 * (level - low) + (range >> 1)) / range);
  return levels.map((level) => Math.min(Math.max(stretched(level), 0), 255));
}

const BITS = 22; // of the weights, as in Pillow: sums stay below 2^53

/** Pillow's bicubic filter (a = -0.5), widened where it shrinks: for each output pixel, first input pixel and weights. */
function weights(from, to) {
  const cubic = (x) => {
    x = Math.abs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  };
  const scale = from / to, wide = Math.max(scale, 1), support = 2 * wide;
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const found = Array.from({ length: end - first }, (_, k) => cubic((k + first - center + 0.5) / wide));
    const sum = found.reduce((a, b) => a + b, 0);
    return [first, found.map((w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5)))];
  });
}

const clipped = (sum) => Math.min(Math.max(Math.floor((sum + 2 ** (BITS - 1)) / 2 ** BITS), 0), 255);

/** Resize one channel as Pillow does: columns first, rounded, then rows. */
function resized(pixels, { width, height }, toWidth, toHeight) {
  let rows = pixels;
  if (toWidth !== width) {
    rows = new Uint8Array(toWidth * height);
    weights(width, toWidth).forEach(([first, row], x) => {
      for (let y = 0; y < height; y++) {
        let sum = 0;
        for (let k = 0; k < row.length; k++) sum += pixels[y * width + first + k] * row[k];
        rows[y * toWidth + x] = clipped(sum);
      }
    });
  }
  if (toHeight === height) return rows;
  const out = new Uint8Array(toWidth * toHeight);
  weights(height, toHeight).forEach(([first, column], y) => {
    for (let x = 0; x < toWidth; x++) {
      let sum = 0;
      for (let k = 0; k < column.length; k++) sum += rows[(first + k) * toWidth + x] * column[k];
      out[y * toWidth + x] = clipped(sum);
    }
  });
  return out;
}

function targetWidth(width, height, image) {
  if (image.resize === "squash") return image.image_width;
  const unit = 1000 * height * image.width_step;
  const wide = Math.floor((2 * width * image.image_height * Math.round(1000 * image.width_scale) + unit) / (2 * unit));
  return Math.min(Math.max(wide * image.width_step, image.min_width), image.max_width);
}

// ---- CTC: as in crnn.decoding.ctc

const logAdd = (a, b) => {
  const high = Math.max(a, b);
  return high === -Infinity ? high : high + Math.log(Math.exp(a - high) + Math.exp(b - high));
};

/** Log-probabilities (T, V), the blank last. */
class Steps {
  constructor(values, count, classes) {
    this.values = values;
    this.count = count;
    this.classes = classes;
    this.blank = classes - 1;
  }

  at(t, k) { return this.values[t * this.classes + k]; }

  best(t) {
    let best = 0;
    for (let k = 1; k < this.classes; k++) if (this.at(t, k) > this.at(t, best)) best = k;
    return best;
  }

  slice(first, end) {
    return new Steps(this.values.subarray(first * this.classes, end * this.classes), end - first, this.classes);
  }

  greedy() {
    const ids = [];
    let before = -1;
    for (let t = 0; t < this.count; t++) {
      const best = this.best(t);
      if (best !== before && best !== this.blank) ids.push(best);
      before = best;
    }
    return ids;
  }

  /** Log-probability of the best path. */
  path() {
    let sum = 0;
    for (let t = 0; t < this.count; t++) sum += this.at(t, this.best(t));
    return sum;
  }

  /** Natural-log probability of a text, summed over its alignments; with `Math.max` in place of `logAdd` the best one's. */
  score(ids) {
    const states = 2 * ids.length + 1, label = (s) => (s % 2 ? ids[(s - 1) / 2] : this.blank);
    let now = new Float64Array(states).fill(-Infinity);
    now[0] = 0;
    for (let t = 0; t < this.count; t++) {
      const next = new Float64Array(states).fill(-Infinity);
      for (let s = 0; s < states; s++) {
        let sum = t === 0 && s === 1 ? now[0] : now[s];
        if (t > 0 && s > 0) sum = logAdd(sum, now[s - 1]);
        if (t > 0 && s > 1 && s % 2 && label(s) !== label(s - 2)) sum = logAdd(sum, now[s - 2]);
        next[s] = sum + this.at(t, label(s));
      }
      now = next;
    }
    return Math.min(states > 1 ? logAdd(now[states - 1], now[states - 2]) : now[0], 0);
  }

  /** First step, end and largest log-probability of each character in the best alignment (Viterbi). */
  spans(ids) {
    const states = 2 * ids.length + 1, label = (s) => (s % 2 ? ids[(s - 1) / 2] : this.blank);
    let now = new Float64Array(states).fill(-Infinity);
    const from = [];
    for (let t = 0; t < this.count; t++) {
      const next = new Float64Array(states).fill(-Infinity), back = new Uint8Array(states);
      for (let s = 0; s < states; s++) {
        let best = t === 0 ? (s < 2 ? 0 : -Infinity) : now[s];
        for (const jump of [1, 2]) {
          const allowed = t > 0 && s >= jump && (jump === 1 || (s % 2 && label(s) !== label(s - 2)));
          if (allowed && now[s - jump] > best) { best = now[s - jump]; back[s] = jump; }
        }
        next[s] = best + this.at(t, label(s));
      }
      from.push(back);
      now = next;
    }
    let state = states > 1 && now[states - 2] > now[states - 1] ? states - 2 : states - 1;
    const found = ids.map(() => ({ start: Infinity, end: 0, peak: -Infinity }));
    for (let t = this.count - 1; t >= 0; t--) {
      if (state % 2) {
        const span = found[(state - 1) / 2];
        span.start = t;
        span.end = Math.max(span.end, t + 1);
        span.peak = Math.max(span.peak, Math.min(this.at(t, label(state)), 0));
      }
      state -= from[t][state];
    }
    return found;
  }
}

// ---- The language: as in crnn.decoding.language and language_prior

/** Character n-grams: a trie whose n-grams are sorted by length, then beginning, then last symbol. */
class Language {
  constructor(bytes) {
    const size = Number(new DataView(bytes).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, size)));
    const kinds = { U8: Uint8Array, U16: Uint16Array, U32: Uint32Array };
    const array = (name) => {
      const [first, end] = header[name].data_offsets;
      return new kinds[header[name].dtype](bytes.slice(8 + size + first, 8 + size + end));
    };
    this.info = JSON.parse(header.__metadata__.info);
    this.symbols = array("symbols");
    this.logProbs = array("log_probs");
    this.children = array("children");
    const backoffs = array("backoffs");
    this.firsts = new Uint32Array(this.children.length);
    this.backoffs = new Uint8Array(this.children.length);
    let first = 0, inner = 0;
    this.children.forEach((count, node) => {
      this.firsts[node] = first;
      first += count;
      if (count) this.backoffs[node] = backoffs[inner++];
    });
    this.end = [...this.info.characters].length;
    this.begin = this.end + 1;
    this.rows = new Map();
    this.start = this.row([this.begin]);
  }

  /** Node of an n-gram, or -1. */
  node(symbols) {
    let node = 0;
    for (const symbol of symbols) {
      let low = this.firsts[node], high = low + this.children[node];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.symbols[middle] < symbol) low = middle + 1; else high = middle;
      }
      if (low >= this.firsts[node] + this.children[node] || this.symbols[low] !== symbol) return -1;
      node = low + 1;
    }
    return node;
  }

  /** Context of n-grams with the log-probability of each symbol behind it, and the contexts after them. */
  row(context) {
    const key = context.join(" ");
    let row = this.rows.get(key);
    if (row) return row;
    const values = new Float64Array(this.end + 1).fill(-Math.log(this.end + 1));
    for (let size = 0; size <= context.length; size++) {
      const node = this.node(context.slice(context.length - size));
      if (node < 0) continue;
      const down = this.backoffs[node] / 32;
      for (let k = 0; k < values.length; k++) values[k] -= down;
      for (let at = this.firsts[node]; at < this.firsts[node] + this.children[node]; at++) {
        if (this.symbols[at] <= this.end) values[this.symbols[at]] = -this.logProbs[at] / 16;
      }
    }
    row = { context, values: Float32Array.from(values), next: new Map() };
    this.rows.set(key, row);
    return row;
  }

  /** The longest known context that ends in a symbol after a context. */
  after(row, symbol) {
    let next = row.next.get(symbol);
    if (!next) {
      let context = [...row.context, symbol];
      while (context.length) {
        const node = this.node(context);
        if (node >= 0 && this.children[node]) break;
        context = context.slice(1);
      }
      next = this.row(context);
      row.next.set(symbol, next);
    }
    return next;
  }
}

const WORDLIKE = 0, DIGIT = 1, MARK = 2, SPACE = 3, INNER_MARK = 4;

/** What a language adds to the rank of a text; numbers of the settings are those of the package. */
class Prior {
  constructor(language, numbers, given) {
    Object.assign(this, given, { language, numbers });
    for (const name of ["number_cost", "any_cost", "word_mark_cost"]) this[name] = this[name].map((x) => x ?? -Infinity);
  }

  begin() {
    const { word, number, anything } = this.parts, row = this.language.start, numberRow = this.numbers.start;
    return { done: 0, word, quoted: -Infinity, number, anything, row, numberRow, letters: 0, size: 0, case: 0 };
  }

  wholeWord(s) { return logAdd(s.word + (s.letters > 0 ? s.row.values[this.language.end] : 0), s.quoted); }

  wholeNumber(s) { return s.number + s.numberRow.values[this.numbers.end]; }

  token(s) {
    if (!s.size) return 0;
    const parts = [this.wholeWord(s), this.wholeNumber(s), s.anything];
    return parts.reduce(logAdd) + this.case_costs[s.case];
  }

  /** Parts of a word after another: any string is likelier behind one. */
  afterSpace(s) {
    const { word, number, anything, anything_again } = this.parts;
    const known = logAdd(this.wholeWord(s), this.wholeNumber(s));
    const share = s.size ? 1 / (1 + Math.exp(known - s.anything)) : 0;
    const unknown = Math.exp(anything) + share * (Math.exp(anything_again) - Math.exp(anything));
    const rest = Math.log1p(-unknown) - Math.log1p(-Math.exp(anything));
    return { word: word + rest, number: number + rest, anything: Math.log(unknown) };
  }

  total(s, length) {
    const token = [s.word, s.quoted, s.number, s.anything].reduce(logAdd);
    return this.weight * (s.done + token + this.case_costs[s.case]) + this.bonus * length;
  }

  final(s, length) {
    const stray = s.size ? 0 : length ? this.parts.stray_space : this.parts.nothing;
    return this.weight * (s.done + this.token(s) + stray) + this.bonus * length;
  }

  advanced(s, k) {
    const kind = this.kinds[k], cost = s.size > 0 ? this.parts.space : this.parts.stray_space;
    if (kind === SPACE) return { ...this.begin(), ...this.afterSpace(s), done: s.done + this.token(s) + cost };
    const letter = kind === WORDLIKE || (kind === INNER_MARK && (s.letters > 0 || this.begins[k]));
    const symbol = this.symbols[k], inNumber = this.number_symbols[k];
    const isMark = kind === MARK || (kind === INNER_MARK && !letter);
    const mark = this.wholeWord(s) + this.word_mark_cost[k];
    return {
      done: s.done + (isMark ? this.case_costs[s.case] : 0) + (!s.size && s.done < 0 ? this.apart_cost[k] : 0),
      word: letter ? s.word + s.row.values[symbol] : mark,
      quoted: letter && kind === INNER_MARK ? mark : -Infinity,
      number: s.number + s.numberRow.values[inNumber] + this.number_cost[k],
      anything: s.anything + this.any_cost[k],
      row: letter ? this.language.after(s.row, symbol) : this.language.start,
      numberRow: this.numbers.after(s.numberRow, inNumber),
      letters: letter ? s.letters + 1 : 0,
      size: s.size + 1,
      case: isMark ? 0 : this.case_after[s.case][this.cases[k]],
    };
  }

  score(ids) {
    let state = this.begin();
    for (const k of ids) state = this.advanced(state, k);
    return this.final(state, ids.length);
  }
}

// ---- Beam search: as in crnn.decoding.beam and language_search

const WIDTH = 10, WIDE = 60, DOUBTFUL = -3, DOUBTFUL_CHARACTER = -0.3;
const CLASSES = 12, SURE_SPACE = Math.log(0.9), SURE_STEP = Math.log(0.999);

function likeliest(steps, t) {
  return Array.from({ length: steps.blank }, (_, k) => k)
    .sort((a, b) => steps.at(t, b) - steps.at(t, a) || a - b).slice(0, CLASSES);
}

/** Texts of a piece, best first: `{ids, rank}`. */
function beam(steps, prior, width) {
  let held = [{ key: "", ids: [], blanks: 0, chars: -Infinity, total: 0, state: prior.begin(), parent: null }];
  for (let t = 0; t < steps.count; t++) {
    const likely = likeliest(steps, t), byKey = new Map(held.map((prefix) => [prefix.key, prefix]));
    const next = [];
    for (const p of held) {
      const last = p.ids.at(-1), blanks = p.total + steps.at(t, steps.blank);
      let chars = last === undefined ? -Infinity : p.chars + steps.at(t, last);
      const parent = last === undefined ? undefined : byKey.get(p.parent);
      if (parent) {
        const passed = parent.ids.at(-1) === last ? parent.blanks : parent.total;
        chars = logAdd(chars, passed + steps.at(t, last));
      }
      const total = logAdd(blanks, chars);
      next.push({ ...p, blanks, chars, total, rank: total + prior.total(p.state, p.ids.length) });
      for (const k of likely) {
        const key = `${p.key} ${k}`;
        if (byKey.has(key)) continue; // a part of that prefix
        const total = (k === last ? p.blanks : p.total) + steps.at(t, k);
        if (total === -Infinity) continue;
        const state = prior.advanced(p.state, k), ids = [...p.ids, k];
        next.push({
          key, ids, blanks: -Infinity, chars: total, total, state, parent: p.key,
          rank: total + prior.total(state, ids.length),
        });
      }
    }
    held = next.sort((a, b) => b.rank - a.rank).slice(0, width);
  }
  return held.filter((p) => p.total > -Infinity)
    .map((p) => ({ ids: p.ids, rank: steps.score(p.ids) + prior.final(p.state, p.ids.length) }))
    .sort((a, b) => b.rank - a.rank);
}

/** Pieces between spaces that are sure, without repeated sure steps. */
function pieces(steps, space) {
  const best = Array.from({ length: steps.count }, (_, t) => steps.best(t));
  const cut = best.map((k, t) => k === space && steps.at(t, k) > SURE_SPACE);
  for (let t = 1; t < cut.length; t++) cut[t] ||= cut[t - 1] && best[t] === space;
  for (let t = cut.length - 2; t >= 0; t--) cut[t] ||= cut[t + 1] && best[t] === space;
  const found = [];
  let start = 0;
  for (let t = 0; t <= steps.count; t++) {
    if (t < steps.count && !cut[t]) continue;
    if (t > start) {
      const sure = (at) => steps.at(at, best[at]) > SURE_STEP;
      const kept = [];
      for (let at = start; at < t; at++) {
        if (!(at > start && sure(at) && sure(at - 1) && best[at] === best[at - 1])) kept.push(at);
      }
      const values = new Float32Array(kept.length * steps.classes);
      kept.forEach((at, row) => values.set(steps.slice(at, at + 1).values, row * steps.classes));
      found.push(new Steps(values, kept.length, steps.classes));
    }
    start = t + 1;
  }
  return found;
}

/** The texts that rank highest under network and language, and the probability of the best. */
function withLanguage(steps, prior, nBest) {
  let texts = [{ ids: [], rank: 0 }], probability = 1;
  for (const piece of pieces(steps, prior.space)) {
    const known = piece.greedy(), score = piece.score(known);
    const doubtful = score < Math.min(DOUBTFUL, DOUBTFUL_CHARACTER * known.length);
    const found = beam(piece, prior, doubtful ? WIDE : WIDTH);
    if (!found.some((one) => one.ids.join() === known.join())) {
      found.push({ ids: known, rank: score + prior.score(known) });
      found.sort((a, b) => b.rank - a.rank);
    }
    probability /= found.reduce((sum, one) => sum + Math.exp(one.rank - found[0].rank), 0);
    texts = texts.flatMap((text) => found.slice(0, nBest).map((one) => ({
      ids: text.ids.length && one.ids.length ? [...text.ids, prior.space, ...one.ids] : [...text.ids, ...one.ids],
      rank: text.rank + one.rank,
    }))).sort((a, b) => b.rank - a.rank).slice(0, nBest);
  }
  return { texts, probability };
}

// ---- Readings: as in crnn.recognizer

function confidence(probability, { slope, offset }) {
  const p = Math.min(Math.max(probability, 1e-7), 1 - 1e-7);
  return 1 / (1 + Math.exp(-(slope * (Math.log(p) - Math.log1p(-p)) + offset)));
}

/** Borders of each character in pixels of the network's image; `first` is that of step 0. */
function borders(spans, width, first) {
  if (!spans.length) return [];
  const starts = spans.map((s) => 4 * s.start + first), ends = spans.map((s) => 4 * s.end + first);
  const gaps = starts.slice(1).map((start, k) => start - ends[k]);
  const margin = gaps.length ? gaps.reduce((a, b) => a + b, 0) / gaps.length / 2 : 2;
  const all = [starts[0] - margin, ...gaps.map((gap, k) => ends[k] + gap / 2), ends.at(-1) + margin];
  return all.map((border) => Math.min(Math.max(border, 0), width));
}

/** The likely content of an image that is not one upright line that fits, as `line_warning` of crnn.image tells it. */
function warning([width, height], { text, score }, image) {
  const unsure = score < Math.log(0.35);
  if (height > 600 && width > 300 && width < 2 * height && 2 * height < 8 * width && unsure) return "page";
  if ((height > 2.5 * width && !(text.length === 1 && "1IJijl|!:;.,'/()[]{}".includes(text))) || (height > 1.6 * width && unsure)) return "turned";
  if (image.resize === "keep_ratio" && targetWidth(width, height, { ...image, max_width: Infinity }) > image.max_width) return "too_wide";
  return null;
}

function reading(steps, size, width, settings, prior, nBest) {
  const text = (ids) => ids.map((k) => settings.characters[k]).join("");
  let texts, best, curve = settings.calibration.greedy;
  if (prior) {
    const found = withLanguage(steps, prior, nBest);
    texts = found.texts;
    best = found.probability;
    curve = settings.calibration.language ?? curve;
  } else {
    texts = [{ ids: steps.greedy(), rank: 0 }];
    best = Math.exp(steps.score(texts[0].ids));
  }
  // As in crnn.recognizer: step t sees the pixels around 4 (t + 1), and with the paper's pooling those around 4 t.
  const offset = settings.calibration.shift + (settings.pooling === "paper" ? -2 : 2);
  const spans = steps.spans(texts[0].ids), at = borders(spans, width, offset), scale = size[0] / width;
  const sure = (one) => confidence(best * Math.exp(one.rank - texts[0].rank), curve);
  const [first, ...others] = texts.map((one) => ({ text: text(one.ids), score: steps.score(one.ids), confidence: sure(one) }));
  return {
    ...first,
    warning: warning(size, first, settings.image),
    characters: spans.map((span, k) => ({
      text: settings.characters[texts[0].ids[k]], score: span.peak,
      start: Math.round(10 * at[k] * scale) / 10, end: Math.round(10 * at[k + 1] * scale) / 10,
    })),
    ...(nBest > 1 ? { alternatives: others } : {}),
  };
}

// Log-probability of a best path below which an image is read again, and how much larger that of its chroma must be.
const UNSURE = Math.log(0.8), SURER = Math.log(1.2);

/** Log-probabilities of an image: of its grey levels, or of its chroma where the network is surer of that. */
async function seen(image, width, { image_height: height, chroma_retry }, session) {
  const run = async (pixels) => {
    const { log_probs: output } = await session.run({ images: new ort.Tensor("uint8", pixels, [1, 1, height, width]) });
    return new Steps(output.data, output.dims[1], output.dims[2]);
  };
  const steps = await run(resized(image.luma, image, width, height)), sure = steps.path();
  if (!chroma_retry || sure >= UNSURE) return steps;
  const pixels = chroma(image.colors().map((channel) => resized(channel, image, width, height)));
  const again = pixels && (await run(pixels));
  return again && again.path() > sure + SURER && again.greedy().length ? again : steps;
}

async function load() {
  const get = async (name) => {
    const answer = await fetch(name, CACHED);
    if (!answer.ok) throw new Error(`${name} cannot be fetched (${answer.status})`);
    return answer;
  };
  const settings = await (await get("settings.json")).json();
  settings.characters = [...settings.characters];
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = 1; // more need headers that simple hosts cannot send, and gain nothing on words
  ort.env.logLevel = "error";
  const model = await (await get("model.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const language = async (name) => new Language(await (await get(name)).arrayBuffer());
  const words = settings.prior && await language("language.lm"), numbers = settings.prior && await language("numbers.lm");
  const prior = settings.prior && new Prior(words, numbers, settings.prior);
  return { settings, session, prior };
}

let loaded;
const ready = () => (loaded ??= load().catch((error) => { loaded = undefined; throw error; }));

window.localReader = {
  async info() {
    const { settings } = await ready();
    return { model: settings.name, language: settings.prior ? settings.language : "none" };
  },
  async readAll(images, options, say, each) {
    say("Loading the reader, once …");
    const { settings, session, prior } = await ready();
    for (const [place, { blob }] of images.entries()) {
      try {
        const image = await opened(blob), width = targetWidth(image.width, image.height, settings.image);
        const steps = await seen(image, width, settings.image, session);
        const used = options.lm === "none" ? null : prior;
        each(place, reading(steps, [image.width, image.height], width, settings, used, Number(options.n_best) || 1));
      } catch (error) {
        const cause = error.name === "InvalidStateError" ? "this browser does not know its format; PNG, JPEG and WebP are read" : error.message;
        each(place, { error: `The image cannot be read: ${cause}` });
      }
      if (images.length > 1) say(`${place + 1} of ${images.length} images read …`);
    }
  },
};

if ("serviceWorker" in navigator) navigator.serviceWorker.register("offline.js").catch(() => {}); // offline next time
