// The view as a picture or a drawing, and the numbers of the selection.
const DRAWN_AT_MOST = 20000, PICTURE_RATIO = 2, SMALL_CHARACTER = 5.2, PAPER = "#ffffff";
const FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";
function download(name, blob) {
  const link = element("a", null, { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const safeName = (text) => text.replace(/[^A-Za-z0-9_.-]+/g, "_").replace(/^[_.]+/, "").slice(0, 80) || "view";
const escaped = (text) => String(text)
  .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, " ").replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);
// A table program runs a cell that begins like a formula; an apostrophe keeps it text.
function cell(text) {
  const safe = /^\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]/.test(text) ? `'${text}` : String(text);
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Two pens that draw one figure: on a canvas, and as SVG.
class CanvasPen {
  constructor(width, height) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = width * PICTURE_RATIO; this.canvas.height = height * PICTURE_RATIO;
    this.context = this.canvas.getContext("2d");
    this.context.scale(PICTURE_RATIO, PICTURE_RATIO);
  }
  rect(x, y, width, height, fill) { this.context.fillStyle = fill; this.context.fillRect(x, y, width, height); }
  text(x, y, words, { size = 12, weight = 400, anchor = "start", fill = "#22252a" } = {}) {
    const { context } = this;
    context.font = `${weight} ${size}px ${FONT}`; context.fillStyle = fill; context.textAlign = anchor === "middle" ? "center" : anchor;
    context.textBaseline = "alphabetic";
    context.fillText(words, x, y);
  }
  bar(x, y, width, height, map) { map.forEach((colour, i) => this.rect(x + i * width / 256, y, width / 256 + 0.5, height, css(colour))); }
  hatch(x, y, width, height, kind) { this.rect(x, y, width, height, hatchPattern(this.context, kind, 1)); }
  pane(pane, x, y) {
    const own = document.createElement("canvas");
    own.width = Math.round(pane.width * PICTURE_RATIO); own.height = Math.round(pane.height * PICTURE_RATIO);
    pane.draw(own.getContext("2d"), PICTURE_RATIO, { ground: PAPER });
    this.context.drawImage(own, x, y, pane.width, pane.height);
  }
  blob() { return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png")); }
}

class DrawingPen {
  constructor(width, height, title) {
    const patterns = Object.entries(HATCHES).map(([kind, { step, lines }]) => {
      const paths = lines.map(([colour, alpha, wide, path]) => `<path d="${path}" stroke="${colour}" stroke-opacity="${alpha}" stroke-width="${wide}"/>`);
      return `<pattern id="${kind}" width="${step}" height="${step}" patternUnits="userSpaceOnUse" fill="none">${paths.join("")}</pattern>`;
    });
    this.parts = [
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="${FONT}">`,
      `<title>${escaped(title)}</title><defs>${patterns.join("")}</defs>`,
    ];
    this.bars = 0;
  }
  add(text) { this.parts.push(text); }
  rect(x, y, width, height, fill) { this.add(`<path d="M${x},${y}h${width}v${height}h${-width}z" fill="${fill}"/>`); }
  text(x, y, words, { size = 12, weight = 400, anchor = "start", fill = "#22252a" } = {}) {
    this.add(`<text x="${x}" y="${y}" font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" fill="${fill}">${escaped(words)}</text>`);
  }
  bar(x, y, width, height, map) {
    const name = `scale${this.bars++}`, steps = [...Array(17).keys()];
    const stops = steps.map((k) => `<stop offset="${k / 16}" stop-color="${css(map[Math.min(255, 16 * k)])}"/>`);
    this.add(`<linearGradient id="${name}">${stops.join("")}</linearGradient>`);
    this.rect(x, y, width, height, `url(#${name})`);
  }
  hatch(x, y, width, height, kind) { this.rect(x, y, width, height, `url(#${kind})`); }
  // The slide is a picture; tiles are shapes, unless there are more than a drawing program would open.
  pane(pane, x, y) {
    const { app, view, scene: { data, meta, overlay } } = pane, own = document.createElement("canvas");
    const left = view.x - pane.width / 2 / view.scale, top = view.y - pane.height / 2 / view.scale, half = meta.cell_px / 2 * view.scale;
    const shapes = [], hatched = [], colourOf = app.layers.colours(pane);
    for (let i = 0; colourOf && i < data.n; i++) {
      const across = (data.x[i] - left) * view.scale, down = (data.y[i] - top) * view.scale, colour = colourOf(i);
      if (across < -half || down < -half || across > pane.width + half || down > pane.height + half) continue;
      const [a, b, r] = [across, down, half].map((value) => +value.toFixed(2));
      const shape = (fill) => (meta.spots ? `<circle cx="${a}" cy="${b}" r="${r}" fill="${fill}"/>`
        : `<rect x="${+(a - r).toFixed(2)}" y="${+(b - r).toFixed(2)}" width="${2 * r}" height="${2 * r}" fill="${fill}"/>`);
      if (colour) shapes.push(shape(css(unpackedColour(colour))));
      if (app.hatching && overlay.stateOf(i)) hatched.push(shape(`url(#${overlay.stateOf(i)})`));
    }
    const crisp = meta.spots ? "" : ' shape-rendering="crispEdges"';  // no seams between tiles
    const vector = shapes.length <= DRAWN_AT_MOST && pane.layer !== "areas";
    own.width = Math.round(pane.width * PICTURE_RATIO); own.height = Math.round(pane.height * PICTURE_RATIO);
    pane.draw(own.getContext("2d"), PICTURE_RATIO, { overlay: !vector, marks: false, ground: PAPER });
    this.add(`<svg x="${x}" y="${y}" width="${pane.width}" height="${pane.height}">`);
    this.add(`<image href="${own.toDataURL("image/jpeg", 0.92)}" width="${pane.width}" height="${pane.height}"/>`);
    if (vector) this.add(`<g opacity="${app.opacity}"${crisp}>${shapes.join("")}</g><g>${hatched.join("")}</g>`);
    const { selection } = app, outlines = app.regions.of(pane.scene).map(({ polygons, colour, name }) => [polygons.flat(), css(colour), name]);
    if (selection.scene === pane.scene && selection.rows) outlines.push([selection.rings, "#14141a", ""]);
    for (const [rings, ink, name] of outlines) {
      const placed = rings.map((ring) => ring.map(([px, py]) => [(px - left) * view.scale, (py - top) * view.scale])), [[first]] = placed;
      const path = placed.map((ring) => `M${ring.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L")}Z`).join("");
      for (const [colour, wide] of [["#fff", 4.4], [ink, 2]]) this.add(`<path d="${path}" fill="none" stroke="${colour}" stroke-width="${wide}"/>`);
      if (name) this.text(...first.map((value) => +value.toFixed(1)), name, { weight: 600, fill: "#14141a" });
    }
    const [long, words] = pane.scale(), right = pane.width - 20, bottom = pane.height - 20;
    this.add(`<rect x="${right - long - 10}" y="${bottom - 22}" width="${long + 20}" height="33" rx="7" fill="#fff" fill-opacity=".9"/>`);
    this.rect(right - long, bottom, long, 3, "#1a1a1f");
    this.text(right - long / 2, bottom - 5, words, { weight: 600, anchor: "middle", fill: "#1a1a1f" });
    this.add("</svg>");
  }
  blob() { return new Blob([`${this.parts.join("\n")}\n</svg>\n`], { type: "image/svg+xml" }); }
}

function drawLegend(pen, legend, x, y) {
  if (!legend) return;
  pen.text(x, y + 10, legend.title, { fill: "#5d636c" });
  if (legend.map) {
    pen.bar(x, y + 18, 200, 11, legend.map);
    legend.ends.forEach((words, i) => pen.text(x + 100 * i, y + 44, words, { size: 11, anchor: ["start", "middle", "end"][i] }));
  } else {
    legend.entries.forEach(([name, colour, share, words], i) => {
      pen.rect(x, y + 18 + 17 * i, 11, 11, css(colour));
      pen.text(x + 18, y + 28 + 17 * i, `${name}  ${words || format(share, "proportion")}`);
    });
    if (legend.rest) pen.text(x + 18, y + 28 + 17 * legend.entries.length, legend.rest, { fill: "#5d636c" });
  }
  if (legend.cut) pen.text(x, y + (legend.map ? 60 : 34 + 17 * legend.entries.length), `Shown: ${legend.cut}`, { size: 11, fill: "#5d636c" });
  legend.marks.forEach(([kind, words], i) => {
    pen.rect(x + 260, y + 18 + 18 * i, 22, 12, "#9aa0aa");
    pen.hatch(x + 260, y + 18 + 18 * i, 22, 12, kind);
    pen.text(x + 290, y + 28 + 18 * i, words);
  });
}

// Lines of at most so many characters, broken between words.
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines.length - 1, longer = lines[last] ? `${lines[last]} ${word}` : word;
    if (longer.length <= most || !lines[last]) lines[last] = longer; else lines.push(word);
  }
  return lines.filter(Boolean);
}

