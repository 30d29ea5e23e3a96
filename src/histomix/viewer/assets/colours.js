// What each layer shows: its colours, its words and its legend. A colour is packed as the canvas keeps it; 0 is none.
const LAYERS = {
  differs: "Difference", type: "Abundance", dominant: "Dominant type", label: "Label", lower: "Lower bound", upper: "Upper bound",
  width: "Interval width", novelty: "Novelty", none: "H&E only", areas: "What was read",
};
const NAMED_AT_MOST = 8;
const packedColour = ([red, green, blue]) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
const unpackedColour = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];

function colourByValue(values, top, map) {
  const table = Uint32Array.from(map, packedColour), step = 255 / top;
  return (i) => {
    const value = values[i];
    return Number.isNaN(value) ? 0 : table[value >= top ? 255 : value <= 0 ? 0 : Math.round(value * step)];
  };
}
// More or less than a mean; pale where an interval holds the mean.
const PALE = 0.7;
function colourBySign(layer, mean, top) {
  const table = Uint32Array.from(FACTS.signed, packedColour);
  const pale = Uint32Array.from(FACTS.signed, (colour) => packedColour(colour.map((part) => Math.round(part + PALE * (255 - part)))));
  return (i) => {
    const value = layer.value[i];
    if (Number.isNaN(value)) return 0;
    const unsure = layer.lower && layer.lower[i] <= mean && mean <= layer.upper[i];
    return (unsure ? pale : table)[Math.max(0, Math.min(255, Math.round(127.5 + 127.5 * (value - mean) / top)))];
  };
}
// 99th percentile of the differences from the mean, over the tiles in scope.
function usualDifference(layers, means, data) {
  const found = [];
  for (const layer of layers) {
    for (let i = 0; i < data.n; i++) {
      if (data.in_scope[i] > 0.5 && !Number.isNaN(layer.value[i])) found.push(Math.abs(layer.value[i] - means[layer.number]));
    }
  }
  found.sort((a, b) => a - b);
  return found[Math.floor(0.99 * (found.length - 1))] || 1;
}
function colourByCode(codes, colours) {
  const table = Uint32Array.from(colours, packedColour);
  return (i) => (Number.isNaN(codes[i]) ? 0 : table[Math.round(codes[i])]);
}

