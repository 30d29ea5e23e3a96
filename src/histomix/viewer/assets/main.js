// The program: what is shown, and the keys.
class App {
  constructor() {
    this.view = new View();
    this.layer = "type"; this.type = 0; this.map = Object.keys(FACTS.maps)[0]; this.range = "max"; this.beside = "off";
    this.opacity = 0.4; this.hatching = true; this.tool = "pan"; this.turns = 0; this.shows = 0;
    this.aiming = false; this.cursor = null; this.stage = "#fff";
    this.layers = new Layers(this);
    this.selection = new Selection(this);
    this.readout = new Readout(this);
    this.overview = new Overview(this);
    this.panel = new Panel(this);
    this.panes = [0, 1].map((number) => new Pane($(`pane-${number}`), this.view, this, number));
    this.view.listeners.push(() => this.moved());
  }
  visiblePanes() { return this.panes.slice(0, this.beside === "off" ? 1 : 2); }
  redraw() { this.panes.forEach((pane) => pane.redraw()); }
  status(text) { $("status").textContent = text; }
  say(text) { $("said").textContent = text; }

  async open(number) {
    const turn = ++this.turns, meta = FACTS.slides[number];
    this.status(`Loading ${meta.name}`);
    try {
      const data = await new SlideData(meta).open();
      if (turn !== this.turns) return;
      if (this.pyramid) this.pyramid.close();
      const before = this.meta, same = this.meta && meta.types.indexOf(this.meta.types[this.type]);
      this.meta = meta; this.data = data;
      this.panes.forEach((pane) => { pane.picture = null; });  // they are of the slide before
      this.overlay = new Overlay(data);
      this.pyramid = new Pyramid(meta, () => { this.redraw(); this.overview.redraw(); });
      this.selection.clear();
      // The type stays where the slide has it; at first what varies most is shown, and of a slide out of scope nothing.
      this.type = same >= 0 ? same : meta.varying[0] ?? Math.max(0, meta.means.value.indexOf(greatest(meta.means.value)));
      if (!before) this.layer = "differs";
      if (!this.layers.has(this.layer)) this.layer = "type";
      if (meta.statement) this.layer = "none";
      else if (before && before.statement) this.layer = this.layers.has("differs") ? "differs" : "type";
      this.beside = meta.has_label ? "label" : "off";
      $("slide").value = number;
      $("second").hidden = this.beside === "off";
      this.panel.opened();
      this.fit("map");
      await this.overview.open();
      await this.show({});
      this.selectionChanged();
      this.status("");
      document.documentElement.dataset.ready = meta.key;
      // The other types come when the view stands.
      const later = window.requestIdleCallback || ((act) => setTimeout(act, 300));
      later(() => { if (data === this.data) data.all().catch((error) => this.status(error.message)); }, { timeout: 3000 });
    } catch (error) { this.status(`${meta.name}: ${error.message}`); }
  }

  // Change what is shown; only the picture of colours is made anew.
  async show(change) {
    const turn = ++this.shows, resized = change.beside && (change.beside === "off") !== (this.beside === "off");
    Object.assign(this, change);
    try { await this.data.type(this.type); } catch (error) { this.status(error.message); return; }
    if (turn !== this.shows) return;
    const twin = { type: "label", differs: "label", dominant: "label_dominant" }[this.layer];
    this.panes[0].layer = this.layer;
    this.panes[1].layer = this.beside === "off" ? "none" : this.beside === "label" && twin ? twin : this.beside;
    const areas = this.panes.some((pane) => pane.layer === "areas") ? await this.data.areas() : null;
    if (turn !== this.shows) return;
    for (const pane of this.panes) {
      const colours = this.layers.colours(pane.layer);
      pane.picture = pane.layer === "areas" ? areas : colours && this.overlay.picture(colours);
    }
    $("second").hidden = this.beside === "off";
    this.panel.shown();
    this.overview.shown();
    if (resized) this.panes.forEach((pane) => pane.resize());
    this.redraw();
  }
  chooseType(type) {
    const ofType = ["differs", "type", "label", "lower", "upper", "width"].includes(this.layer);
    return this.show({ type, layer: ofType ? this.layer : "type" });
  }
  stepType(step) {
    const names = this.panel.visible(), at = names.indexOf(this.type);
    if (names.length) this.chooseType(names[(at + step + names.length) % names.length]);
    this.say(this.meta.types[this.type]);
  }
  setOpacity(value) {
    this.opacity = Math.min(1, Math.max(0, value));
    $("opacity").value = Math.round(100 * this.opacity);
    $("opacity-shown").textContent = `${Math.round(100 * this.opacity)} %`;
    this.redraw();
  }
  setHatching(on) { this.hatching = on; $("hatch").checked = on; this.panel.legends(); this.redraw(); this.overview.redraw(); }
  setTool(tool) {
    this.tool = tool;
    for (const name of ["pan", "rectangle", "lasso"]) $(`tool-${name}`).setAttribute("aria-pressed", name === tool);
    this.panes.forEach((pane) => pane.canvas.classList.toggle("selecting", tool !== "pan"));
  }
  selectionChanged() { this.panel.selected().catch((error) => this.status(error.message)); this.redraw(); }
  drop() { this.selection.clear(); this.selectionChanged(); }
  // The places of the map fill the pane; asked for again, the slide does.
  fit(whole = this.view.whole === "map" ? "slide" : "map") {
    const box = whole === "map" ? this.overlay.box : [0, 0, this.meta.width_px, this.meta.height_px];
    this.view.fit(box, this.panes[0].width, this.panes[0].height, whole);
  }

