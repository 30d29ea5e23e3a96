// The program: what is shown, and the keys.
class App {
  constructor() {
    this.view = new View();
    this.layer = "type"; this.type = 0; this.map = Object.keys(FACTS.maps)[0]; this.beside = "off";
    this.opacity = 0.75; this.hatching = true; this.tool = "pan"; this.opened = 0;
    this.selection = new Selection(this);
    this.panel = new Panel(this);
    this.panes = [0, 1].map((number) => new Pane($(`pane-${number}`), this.view, this, number));
  }
  visiblePanes() { return this.panes.slice(0, this.beside === "off" ? 1 : 2); }
  redraw() { this.panes.forEach((pane) => pane.redraw()); }
  status(text) { $("status").textContent = text; }

  async open(number) {
    const turn = ++this.opened, meta = FACTS.slides[number];
    this.status(`loading ${meta.name}`);
    try {
      const data = await new SlideData(meta).open();
      if (turn !== this.opened) return;
      this.meta = meta; this.data = data;
      this.overlay = new Overlay(data);
      this.pyramid = new Pyramid(meta, () => this.redraw());
      this.selection.clear();
      this.type = Math.min(this.type, meta.types.length - 1);
      if (turn === 1) this.type = meta.means.value.indexOf(Math.max(...meta.means.value));
      if (this.layer === "width" && !meta.has_bounds) this.layer = "type";
      this.beside = meta.has_label ? "label" : "off";
      this.panel.opened();
      $("second").hidden = this.beside === "off";
      this.view.fit(meta, this.panes[0].width, this.panes[0].height);
      await this.show({});
      this.selectionChanged();
      this.status("");
      document.documentElement.dataset.ready = meta.key;
      data.all().catch(() => {});
    } catch (error) { this.status(`${meta.name}: ${error.message}`); }
  }