class Layers {
  constructor(app) { this.app = app; }
  // What a tile may be trusted for has a map of its own, so that it is not taken for an abundance. Pale is sure, and the
  // darkest part is left out, so that tissue shows through.
  mapOf(layer) {
    const other = this.app.map === "magma" ? "viridis" : "magma";
    return layer === "width" || layer === "novelty"
      ? FACTS.maps[other].map((_, i, map) => map[Math.round(255 - 0.82 * i)])
      : FACTS.maps[this.app.map];
  }
  has(layer) {
    const { meta } = this.app;
    return { differs: meta.varying.length > 0 && !meta.statement, label: meta.has_label, lower: meta.has_bounds, upper: meta.has_bounds, width: meta.has_bounds,
      novelty: meta.has_novelty, areas: meta.areas.length > 0 }[layer] ?? true;
  }
  // Values of a layer and the top of its scale; null for layers of codes and for none.
  values(layer) {
    const { app } = this, { data, meta } = app, chosen = data.layers.get(app.type);
    if (layer === "novelty") return { values: data.novelty, top: 1, title: meta.novelty_words, unit: "" };
    if (layer === "width") {
      return { values: chosen.width, top: chosen.widthTop, title: `${meta.interval_words} width, ${meta.unit}`, unit: meta.unit };
    }
    if (!["type", "label", "lower", "upper"].includes(layer)) return null;
    // One scale for prediction, label and bounds, so that they can be compared.
    const top = { max: chosen.top, usual: chosen.usual, all: meta.top }[app.range];
    return { values: layer === "type" ? chosen.value : chosen[layer], top, title: meta.unit, unit: meta.unit };
  }
  colours(layer) {
    const { data, meta } = this.app;
    if (layer === "differs") {
      const chosen = data.layers.get(this.app.type);
      return colourBySign(chosen, meta.means.value[chosen.number], this.differsTop());
    }
    if (layer === "dominant") return colourByCode(data.dominant, meta.colours);
    if (layer === "label_dominant") return colourByCode(data.label_dominant, meta.colours);
    const shown = this.values(layer);
    return shown && shown.values && colourByValue(shown.values, shown.top, this.mapOf(layer));
  }
  // The scale of the overview, so that all types that vary compare; a type beyond it has its own.
  differsTop() {
    const { app } = this, { data, meta } = app, chosen = data.layers.get(app.type);
    if (meta.varying.includes(app.type) && app.overview.top) return app.overview.top;
    return usualDifference([chosen], meta.means.value, data);
  }
  caption(layer) {
    const name = this.app.meta.types[this.app.type];
    return {
      differs: `${name}, difference from the slide's mean`, type: `${name}, predicted`, label: `${name}, label`, lower: `${name}, lower bound`, upper: `${name}, upper bound`,
      width: `${name}, width of the interval`, dominant: "Dominant type, predicted",
      label_dominant: "Dominant type, label", novelty: "Novelty of the tile", none: "H&E", areas: "What was read of the tissue, and what was not",
    }[layer];
  }
  legend(layer) {
    const { app } = this, { data, meta } = app, marks = [];
    if (!data.layers.get(app.type)) return null;
    if (app.hatching && app.overlay.counts.outside) marks.push(["outside", "out of scope"]);
    if (app.hatching && app.overlay.counts.unread) marks.push(["unread", "could not be read"]);
    if (layer === "areas") {
      const total = meta.areas.reduce((sum, [, , mm2]) => sum + mm2, 0);
      const entries = meta.areas.map(([title, colour, mm2]) => [title, colour, mm2 / total, `${mm2.toPrecision(3)} mm²`]);
      return { title: `${total.toPrecision(3)} mm² of tissue`, entries, marks: [], rest: "", note: "What is read is left clear." };
    }
    if (layer === "none") return meta.statement && marks.length ? { title: "H&E", entries: [], marks, rest: "" } : null;
    const held = meta.calibrated_on && ["differs", "lower", "upper", "width"].includes(layer) ? `intervals calibrated on: ${meta.calibrated_on}` : "";
    const note = [meta.refers_short, held].filter(Boolean).join("; ");
    if (layer === "differs") {
      const top = this.differsTop(), mean = meta.means.value[app.type];
      const ends = [signed(-top, meta.unit), "0", signed(top, meta.unit)];
      const pale = meta.has_bounds ? "; pale: the interval holds it" : "";
      return { title: `less and more than ${format(mean, meta.unit)}${pale}`, map: FACTS.signed, ends, marks, note };
    }
    const shown = this.values(layer);
    if (shown) {
      let over = false;
      for (const value of shown.values) if (value > shown.top * 1.0001) { over = true; break; }
      const digits = shown.unit === "proportion" ? (shown.top >= 0.1 ? 0 : 1) : undefined;
      const ends = [0, shown.top / 2, shown.top].map((value) => format(value, shown.unit, digits));
      if (over) ends[2] = `≥ ${ends[2]}`;
      return { title: shown.title, map: this.mapOf(layer), ends, marks, note };
    }
    const counts = new Array(meta.types.length).fill(0);
    let known = 0;
    (layer === "dominant" ? data.dominant : data.label_dominant).forEach((code, i) => {
      if (!Number.isNaN(code) && (layer !== "dominant" || data.in_scope[i] > 0.5)) { counts[Math.round(code)]++; known++; }
    });
    const order = meta.types.map((_, i) => i).filter((i) => counts[i]).sort((a, b) => counts[b] - counts[a]);
    const entries = order.slice(0, NAMED_AT_MOST).map((i) => [meta.types[i], meta.colours[i], counts[i] / known]);
    const rest = order.length - entries.length;
    const title = `share of ${meta.spots ? "spots" : "tiles"}${app.overlay.counts.outside ? " in scope" : ""}`;
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
function hatchPattern(context, kind, ratio) {
  const { step, lines } = HATCHES[kind], cell = document.createElement("canvas");
  cell.width = cell.height = step * ratio;
  const own = cell.getContext("2d");
  own.scale(ratio, ratio);
  for (const [colour, alpha, wide, path] of lines) {
    own.strokeStyle = colour; own.globalAlpha = alpha; own.lineWidth = wide;
    own.stroke(new Path2D(path));
  }
  return context.createPattern(cell, "repeat");
}
