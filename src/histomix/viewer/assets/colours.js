// What each layer shows: its colours, its words and its legend. A colour is packed as the canvas keeps it; 0 is none.
const LAYERS = {
  differs: "Difference", type: "Abundance", dominant: "Dominant type", label: "Label", lower: "Lower bound", upper: "Upper bound",
  width: "Interval width", novelty: "Novelty", none: "H&E only", areas: "What was read", channels: "Channels",
};
// Layers of the chosen cell type, of values that a threshold may cut, and those with keys that are letters.
const OF_TYPE = ["differs", "type", "label", "lower", "upper", "width"], CUT = [...OF_TYPE, "novelty", "channels"];
const LETTERS = { a: "areas", c: "channels" };
const NAMED_AT_MOST = 8;
const packedColour = ([red, green, blue]) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
const unpackedColour = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];

function colourByValue(values, top, map, least = 0) {
  const table = Uint32Array.from(map, packedColour), step = 255 / top;
  return (i) => {
    const value = values[i];
    return Number.isNaN(value) || value < least ? 0 : table[value >= top ? 255 : value <= 0 ? 0 : Math.round(value * step)];
  };
}
// More or less than a mean; pale where an interval holds the mean.
const PALE = 0.7;
const paler = (colour) => colour.map((part) => Math.round(part + PALE * (255 - part)));
function colourBySign(layer, mean, top, least = 0) {
  const table = Uint32Array.from(FACTS.signed, packedColour), pale = Uint32Array.from(FACTS.signed, (colour) => packedColour(paler(colour)));
  return (i) => {
    const value = layer.value[i];
    if (Number.isNaN(value) || Math.abs(value - mean) < least) return 0;
    const unsure = layer.lower && layer.lower[i] <= mean && mean <= layer.upper[i];
    return (unsure ? pale : table)[Math.max(0, Math.min(255, Math.round(127.5 + 127.5 * (value - mean) / top)))];
  };
}
// The same in the few steps of the overview: sure ones, then as many unsure, then none.
const SMALL_STEPS = 127;
function colourBySmall(codes) {
  const table = new Uint32Array(256);
  for (let step = 0; step < SMALL_STEPS; step++) {
    const colour = FACTS.signed[Math.round(255 * step / (SMALL_STEPS - 1))];
    table[step] = packedColour(colour); table[step + SMALL_STEPS] = packedColour(paler(colour));
  }
  return (i) => table[codes[i]];
}
function colourByCode(codes, colours) {
  const table = Uint32Array.from(colours, packedColour);
  return (i) => (Number.isNaN(codes[i]) ? 0 : table[Math.round(codes[i])]);
}
// Up to three types as inks, which darken white where they are and mix where they meet; no ink leaves the tissue clear.
const INKS = { Cyan: [0, 150, 190], Magenta: [205, 30, 130], Yellow: [235, 185, 0] };
const INK_STEPS = 7;
function colourByInks(channels) {
  const table = new Uint32Array(512);
  for (let code = 1; code < 512; code++) {
    const amounts = [code & 7, (code >> 3) & 7, code >> 6].map((step) => step / INK_STEPS);
    table[code] = packedColour([0, 1, 2].map((part) => Math.round(
      Object.values(INKS).reduce((light, ink, number) => light * (1 - amounts[number] * (1 - ink[part] / 255)), 255))));
  }
  return (i) => {
    let code = 0;
    for (const { values, top, least, number } of channels) {
      const value = values[i];
      if (value >= least) code |= Math.min(INK_STEPS, Math.round(INK_STEPS * value / top)) << (3 * number);
    }
    return table[code];
  };
}