  // Change what is shown; only the picture of colours is made anew.
  async show(change) {
    const begun = performance.now();
    Object.assign(this, change);
    const turn = this.turn = (this.turn || 0) + 1;
    await this.data.type(this.type);
    if (turn !== this.turn) return;
    $("second").hidden = this.beside === "off";
    const besideLayer = this.beside === "label" ? (this.layer === "dominant" ? "label_dominant" : "label") : this.beside;
    this.colourOf = this.colours(this.layer);
    this.panes[0].picture = this.colourOf && this.overlay.picture(this.colourOf);
    const other = this.beside === "off" ? null : this.colours(besideLayer);
    this.panes[1].picture = other && this.overlay.picture(other);
    this.panel.shown();
    this.redraw();
    document.documentElement.dataset.switchMs = (performance.now() - begun).toFixed(1);
  }
  colours(layer) {
    const { data, meta } = this, chosen = data.layers.get(this.type), map = FACTS.maps[this.map];
    switch (layer) {
      case "type": return colourByValue(chosen.value, chosen.top, map);
      case "label": return chosen.label && colourByValue(chosen.label, chosen.top, map);
      case "width": return chosen.width && colourByValue(chosen.width, chosen.widthTop, map);
      case "novelty": return colourByValue(data.novelty, 1, map);
      case "dominant": return colourByCode(data.dominant, meta.colours);
      case "label_dominant": return colourByCode(data.label_dominant, meta.colours);
      default: return null;
    }
  }
  caption(number) {
    const name = this.meta.types[this.type], layer = number ? this.beside : this.layer;
    return {
      type: `${name}: predicted`, dominant: "dominant type: predicted", width: `${name}: width of the interval`, novelty: "novelty",
      none: "H&E", off: "", label: this.layer === "dominant" ? "dominant type: label" : `${name}: label`,
    }[layer];
  }
  legend() {
    const { meta } = this, chosen = this.data.layers.get(this.type), map = FACTS.maps[this.map];
    if (this.layer === "type") return { kind: "scale", map, top: chosen.top, text: meta.unit };
    if (this.layer === "width") return { kind: "scale", map, top: chosen.widthTop, text: `interval, ${meta.unit}` };
    if (this.layer === "novelty") return { kind: "scale", map, top: 1, text: "percentile of held-out training tiles" };
    return { kind: "types", entries: this.layer === "dominant" ? meta.types.map((name, i) => [name, meta.colours[i]]) : [] };
  }
  stepType(step) {
    const names = this.meta.types.map((_, number) => number).filter((number) => !$(`type-${number}`).hidden);
    if (!names.length) return;
    const place = names.indexOf(this.type);
    this.show({ type: names[(place + step + names.length) % names.length], layer: this.layer === "width" ? "width" : "type" });
  }
  setOpacity(value) { this.opacity = Math.min(1, Math.max(0, value)); $("opacity").value = Math.round(100 * this.opacity); this.redraw(); }
  setHatching(on) { this.hatching = on; $("hatch").checked = on; this.redraw(); }
  setTool(tool) {
    this.tool = tool;
    for (const name of ["pan", "rectangle", "lasso"]) $(`tool-${name}`).setAttribute("aria-pressed", name === tool);
    this.panes.forEach((pane) => pane.canvas.classList.toggle("selecting", tool !== "pan"));
  }
  selectionChanged() { this.panel.selected(); this.redraw(); }
  drop() { this.selection.clear(); this.selectionChanged(); }
  hover(event, place) { if (this.overlay) this.panel.readout(event, event ? this.overlay.under(...place) : -1); }
  fit() { this.view.fit(this.meta, this.panes[0].width, this.panes[0].height); }
  theme() {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    this.redraw();
  }
  keys() { const open = $("keys").hidden; $("keys").hidden = !open; $("help").setAttribute("aria-expanded", open); }
  key(event) {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const layers = Object.keys(LAYERS), number = Number(event.key);
    if (number >= 1 && number <= layers.length) {
      if (!document.querySelector(`[data-layer=${layers[number - 1]}]`).disabled) this.show({ layer: layers[number - 1] });
      return;
    }
    const actions = {
      ArrowLeft: () => this.view.move(60, 0), ArrowRight: () => this.view.move(-60, 0), ArrowUp: () => this.view.move(0, 60), ArrowDown: () => this.view.move(0, -60),
      "+": () => this.view.zoom(1.4, this.meta), "=": () => this.view.zoom(1.4, this.meta), "-": () => this.view.zoom(1 / 1.4, this.meta), 0: () => this.fit(),
      "[": () => this.stepType(-1), "]": () => this.stepType(1), ",": () => this.setOpacity(this.opacity - 0.1), ".": () => this.setOpacity(this.opacity + 0.1),
      h: () => this.setHatching(!this.hatching), t: () => this.theme(), v: () => this.setTool("pan"), r: () => this.setTool("rectangle"), l: () => this.setTool("lasso"),
      "/": () => $("search").focus(), "?": () => this.keys(), Escape: () => this.drop(),
    };
    const action = actions[event.key];
    if (action) { event.preventDefault(); action(); }
  }
}

if (window.matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.theme = "dark";
const app = new App();
document.addEventListener("keydown", (event) => app.key(event));
for (const name of ["pan", "rectangle", "lasso"]) $(`tool-${name}`).addEventListener("click", () => app.setTool(name));
$("zoom-in").addEventListener("click", () => app.view.zoom(1.6, app.meta));
$("zoom-out").addEventListener("click", () => app.view.zoom(1 / 1.6, app.meta));
$("zoom-fit").addEventListener("click", () => app.fit());
$("theme").addEventListener("click", () => app.theme());
$("help").addEventListener("click", () => app.keys());
$("drop").addEventListener("click", () => app.drop());
$("export-png").addEventListener("click", async () => download(`${safeName(app.meta.name)}.png`, await exportPicture(app)));
$("export-svg").addEventListener("click", () => download(`${safeName(app.meta.name)}.svg`, exportDrawing(app)));
$("export-csv").addEventListener("click", async () => download(`${safeName(app.meta.name)}_selection.csv`, await exportTable(app)));
app.open(0);
