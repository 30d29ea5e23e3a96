// The view as a picture or a drawing, and the numbers of the selection.
function download(name, blob) {
  const link = element("a", null, { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const safeName = (text) => text.replace(/[^A-Za-z0-9_.-]+/g, "_").replace(/^[_.]+/, "") || "view";
const escaped = (text) => String(text).replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);
// A table program runs a cell that begins like a formula; an apostrophe keeps it text.
const cell = (text) => { const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : String(text); return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe; };

function exportPicture(app) {
  const ratio = 2, panes = app.visiblePanes(), head = 34 * ratio, foot = 46 * ratio;
  const width = panes.reduce((sum, pane) => sum + pane.width, 0) * ratio, height = panes[0].height * ratio;
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height + head + foot;
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  let left = 0;
  for (const pane of panes) {
    const own = document.createElement("canvas");
    own.width = pane.width * ratio; own.height = height;
    pane.draw(own.getContext("2d"), ratio);
    context.drawImage(own, left, head);
    context.fillStyle = "#1a1a1f"; context.font = `600 ${14 * ratio}px system-ui, sans-serif`; context.textAlign = "left"; context.textBaseline = "middle";
    context.fillText(`${app.meta.name}: ${app.caption(pane.number)}`, left + 8 * ratio, head / 2, pane.width * ratio - 16 * ratio);
    left += pane.width * ratio;
  }
  const legend = app.legend();
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  if (legend.kind === "scale") {
    const x = 10 * ratio, y = head + height + 10 * ratio;
    legend.map.forEach(([red, green, blue], i) => { context.fillStyle = `rgb(${red} ${green} ${blue})`; context.fillRect(x + i * ratio, y, ratio + 1, 12 * ratio); });
    context.fillStyle = "#1a1a1f"; context.textBaseline = "top";
    context.textAlign = "left"; context.fillText("0", x, y + 15 * ratio);
    context.textAlign = "right"; context.fillText(shown(legend.top), x + 256 * ratio, y + 15 * ratio);
    context.textAlign = "left"; context.fillText(legend.text, x + 270 * ratio, y);
  } else {
    let x = 10 * ratio, y = head + height + 8 * ratio;
    for (const [name, colour] of legend.entries) {
      const wide = context.measureText(name).width + 30 * ratio;
      if (x + wide > width) { x = 10 * ratio; y += 18 * ratio; }
      context.fillStyle = `rgb(${colour.join(" ")})`; context.fillRect(x, y, 12 * ratio, 12 * ratio);
      context.fillStyle = "#1a1a1f"; context.textAlign = "left"; context.textBaseline = "top"; context.fillText(name, x + 17 * ratio, y);
      x += wide;
    }
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

const DRAWN_AT_MOST = 20000;
function exportDrawing(app) {
  const pane = app.panes[0], { view, data, meta } = app, ratio = 2;
  const under = document.createElement("canvas");
  under.width = pane.width * ratio; under.height = pane.height * ratio;
  const kept = pane.picture, hatching = app.hatching;
  const left = view.x - pane.width / 2 / view.scale, top = view.y - pane.height / 2 / view.scale;
  const half = meta.cell_px / 2 * view.scale, marks = [];
  if (app.colourOf) for (let i = 0; i < data.n; i++) {
    const x = (data.x[i] - left) * view.scale, y = (data.y[i] - top) * view.scale, colour = app.colourOf(i);
    if (!colour || x < -half || y < -half || x > pane.width + half || y > pane.height + half) continue;
    const fill = `rgb(${colour & 255},${(colour >> 8) & 255},${(colour >> 16) & 255})`;
    marks.push(meta.spots ? `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${half.toFixed(1)}" fill="${fill}"/>`
      : `<rect x="${(x - half).toFixed(1)}" y="${(y - half).toFixed(1)}" width="${(2 * half).toFixed(1)}" height="${(2 * half).toFixed(1)}" fill="${fill}"/>`);
  }
  const vector = marks.length <= DRAWN_AT_MOST;
  if (vector) { pane.picture = null; app.hatching = false; }
  pane.draw(under.getContext("2d"), ratio);
  pane.picture = kept; app.hatching = hatching;
  const legend = app.legend();
  const words = legend.kind === "scale" ? `${legend.text}: 0 to ${shown(legend.top)}` : legend.entries.map(([name]) => name).join(", ");
  const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${pane.width}" height="${pane.height + 40}" font-family="sans-serif">
<title>${escaped(`${meta.name}: ${app.caption(0)}`)}</title>
<image href="${under.toDataURL("image/jpeg", 0.9)}" width="${pane.width}" height="${pane.height}"/>
${vector ? `<g opacity="${app.opacity}">${marks.join("")}</g>` : ""}
<text x="8" y="${pane.height + 24}" font-size="14">${escaped(`${meta.name}: ${app.caption(0)}. ${words}`)}</text>
</svg>`;
  return new Blob([text], { type: "image/svg+xml" });
}

async function exportTable(app) {
  const layers = await app.data.all(), { meta, data } = app;
  const rows = app.selection.rows || [...Array(data.n).keys()];
  const names = meta.types.flatMap((name) => (meta.has_bounds ? [name, `${name}_lower`, `${name}_upper`] : [name]));
  const lines = [["x_px", "y_px", ...names, "novelty", "in_scope", "read_ok"].map(cell).join(",")];
  const number = (value) => (Number.isNaN(value) ? "" : String(+value.toPrecision(5)));
  for (const i of rows) {
    const values = layers.flatMap((layer) => (meta.has_bounds ? [layer.value[i], layer.lower[i], layer.upper[i]] : [layer.value[i]]));
    lines.push([data.x[i], data.y[i], ...values.map(number), number(data.novelty[i]), data.in_scope[i] > 0.5, data.read_ok[i] > 0.5].join(","));
  }
  return new Blob([lines.join("\n") + "\n"], { type: "text/csv" });
}