// The figure: slide and captions above, panes side by side, a legend under each.
function drawFigure(app, Pen) {
  const panes = app.visiblePanes(), gap = 16, legends = panes.map((pane) => app.layers.legend(pane));
  const tall = Math.max(0, ...legends.map((legend) => (!legend ? 0 : legend.map ? 64 : 34 + 17 * (legend.entries.length + (legend.rest ? 1 : 0) + (legend.cut ? 1 : 0)))));
  const wide = panes.reduce((sum, pane) => sum + pane.width + gap, gap), high = Math.max(...panes.map((pane) => pane.height));
  const held = app.meta.calibrated_on && `Intervals are calibrated on: ${app.meta.calibrated_on}.`;
  const small = [`histomix ${FACTS.version}. ${app.meta.head} ${FACTS.use}`, [app.meta.statement, ...app.meta.remarks, app.meta.refers_to, app.meta.limits, held].filter(Boolean).join(" ")];
  const lines = small.flatMap((text) => wrapped(text, Math.max(30, Math.floor((wide - 2 * gap) / SMALL_CHARACTER)))), below = 82 + 15 * lines.length;
  const pen = new Pen(wide, high + tall + below, `${app.meta.name}: ${panes.map((pane) => app.caption(pane)).join(" | ")}`);
  pen.rect(0, 0, wide, high + tall + below, PAPER);
  pen.text(gap, 26, app.meta.name, { size: 15, weight: 650 });
  let left = gap;
  panes.forEach((pane, number) => {
    pen.text(left, 48, app.caption(pane), { size: 13 });
    pen.pane(pane, left, 58);
    drawLegend(pen, legends[number], left, 70 + pane.height);
    left += pane.width + gap;
  });
  lines.forEach((words, i) => pen.text(gap, high + tall + 86 + 15 * i, words, { size: 10, fill: "#5d636c" }));
  return pen.blob();
}

async function exportTable(app) {
  const { meta, data } = app.selection.scene, { rows } = app.selection, [layers, ids] = await Promise.all([data.all(), data.load("ids")]);
  const parts = [["value", ""], ["lower", "_lower"], ["upper", "_upper"], ["label", "_label"]].filter(([part]) => layers[0][part]);
  const names = meta.types.flatMap((name) => parts.map(([, ending]) => name + ending));
  const lines = [["spot", "x_px", "y_px", ...names, "novelty", "in_scope", "read_ok"].map(cell).join(",")];
  const number = (value) => (Number.isNaN(value) ? "" : String(+value.toPrecision(5)));
  for (const i of rows) {
    const values = layers.flatMap((layer) => parts.map(([part]) => number(layer[part][i])));
    const state = [number(data.novelty[i]), data.in_scope[i] > 0.5, data.read_ok[i] > 0.5];
    lines.push([cell(ids[i]), data.x[i], data.y[i], ...values, ...state].join(","));
  }
  return new Blob([lines.join("\n") + "\n"], { type: "text/csv" });
}