// "at" is where a layer is shown: a pane, or what else has a scene, a layer and a type.
class Layers {
  constructor(app) { this.app = app; }
  // What a tile may be trusted for has a map of its own, so that it is not taken for an abundance: greens, which no
  // stain has. Pale is sure.
  mapOf(layer) { return layer === "width" || layer === "novelty" ? FACTS.trust : FACTS.maps[this.app.map]; }
  has(layer, { meta } = this.app.scene) {
    return { differs: meta.varying.length > 0 && !meta.statement, label: meta.has_label, label_dominant: meta.has_label, lower: meta.has_bounds,
      upper: meta.has_bounds, width: meta.has_bounds, novelty: meta.has_novelty, areas: meta.areas.length > 0, channels: meta.types.length > 1 }[layer] ?? true;
  }
  // Panes that show one cell type share its scale, so that two slides can be compared.
  top(at, of) {
    const name = at.scene.meta.types[at.type], { unit } = at.scene.meta;
    const like = this.app.visiblePanes().filter(({ scene, type }) => scene && scene.meta.types[type] === name && scene.meta.unit === unit && scene.data.layers.has(type));
    return Math.max(...[at, ...like].map(of));
  }
  topOf({ scene, type }) { const layer = scene.data.layers.get(type); return { max: layer.top, usual: layer.usual, all: scene.meta.top }[this.app.range]; }
  // Values of a layer and the top of its scale; null for layers of codes and for none.
  values(at) {
    const { layer, scene: { data, meta } } = at, chosen = data.layers.get(at.type);
    if (layer === "novelty") return { values: data.novelty, top: 1, title: meta.novelty_words, unit: "" };
    if (!OF_TYPE.includes(layer) || layer === "differs" || !chosen) return null;
    if (layer === "width") {
      const top = this.top(at, ({ scene, type }) => scene.data.layers.get(type).widthTop ?? 0);
      return { values: chosen.width, top, title: `${meta.interval_words} width, ${meta.unit}`, unit: meta.unit };
    }
    // One scale for prediction, label and bounds, so that they can be compared.
    const top = this.top(at, (one) => this.topOf(one));
    return { values: layer === "type" ? chosen.value : chosen[layer], top, title: meta.unit, unit: meta.unit };
  }
  // The inks of the chosen types, of those that this slide has.
  channels({ scene }) {
    const { data, meta } = scene;
    return this.app.channels.flatMap((name, place) => {
      const type = meta.types.indexOf(name), layer = data.layers.get(type);
      if (!layer) return [];
      const top = this.top({ scene, type }, (one) => this.topOf(one));
      return [{ values: layer.value, top, least: Math.max(this.app.threshold * top, 1e-9), number: place, name }];
    });
  }
  colours(at) {
    const { layer, scene: { data, meta } } = at, { threshold } = this.app;
    if (layer === "differs") {
      const chosen = data.layers.get(at.type), top = this.differsTop(at);
      return chosen && colourBySign(chosen, meta.means.value[chosen.number], top, threshold * top);
    }
    if (layer === "channels") return colourByInks(this.channels(at));
    if (layer === "dominant") return colourByCode(data.dominant, meta.colours);
    if (layer === "label_dominant") return colourByCode(data.label_dominant, meta.colours);
    const shown = this.values(at);
    return shown && shown.values && colourByValue(shown.values, shown.top, this.mapOf(layer), threshold * shown.top);
  }
  // The scale of the overview, so that all types that vary compare; a type beyond it has its own.
  differsTop(at) {
    return this.top(at, ({ scene, type }) => {
      const { meta } = scene;
      return meta.varying.includes(type) ? meta.differs_top : scene.data.layers.get(type)?.differs ?? 0;
    });
  }
  caption({ layer, type, scene }) {
    const name = scene.meta.types[type] ?? this.app.besideType;
    if (type < 0) return `${name} is not in this map`;
    return {
      differs: `${name}, difference from the slide's mean`, type: `${name}, predicted`, label: `${name}, label`, lower: `${name}, lower bound`, upper: `${name}, upper bound`,
      width: `${name}, width of the interval`, dominant: "Dominant type, predicted",
      label_dominant: "Dominant type, label", novelty: "Novelty of the tile", none: "H&E", areas: "What was read of the tissue, and what was not",
      channels: `${this.app.channels.filter(Boolean).join(", ")}, predicted`,
    }[layer];
  }
  // What the threshold leaves, in words.
  cut(at) {
    const { layer, scene: { data, meta } } = at, { threshold } = this.app;
    if (!threshold || !CUT.includes(layer)) return "";
    if (layer === "channels") return `from ${Math.round(100 * threshold)} % of each scale on`;
    const colour = this.colours(at), unit = layer === "novelty" ? "" : meta.unit;
    const top = layer === "differs" ? this.differsTop(at) : this.values(at)?.top;
    let left = 0, all = 0;
    for (let i = 0; colour && i < data.n; i++) if (data.read_ok[i] > 0.5 && data.in_scope[i] > 0.5) { all++; if (colour(i)) left++; }
    return `${layer === "differs" ? "±" : "≥"} ${format(threshold * top, unit)}: ${format(left / (all || 1), "proportion")} of ${meta.spots ? "spots" : "tiles"}`;
  }
  legend(at) {
    const { app } = this, { layer, scene: { data, meta, overlay } } = at, marks = [];
    if (!data.layers.get(at.type)) return null;
    if (app.hatching && overlay.counts.outside) marks.push(["outside", "out of scope"]);
    if (app.hatching && overlay.counts.unread) marks.push(["unread", "could not be read"]);
    if (layer === "areas") {
      const total = meta.areas.reduce((sum, [, , mm2]) => sum + mm2, 0);
      const entries = meta.areas.map(([title, colour, mm2]) => [title, colour, mm2 / total, `${mm2.toPrecision(3)} mm²`]);
      return { title: `${total.toPrecision(3)} mm² of tissue`, entries, marks: [], rest: "", note: "What is read is left clear." };
    }
    if (layer === "none") return meta.statement && marks.length ? { title: "H&E", entries: [], marks, rest: "" } : null;
    const held = meta.calibrated_on && ["differs", "lower", "upper", "width"].includes(layer) ? `intervals calibrated on: ${meta.calibrated_on}` : "";
    const note = [meta.refers_short, held].filter(Boolean).join("; "), cut = this.cut(at);
    if (layer === "differs") {
      const top = this.differsTop(at), mean = meta.means.value[at.type];
      const ends = [signed(-top, meta.unit), "0", signed(top, meta.unit)];
      const pale = meta.has_bounds ? "; pale: the interval holds it" : "";
      return { title: `less and more than ${format(mean, meta.unit)}${pale}`, map: FACTS.signed, ends, marks, note, cut };
    }
    if (layer === "channels") {
      const entries = this.channels(at).map(({ name, top, number }) => [name, Object.values(INKS)[number], 0, `0 to ${format(top, meta.unit)}`]);
      return { title: "the more ink, the more of it; inks mix", entries, marks, rest: "", note, cut };
    }
    const shown = this.values(at);
    if (shown) {
      let over = false;
      for (const value of shown.values) if (value > shown.top * 1.0001) { over = true; break; }
      const digits = shown.unit === "proportion" ? (shown.top >= 0.1 ? 0 : 1) : undefined;
      const ends = [0, shown.top / 2, shown.top].map((value) => format(value, shown.unit, digits));
      if (over) ends[2] = `≥ ${ends[2]}`;
      return { title: shown.title, map: this.mapOf(layer), ends, marks, note, cut };
    }
    const counts = new Array(meta.types.length).fill(0);
    let known = 0;
    (layer === "dominant" ? data.dominant : data.label_dominant).forEach((code, i) => {
      if (!Number.isNaN(code) && (layer !== "dominant" || data.in_scope[i] > 0.5)) { counts[Math.round(code)]++; known++; }
    });
    const order = meta.types.map((_, i) => i).filter((i) => counts[i]).sort((a, b) => counts[b] - counts[a]);
    const entries = order.slice(0, NAMED_AT_MOST).map((i) => [meta.types[i], meta.colours[i], counts[i] / known]);
    const rest = order.length - entries.length;
    const title = `share of ${meta.spots ? "spots" : "tiles"}${overlay.counts.outside ? " in scope" : ""}`;
    return { title, entries, marks, note, rest: rest ? `and ${rest} more` : "" };
  }
}

