// Reads images with an exported network in JavaScript: ONNX Runtime Web (WebAssembly) is all that it needs.
//
//     npm install onnxruntime-web
//     crnn export crnn-small crnn-small.onnx
//     node read_plain.mjs crnn-small.onnx word.pgm ...
//
// Node opens no images by itself, so that they come as they go into the network: grey pixels, 32 high and as wide as
// docs/export.md says, as PGM files (for a width of 96, in Python:
// Image.open("word.png").convert("L").resize((96, 32), Image.Resampling.BICUBIC).save("word.pgm")).
// In a browser they come from a canvas; see docs/export.md.

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

/** The metadata of an ONNX file, which ONNX Runtime Web does not give: field 14 of its outermost protobuf message. */
function metadata(bytes) {
  const found = {};
  for (const [field, entry] of fields(bytes)) {
    if (field === 14) {
      const [key, value] = fields(entry).map(([, text]) => new TextDecoder().decode(text));
      found[key] = value;
    }
  }
  return found;
}

/** Numbers and bytes of those fields of a protobuf message that have a length; numbers are passed over. */
function fields(bytes) {
  const found = [];
  let at = 0;
  const number = () => {
    let value = 0;
    for (let unit = 1; ; unit *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = number();
    const length = number();
    if ((tag & 7) === 2) {
      found.push([tag >>> 3, bytes.subarray(at, at + length)]);
      at += length;
    }
  }
  return found;
}

/** The text of log-probabilities of T steps and V classes: best classes, repeats and blanks (the last class) left out. */
function greedy(logProbs, [, T, V], characters) {
  let text = "";
  let before = -1;
  for (let t = 0; t < T; t++) {
    const step = logProbs.subarray(t * V, (t + 1) * V);
    const best = step.indexOf(Math.max(...step));
    if (best !== before && best < characters.length) text += characters[best];
    before = best;
  }
  return text;
}

/** Width and pixels of a PGM file that is 32 high. */
function pixels(path) {
  const bytes = readFileSync(path);
  const header = /^P5\s+(\d+)\s+32\s+255\s/.exec(bytes.subarray(0, 32).toString("latin1"));
  if (header === null) throw new Error(`${path}: not a PGM file (P5) of 32 rows, 8 bits`);
  const width = Number(header[1]);
  return [width, new Uint8Array(bytes.subarray(header[0].length, header[0].length + 32 * width))];
}

const [file, ...images] = process.argv.slice(2);
if (images.length === 0) {
  console.error("usage: node read_plain.mjs MODEL.onnx IMAGE.pgm ...");
  process.exit(1);
}
ort.env.logLevel = "error"; // its warnings are about graphs, and for those who write them
const model = readFileSync(file);
const characters = [...JSON.parse(metadata(model).crnn_metadata).characters];
const session = await ort.InferenceSession.create(model);
for (const path of images) {
  const [width, grey] = pixels(path);
  const { log_probs } = await session.run({ images: new ort.Tensor("uint8", grey, [1, 1, 32, width]) });
  console.log(`${path}\t${greedy(log_probs.data, log_probs.dims, characters)}`);
}
