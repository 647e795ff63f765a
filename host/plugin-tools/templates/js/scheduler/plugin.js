// {{camel}}: a pod with the annotation `{{name}}: N` fits only nodes whose label `{{name}}` is a number of at least N;
// the higher the label (up to 100), the better.

import { fromBytes } from "./orlop.js";

const KEY = "{{name}}";

// Numbers of the interface; see wit/scheduler.wit.
const LABELS_COLUMN = 64;
const LABELS_DICTIONARY = 2;
const PASSES_ALL = 1;
const SCORES_NONE = 2;
const EVICTION_CANNOT_HELP = 1;

// What a node without the label has, so that it is less than any number asked for.
const NONE = -Infinity;

// The mirror: the level of each entry of the dictionary of labels, and of each slot.
let ofLabel = [];
let ofSlot = [];

// What the pods of a class ask for, by class.
const wanted = new Map();

export const lifecycle = {
  init() {},
  selfTest() {},
};

export const plugin = {
  sync({ full, slots, rows, dictionaries, listColumns }) {
    if (full) {
      ofLabel = [];
      ofSlot = [];
    }
    while (ofSlot.length < slots) ofSlot.push(NONE);
    for (const { dictionary, entries } of dictionaries) {
      if (dictionary === LABELS_DICTIONARY) ofLabel.push(...entries.map(levelOf));
    }
    for (const { column, offsets, values } of listColumns) {
      if (column !== LABELS_COLUMN) continue;
      rows.forEach((row, i) => {
        ofSlot[row] = NONE;
        for (let v = offsets[i]; v < offsets[i + 1]; v++) {
          ofSlot[row] = Math.max(ofSlot[row], ofLabel[Number(values[v])]);
        }
      });
    }
    return { checksum: 0n, stale: [] }; // no checksum, and no class is stale
  },

  prepare(cls, pod) {
    const text = fromBytes(pod).metadata?.annotations?.[KEY];
    if (text === undefined) {
      // Such pods cost nothing: neither filter nor score is called for them.
      return { flags: PASSES_ALL | SCORES_NONE, message: "" };
    }
    if (!isNumber(text)) throw `annotation ${KEY}: \`${text}\` is no number`;
    wanted.set(cls, Number(text));
    return { flags: 0, message: "" };
  },

  release(cls) {
    wanted.delete(cls);
  },

  filter(cls, rows) {
    const least = wanted.get(cls);
    const found = levels(rows);
    // 64 bits a word, as two halves of 32.
    const halves = new Uint32Array(2 * Math.ceil(found.length / 64));
    found.forEach((level, i) => {
      if (level >= least) halves[i >> 5] |= 1 << (i & 31);
    });
    return new BigUint64Array(halves.buffer);
  },

  score(cls, rows) {
    return Uint8Array.from(levels(rows), (level) => Math.min(Math.max(level, 0), 100));
  },

  explain(cls, rows) {
    const least = wanted.get(cls);
    const offsets = [0];
    for (const level of levels(rows)) offsets.push(offsets.at(-1) + (level < least ? 1 : 0));
    const reason = { text: `node(s) didn't have ${KEY} of ${least}`, code: EVICTION_CANNOT_HELP };
    return { reasons: [reason], offsets, refs: new Uint32Array(offsets.at(-1)) };
  },

  // Called only where manifest.json says so in `normalize`.
  scoreRaw() {
    throw new Error("scoreRaw is not defined");
  },
  normalize() {
    throw new Error("normalize is not defined");
  },
};

function isNumber(text) {
  return /^-?\d{1,15}$/.test(text);
}

// What a label `key=value` says; asked once for each that the cluster has.
function levelOf(label) {
  const [key, value] = label.split("=");
  return key === KEY && isNumber(value) ? Number(value) : NONE;
}

// Of the given rows, of all where none are given.
function levels(rows) {
  return rows.length > 0 ? Array.from(rows, (row) => ofSlot[row]) : ofSlot;
}