// Hatching is drawn in screen px, so that it looks the same at every zoom; light and dark lines show on every colour.
const HATCHES = {
  outside: {
    step: 9,
    lines: [
      ["rgb(255,255,255)", 0.8, 1.2, "M-1,5.5 L5.5,-1 M3.5,10 L10,3.5"], ["rgb(20,20,30)", 0.85, 1.2, "M-1,7 L7,-1 M5,10 L10,5 M-1,-2 L-2,-1"],
    ],
  },
  unread: { step: 6, lines: [["rgb(255,255,255)", 0.75, 6, "M0,3 L6,3"], ["rgb(60,60,70)", 0.95, 1, "M0,0 L6,6 M6,0 L0,6"]] },
};
const HATCHED = new Map();
function hatchPattern(context, kind, ratio) {
  const name = `${kind} ${ratio}`;
  if (!HATCHED.has(name)) HATCHED.set(name, hatchCell(kind, ratio));
  return context.createPattern(HATCHED.get(name), "repeat");
}
function hatchCell(kind, ratio) {
  const { step, lines } = HATCHES[kind], cell = document.createElement("canvas");
  cell.width = cell.height = step * ratio;
  const own = cell.getContext("2d");
  own.scale(ratio, ratio);
  for (const [colour, alpha, wide, path] of lines) {
    own.strokeStyle = colour; own.globalAlpha = alpha; own.lineWidth = wide;
    own.stroke(new Path2D(path));
  }
  return cell;
}
