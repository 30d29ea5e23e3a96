// What each layer shows: its colours, its words and its legend. A colour is packed as the canvas keeps it; 0 is none.
const LAYERS = {
  type: "Abundance", dominant: "Dominant type", label: "Label", lower: "Lower bound", upper: "Upper bound",
  width: "Interval width", novelty: "Novelty", none: "H&E only",
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
    return { label: meta.has_label, lower: meta.has_bounds, upper: meta.has_bounds, width: meta.has_bounds,
      novelty: meta.has_novelty }[layer] ?? true;
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
    if (layer === "dominant") return colourByCode(data.dominant, meta.colours);
    if (layer === "label_dominant") return colourByCode(data.label_dominant, meta.colours);
    const shown = this.values(layer);
    return shown && shown.values && colourByValue(shown.values, shown.top, this.mapOf(layer));
  }
  caption(layer) {
    const name = this.app.meta.types[this.app.type];
    return {
      type: `${name}, predicted`, label: `${name}, label`, lower: `${name}, lower bound`, upper: `${name}, upper bound`,
      width: `${name}, width of the interval`, dominant: "Dominant type, predicted",
      label_dominant: "Dominant type, label", novelty: "Novelty of the tile", none: "H&E",
    }[layer];
  }
  legend(layer) {
    const { app } = this, { data, meta } = app, marks = [];
    if (layer === "none" || !data.layers.get(app.type)) return null;
    if (app.hatching && app.overlay.counts.outside) marks.push(["outside", "out of scope"]);
    if (app.hatching && app.overlay.counts.unread) marks.push(["unread", "could not be read"]);
    const shown = this.values(layer);
    if (shown) {
      let over = false;
      for (const value of shown.values) if (value > shown.top * 1.0001) { over = true; break; }
      const digits = shown.unit === "proportion" ? (shown.top >= 0.1 ? 0 : 1) : undefined;
      const ends = [0, shown.top / 2, shown.top].map((value) => format(value, shown.unit, digits));
      if (over) ends[2] = `≥ ${ends[2]}`;
      return { title: shown.title, map: this.mapOf(layer), ends, marks };
    }
    const counts = new Array(meta.types.length).fill(0);
    let known = 0;
    for (const code of layer === "dominant" ? data.dominant : data.label_dominant) {
      if (!Number.isNaN(code)) { counts[Math.round(code)]++; known++; }
    }
    const order = meta.types.map((_, i) => i).filter((i) => counts[i]).sort((a, b) => counts[b] - counts[a]);
    const entries = order.slice(0, NAMED_AT_MOST).map((i) => [meta.types[i], meta.colours[i], counts[i] / known]);
    const rest = order.length - entries.length;
    const title = `share of ${meta.spots ? "spots" : "tiles"}`;
    return { title, entries, marks, rest: rest ? `and ${rest} more` : "" };
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
