// What stands under the pointer (or under the cross, for the keyboard): the strongest types with their intervals.
const READ_AT_MOST = 5;
class Readout {
  constructor(app) { this.app = app; this.box = $("readout"); }
  hide() { this.box.hidden = true; }
  // Rows of the table: [type, value, interval, label] in words.
  rows(i, { scene: { meta, data }, type } = this.app.panes[0]) {
    const layers = [...data.layers.values()];
    const value = (layer) => (Number.isNaN(layer.value[i]) ? -1 : layer.value[i]);
    const order = layers.sort((a, b) => value(b) - value(a)).slice(0, READ_AT_MOST);
    const chosen = data.layers.get(type);
    if (chosen && !order.includes(chosen)) order.push(chosen);
    const words = (number) => format(number, meta.unit);
    return order.map((layer) => [
      layer.number, words(layer.value[i]),
      ...(layer.lower ? [`${words(layer.lower[i]).replace(" %", "")} – ${words(layer.upper[i])}`] : []),
      ...(layer.label ? [words(layer.label[i])] : []),
    ]);
  }
  state(i, { scene: { data, meta } } = this.app.panes[0]) {
    if (data.read_ok[i] < 0.5) return "could not be read";
    if (!meta.has_scope) return "";
    const novelty = Number.isNaN(data.novelty[i]) ? "" : `, novelty ${format(data.novelty[i], "")}`;
    return (data.in_scope[i] < 0.5 ? "out of scope" : "in scope") + novelty;
  }
  // What the tile is, only as fine as the head can tell; "" in a map that says nothing of it.
  answer(i, { scene: { data, meta } } = this.app.panes[0]) {
    return Number.isNaN(data.answer[i]) ? "" : `answer: ${meta.answers[Math.round(data.answer[i])]}`;
  }
  // i: row of the map in the pane; x, y: where to stand, px from the corner of the stage.
  show(i, x, y, pane = this.app.panes[0]) {
    const { box } = this, { meta, data } = pane.scene;
    if (i < 0) { this.hide(); return; }
    const table = element("table"), head = element("tr");
    const names = ["cell type", "predicted", ...(meta.has_bounds ? [meta.interval_words] : []), ...(meta.has_label ? ["label"] : [])];
    for (const name of names) head.append(element("th", name, { scope: "col" }));
    table.append(head);
    for (const [number, ...cells] of this.rows(i, pane)) {
      const row = element("tr", null, number === pane.type ? { class: "chosen" } : {}), name = element("td");
      name.append(swatch(meta.colours[number]), meta.types[number]);
      row.append(name, ...cells.map((text) => element("td", text)));
      table.append(row);
    }
    if (data.layers.size < meta.types.length) {
      table.append(element("caption", `${data.layers.size} of ${meta.types.length} cell types have come`, { class: "quiet" }));
    }
    const readable = !Number.isNaN(data.dominant[i]);
    const title = !readable ? "No prediction" : data.in_scope[i] < 0.5 ? "Out of scope" : meta.types[Math.round(data.dominant[i])];
    if (meta.has_bounds && meta.calibrated_on) {
      table.append(element("caption", `intervals calibrated on: ${meta.calibrated_on}`, { class: "quiet" }));
    }
    const lines = [this.state(i, pane), this.answer(i, pane)].filter(Boolean).map((text) => element("div", text, { class: "quiet" }));
    box.replaceChildren(element("b", title), ...lines, ...(readable ? [table] : []));
    box.hidden = false;
    const stage = $("panes"), wide = box.offsetWidth, high = box.offsetHeight;
    const flip = (at, size, all) => Math.max(6, at + 18 + size > all ? at - size - 18 : at + 18);
    box.style.left = `${flip(x, wide, stage.clientWidth)}px`;
    box.style.top = `${flip(y, high, stage.clientHeight)}px`;
  }
  words(i, pane = this.app.panes[0]) {
    if (i < 0) return "no tile here";
    const { meta } = pane.scene;
    return `${[this.state(i, pane), this.answer(i, pane)].filter(Boolean).join(", ")} ${this.rows(i, pane).map(([number, ...cells]) => `${meta.types[number]} ${cells.join(", ")}`).join("; ")}`;
  }
}
