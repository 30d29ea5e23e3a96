"use strict";
// What this viewer shows: data in an element of its own, so that the program is the same in every viewer.
const FACTS = JSON.parse(document.getElementById("facts").textContent);
// Loading: a page opened from disk may run scripts beside it but not read files, so numbers and pictures come as
// scripts that call HX.put.
// The page's policy lets only this program load scripts, and only through here; no text becomes one.
const MISSING = 65535;
const sourceOf = (path) => { if (/^data\/s\d+\/[\w/]+\.js$/.test(path)) return path; throw new Error(`${path} is no part of this viewer`); };
const SOURCES = window.trustedTypes ? window.trustedTypes.createPolicy("histomix", { createScriptURL: sourceOf }) : { createScriptURL: sourceOf };
const HX = {
  waiting: new Map(),
  put(key, payload) {
    const found = HX.waiting.get(key);
    if (found) found.resolve(payload);
  },
  load(key, path) {
    const known = HX.waiting.get(key);
    if (known) return known.promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => { entry.resolve = resolve; entry.reject = reject; });
    HX.waiting.set(key, entry);
    const script = document.createElement("script");
    script.src = SOURCES.createScriptURL(path);
    script.onload = () => { script.remove(); HX.waiting.delete(key); };
    script.onerror = () => {
      script.remove();
      HX.waiting.delete(key);
      entry.reject(new Error(`${path} cannot be read; keep index.html beside its data folder`));
    };
    document.head.append(script);
    return entry.promise;
  },
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function unpacked(text, max) {
  const codes = new Uint16Array(bytesOf(text).buffer), values = new Float32Array(codes.length);
  const step = max / (MISSING - 1);
  for (let i = 0; i < codes.length; i++) values[i] = codes[i] === MISSING ? NaN : codes[i] * step;
  return values;
}

// Whole numbers of a byte or two, the greatest for "none"; and one bit for each tile.
function codesOf(text, kinds) {
  const bytes = bytesOf(text), codes = kinds < 255 ? bytes : new Uint16Array(bytes.buffer), none = kinds < 255 ? 255 : 65535;
  return Float32Array.from(codes, (code) => (code === none ? NaN : code));
}
function flagsOf(text, n) {
  const bytes = bytesOf(text), flags = new Uint8Array(n);
  for (let i = 0; i < n; i++) flags[i] = bytes[i >> 3] >> (7 - (i & 7)) & 1;
  return flags;
}

// One slide's numbers, loaded as they are asked for.
class SlideData {
  constructor(meta) {
    this.meta = meta;
    meta.means.value = meta.means.value.map((mean) => mean ?? NaN);  // of a slide out of scope there is none
    this.layers = new Map(); this.coming = new Map();
  }
  // The picture of what was read and what was not, over the whole slide.
  areas() {
    return this.areaPicture ||= this.load("areas")
      .then((text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/png" })))
      .then((bitmap) => ({ bitmap, size_px: this.meta.areas_px }));
  }
  load(name) { return HX.load(`${this.meta.key}/${name}`, `data/${this.meta.key}/${name}.js`); }
  open() { return this.opened ||= this.read(); }
  async read() {
    const [places, state] = await Promise.all([this.load("places"), this.load("state")]);
    const xy = new Float32Array(bytesOf(places).buffer);
    this.n = xy.length / 2;
    this.x = new Float32Array(this.n); this.y = new Float32Array(this.n);
    for (let i = 0; i < this.n; i++) { this.x[i] = xy[2 * i]; this.y[i] = xy[2 * i + 1]; }
    for (const [name, text] of Object.entries(state.flags)) this[name] = flagsOf(text, this.n);
    const kinds = Math.max(this.meta.types.length, this.meta.answers.length);
    this.whenAsked("novelty", () => unpacked(state.novelty, state.novelty_max));
    for (const name of ["dominant", "label_dominant", "answer"]) {
      this.whenAsked(name, () => (name in state.codes ? codesOf(state.codes[name], kinds) : new Float32Array(this.n).fill(NaN)));
    }
    return this;
  }
  // What a first view does not need is unpacked once it is shown or pointed at.
  whenAsked(name, unpack) {
    Object.defineProperty(this, name, { configurable: true, get() {
      const value = unpack();
      Object.defineProperty(this, name, { value });
      return value;
    } });
  }
  type(number) {
    if (!this.coming.has(number)) {
      const made = this.load(`type${number}`).then((found) => this.unpack(number, found));
      made.catch(() => this.coming.delete(number));
      this.coming.set(number, made);
    }
    return this.coming.get(number);
  }
  unpack(number, found) {
    const layer = { number, top: found.top, usual: found.usual, differs: found.differs, widthTop: found.width };
    for (const part of ["value", "lower", "upper", "label"]) {
      layer[part] = part in found ? unpacked(found[part], found.max) : null;
    }
    // Asked for when it is shown.
    Object.defineProperty(layer, "width", { get() { return this.widths ||= this.lower && this.upper.map((value, i) => value - this.lower[i]); } });
    this.layers.set(number, layer);
    return layer;
  }
  // A byte for each tile and type that varies: see the overview.
  small() { return this.smalls ||= this.load("overview").then((found) => found.map(bytesOf)); }
  // What a first view needs, read while the program sets itself up; whoever waits for it is told what failed.
  early() {
    const { varying } = this.meta;
    for (const part of [this.open(), ...(varying.length ? [this.type(varying[0]), this.small()] : [])]) part.catch(() => {});
    return this;
  }
  // One after the other, so that moving and switching stay smooth while the rest comes in.
  async all() {
    for (let number = 0; number < this.meta.types.length; number++) await this.type(number);
    return this.meta.types.map((_, number) => this.layers.get(number));
  }
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
const $ = (id) => document.getElementById(id);
const css = ([red, green, blue]) => `rgb(${red},${green},${blue})`;

function swatch(colour) {
  const made = element("span", null, { class: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = css(colour);
  return made;
}

// A number as a reader wants it: proportions in per cent, other units with as many digits as say something.
function format(value, unit, digits = 1) {
  if (Number.isNaN(value)) return "–";
  if (unit === "proportion") return `${(100 * value).toFixed(digits)} %`;
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
const signed = (value, unit) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${format(Math.abs(value), unit)}`;
const greatest = (values) => Math.max(0, ...values.filter((value) => !Number.isNaN(value))) || 1;
// By hand: the browser's own way reads its tables of languages first, 20 ms of a first view.
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