  // The pointer: its tile is read, and the other pane shows where it is.
  hover(event, place, pane) {
    if (!this.overlay) return;
    this.cursor = event && { place, pane };
    if (event) this.aiming = false;
    if (this.visiblePanes().length > 1) this.redraw();
    if (!event) { this.readout.hide(); return; }
    const box = $("panes").getBoundingClientRect();
    this.readout.show(this.overlay.under(...place), event.clientX - box.left, event.clientY - box.top);
  }
  // The keyboard: a cross in the middle of the view, under which the slide moves.
  aim(on) { this.aiming = on; if (on) this.moved(); else this.readout.hide(); this.redraw(); }
  moved() {
    if (!this.overlay) return;
    if (!this.aiming) { this.readout.hide(); return; }
    this.cursor = null;
    if (this.selection.drawing) this.selection.extend([this.view.x, this.view.y]);
    const { canvas } = this.panes.find((pane) => pane.canvas === document.activeElement) || this.panes[0];
    const box = $("panes").getBoundingClientRect(), own = canvas.getBoundingClientRect(), i = this.overlay.under(this.view.x, this.view.y);
    this.readout.show(i, own.left + own.width / 2 - box.left, own.top + own.height / 2 - box.top);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => { if (this.aiming && !this.selection.drawing) this.say(this.readout.words(i)); }, 300);
  }
  mark() {
    clearTimeout(this.speaking);
    if (this.selection.drawing) this.selection.finish();
    else {
      this.selection.start(this.tool === "lasso" ? "lasso" : "rectangle", [this.view.x, this.view.y]);
      this.say("Selection begun: move with the arrow keys, Enter ends it, Escape drops it");
    }
    this.redraw();
  }

  setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    $("theme").setAttribute("aria-pressed", theme === "dark");
    this.stage = getComputedStyle(document.documentElement).getPropertyValue("--stage");
    this.redraw();
  }
  theme() { this.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); }
  help() { if (!$("keys").open) $("keys").showModal(); }

  key(event) {
    const { target } = event;
    if (!this.meta || event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.key === "Escape") { this.drop(); return; }
    if (target.matches("input[type=search], select")) return;
    const onSlide = target.matches(".pane canvas") || target === document.body;
    const step = event.shiftKey ? 10 : 60;
    const moves = {
      ArrowLeft: () => this.view.move(step, 0), ArrowRight: () => this.view.move(-step, 0), ArrowUp: () => this.view.move(0, step),
      ArrowDown: () => this.view.move(0, -step), Enter: () => this.aiming && this.mark(), " ": () => this.aiming && this.mark(),
    };
    const zoom = (factor) => () => this.view.zoom(factor, this.meta);
    const letters = {
      "+": zoom(1.4), "=": zoom(1.4), "-": zoom(1 / 1.4), _: zoom(1 / 1.4), 0: () => this.fit(),
      "[": () => this.stepType(-1), "]": () => this.stepType(1),
      ",": () => this.setOpacity(this.opacity - 0.1), ".": () => this.setOpacity(this.opacity + 0.1),
      h: () => this.setHatching(!this.hatching), t: () => this.theme(), v: () => this.setTool("pan"), r: () => this.setTool("rectangle"),
      l: () => this.setTool("lasso"), a: () => this.layers.has("areas") && this.show({ layer: "areas" }), "/": () => $("search").focus(), "?": () => this.help(),
    };
    const [first, ...others] = Object.keys(LAYERS);
    [...others.filter((name) => name !== "areas"), first].forEach((layer, i) => { letters[i + 1] = () => this.layers.has(layer) && this.show({ layer }); });
    const action = (onSlide && moves[event.key]) || ($("single").checked && letters[event.key]);
    if (action) { event.preventDefault(); action(); }
  }
  // A link may name the slide: index.html#slide=P4S1
  linked() {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("slide");
    return Math.max(0, FACTS.slides.findIndex((slide) => slide.name === wanted));
  }
}

const app = new App();
app.setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
app.setOpacity(app.opacity);
document.addEventListener("keydown", (event) => app.key(event));
window.addEventListener("hashchange", () => app.open(app.linked()));
const clicks = {
  "tool-pan": () => app.setTool("pan"), "tool-rectangle": () => app.setTool("rectangle"), "tool-lasso": () => app.setTool("lasso"),
  "zoom-in": () => app.view.zoom(1.6, app.meta), "zoom-out": () => app.view.zoom(1 / 1.6, app.meta), "zoom-fit": () => app.fit(),
  theme: () => app.theme(), help: () => app.help(), "keys-close": () => $("keys").close(), drop: () => app.drop(),
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", () => { if (app.meta || id === "help") act(); });
const exports = {
  "export-png": ["png", () => drawFigure(app, CanvasPen)], "export-svg": ["svg", () => drawFigure(app, DrawingPen)],
  "export-csv": ["csv", () => exportTable(app)],
};
for (const [id, [ending, make]] of Object.entries(exports)) {
  $(id).addEventListener("click", async () => {
    if (!app.meta) return;
    const name = `${safeName(app.meta.name)}${ending === "csv" ? "_selection" : ""}.${ending}`;
    try { download(name, await make()); app.say(`Saved ${name}`); } catch (error) { app.status(`${name}: ${error.message}`); }
  });
}
app.open(app.linked());
