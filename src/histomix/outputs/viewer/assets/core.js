// Loading: a page opened from disk may run scripts beside it, so numbers and pictures come as scripts that call HX.put.
const MISSING = 65535;
const HX = {
  waiting: new Map(),
  put(key, payload) {
    const found = HX.waiting.get(key);
    if (found) found.resolve(payload);
  },
  // One script, run once; the promise is kept so that a second call costs nothing.
  load(key, path) {
    const known = HX.waiting.get(key);
    if (known) return known.promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => { entry.resolve = resolve; entry.reject = reject; });
    HX.waiting.set(key, entry);
    const script = document.createElement("script");
    script.src = path;
    script.onload = () => script.remove();
    script.onerror = () => { script.remove(); HX.waiting.delete(key); entry.reject(new Error(`${path} cannot be read`)); };
    document.head.append(script);
    return entry.promise;
  },
  forget(key) { HX.waiting.delete(key); },
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function unpacked(text, max) {
  const codes = new Uint16Array(bytesOf(text).buffer), values = new Float32Array(codes.length), step = max / (MISSING - 1);
  for (let i = 0; i < codes.length; i++) values[i] = codes[i] === MISSING ? NaN : codes[i] * step;
  return values;
}

function greatest(...arrays) {
  let top = 0;
  for (const values of arrays) for (let i = 0; i < values.length; i++) if (values[i] > top) top = values[i];
  return top || 1;
}

// One slide's numbers, loaded as they are asked for.
class SlideData {
  constructor(meta) { this.meta = meta; this.layers = new Map(); }
  path(name) { return `data/${this.meta.key}/${name}.js`; }
  async open() {
    const key = this.meta.key;
    const [places, state] = await Promise.all([
      HX.load(`${key}/places`, this.path("places")), HX.load(`${key}/state`, this.path("state")),
    ]);
    const xy = new Float32Array(bytesOf(places).buffer);
    this.n = xy.length / 2;
    this.x = new Float32Array(this.n); this.y = new Float32Array(this.n);
    for (let i = 0; i < this.n; i++) { this.x[i] = xy[2 * i]; this.y[i] = xy[2 * i + 1]; }
    for (const name of ["novelty", "in_scope", "read_ok", "dominant", "label_dominant"]) this[name] = unpacked(state[name], state.max);
    return this;
  }
  async type(number) {
    if (!this.layers.has(number)) {
      const found = await HX.load(`${this.meta.key}/type${number}`, this.path(`type${number}`));
      const layer = { number };
      for (const part of ["value", "lower", "upper", "label"]) layer[part] = found[part] ? unpacked(found[part], found.max) : null;
      layer.top = greatest(layer.value, ...(layer.label ? [layer.label] : []));
      if (layer.lower) {
        layer.width = new Float32Array(this.n);
        for (let i = 0; i < this.n; i++) layer.width[i] = layer.upper[i] - layer.lower[i];
        layer.widthTop = greatest(layer.width);
      }
      this.layers.set(number, layer);
    }
    return this.layers.get(number);
  }
  all() { return Promise.all(this.meta.types.map((_, number) => this.type(number))); }
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
const $ = (id) => document.getElementById(id);
const shown = (value) => (Number.isNaN(value) ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3));
