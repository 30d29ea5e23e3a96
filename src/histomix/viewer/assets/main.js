// The program: what is shown, and the keys.
class App {
  constructor() {
    this.scene = null; this.other = null;
    this.view = new View(); this.otherView = new View();
    this.layer = "type"; this.type = 0; this.map = Object.keys(FACTS.maps)[0]; this.range = "max"; this.threshold = 0; this.channels = [];
    // The second pane: its layer ("off", or "same" as the first), its type by name and its slide; null: those of the first.
    this.beside = "off"; this.besideType = null; this.besideSlide = null;
    this.opacity = 0.4; this.hatching = true; this.tool = "pan"; this.turns = 0; this.shows = 0;
    this.aiming = false; this.cursor = null; this.stage = "#fff";
    this.layers = new Layers(this);
    this.selection = new Selection(this);
    this.regions = new Regions(this);
    this.readout = new Readout(this);
    this.overview = new Overview(this);
    this.panel = new Panel(this);
    // The second pane has the slide of the first until another is chosen for it.
    this.slides = [
      new Slides(this, $("slides"), { choose: (number) => this.open(number), chosen: () => this.scene?.number }),
      new Slides(this, $("beside-slides"), { choose: (number) => this.show({ besideSlide: number === this.scene?.number ? null : number }), chosen: () => this.besideSlide ?? this.scene?.number }),
    ];
    this.panes = [0, 1].map((number) => new Pane($(`pane-${number}`), this.view, this, number));
    this.minimaps = this.panes.map((pane, number) => new Minimap(this, pane, number));
    this.aimed = this.panes[0];
    for (const view of [this.view, this.otherView]) view.listeners.push((moved) => this.moved(moved));
  }
  // Of the slide in the first pane.
  get meta() { return this.scene?.meta; }
  get data() { return this.scene?.data; }
  get overlay() { return this.scene?.overlay; }
  get pyramid() { return this.scene?.pyramid; }
  // The slide whose regions are listed: the one last drawn on.
  get drawnOn() { return this.panes.find((pane) => pane.scene && pane.scene === this.selection.scene)?.scene || this.scene; }
  visiblePanes() { return this.panes ? this.panes.slice(0, this.beside === "off" ? 1 : 2) : []; }
  redraw() { this.panes.forEach((pane) => pane.redraw()); }
  pictured(scene) { this.redraw(); if (scene === this.scene) this.overview.redraw(true); this.minimaps.forEach((map) => map.redraw()); }
  status(text) { $("status").textContent = text; }
  say(text) { $("said").textContent = text; }
  caption(pane) { return (this.other ? `${pane.scene.meta.name}: ` : "") + this.layers.caption(pane); }

  async open(number, begun) {
    const turn = ++this.turns;
    this.status(`Loading ${FACTS.slides[number].name}`);
    try {
      const scene = await Scene.open(number, this, begun), { meta, data } = scene;
      if (turn !== this.turns) return;
      const before = this.meta, same = before ? meta.types.indexOf(before.types[this.type]) : -1;
      if (this.scene && this.scene !== this.other) this.scene.close();
      this.scene = scene;
      this.panes.forEach((pane) => { pane.picture = null; });  // they are of the slide before
      this.panes[0].scene = scene;
      if (this.panes[1].scene !== this.other || !this.other) this.panes[1].scene = scene;
      this.selection.clear();
      // The type stays where the slide has it; at first what varies most is shown, and of a slide out of scope nothing.
      this.type = same >= 0 ? same : meta.varying[0] ?? Math.max(0, meta.means.value.indexOf(greatest(meta.means.value)));
      if (!before) this.layer = "differs";
      if (!this.layers.has(this.layer)) this.layer = "type";
      if (meta.statement) this.layer = "none";
      else if (before && before.statement) this.layer = this.layers.has("differs") ? "differs" : "type";
      if (!this.channels.some((name) => meta.types.includes(name))) this.channels = this.firstChannels();
      // A second slide stays where it is; else the label is beside the prediction.
      if (this.besideSlide === number) this.besideSlide = null;
      if (this.besideSlide === null) { this.beside = meta.has_label ? "label" : "off"; this.besideType = null; }
      $("second").hidden = this.beside === "off";
      this.panel.opened();
      this.fit("map");
      await this.overview.open();
      await this.show({});
      this.selectionChanged();
      this.minimaps[0].redraw();
      this.status("");
      document.documentElement.dataset.ready = meta.key;
      // The other types come when the view stands, and then the thumbnails.
      const later = window.requestIdleCallback || ((act) => setTimeout(act, 300));
      later(() => { if (data === this.data) data.all().catch((error) => this.status(error.message)).then(() => this.slides.forEach((slides) => slides.begin())); }, { timeout: 3000 });
    } catch (error) { this.status(`${FACTS.slides[number].name}: ${error.message}`); }
  }
  // What varies most, else what there is most of.
  firstChannels() {
    const { meta } = this, order = meta.types.map((_, number) => number).sort((a, b) => (meta.means.value[b] || 0) - (meta.means.value[a] || 0));
    return [...new Set([...meta.varying, ...order])].slice(0, 3).map((number) => meta.types[number]);
  }

  // Change what is shown; only the pictures of colours are made anew.
  async show(change) {
    const turn = ++this.shows, two = this.beside !== "off";
    if (this.beside === "off" && !("beside" in change) && [change.besideSlide, change.besideType].some((one) => one !== undefined && one !== null)) change.beside = "same";
    Object.assign(this, change);
    try {
      const other = await this.second();
      if (turn !== this.shows) return;
      this.arrange(other);
      await Promise.all(this.visiblePanes().flatMap(({ scene, layer, type }) => {
        const { types } = scene.meta, inks = layer === "channels" ? this.channels.map((name) => types.indexOf(name)) : [];
        return [type, ...inks].filter((number) => number >= 0).map((number) => scene.data.type(number));
      }));
      if (turn !== this.shows) return;
      for (const pane of this.panes) {
        const areas = pane.layer === "areas" ? await pane.scene.data.areas() : null;
        if (turn !== this.shows) return;
        const colours = pane.layer !== "none" && this.layers.colours(pane);
        pane.picture = areas || (colours ? pane.scene.overlay.picture(colours) : null);
      }
    } catch (error) { this.status(error.message); return; }
    $("second").hidden = this.beside === "off";
    this.panel.shown();
    this.overview.shown();
    if (two !== (this.beside !== "off")) this.panes.forEach((pane) => pane.resize());
    this.redraw();
  }
  // The slide of the second pane.
  async second() {
    const wanted = this.beside === "off" || this.besideSlide === this.scene.number ? null : this.besideSlide;
    if (wanted === null) return this.scene;
    return this.other?.number === wanted ? this.other : Scene.open(wanted, this);
  }
  // The second pane follows the first in what is not chosen for it.
  arrange(other) {
    const [first, second] = this.panes, moved = second.scene !== other || (second.view === this.view) !== (other === this.scene);
    if (this.other && this.other !== other) { this.other.close(); this.other = null; }
    if (other !== this.scene) this.other = other;
    Object.assign(first, { scene: this.scene, layer: this.layer, type: this.type });
    const type = other.meta.types.indexOf(this.besideType ?? this.meta.types[this.type]), twin = { type: "label", differs: "label", dominant: "label_dominant" }[this.layer];
    let layer = this.beside === "off" ? "none" : this.beside === "same" ? this.layer : this.beside === "label" && twin ? twin : this.beside;
    if (layer === "differs" && !this.layers.has(layer, other)) layer = "type";  // its map has no such first look
    if (!this.layers.has(layer, other) || (type < 0 && OF_TYPE.includes(layer))) layer = "none";
    if (second.scene !== other) second.picture = null;  // it is of another slide
    Object.assign(second, { scene: other, layer, type, view: other === this.scene ? this.view : this.otherView });
    $("map-1").hidden = other === this.scene;
    if (this.selection.scene && ![this.scene, other].includes(this.selection.scene)) this.drop();
    if (moved) { $("second").hidden = this.beside === "off"; if (other !== this.scene) this.fit("map"); this.minimaps[1].redraw(); this.panel.besides(); }
  }
  chooseType(type) { return this.show({ type, layer: OF_TYPE.includes(this.layer) ? this.layer : "type" }); }
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
  // The places of the map fill the pane; asked for again, the slide does. Two slides have one magnification.
  fit(whole = this.view.whole === "map" ? "slide" : "map") {
    const [first, second] = this.panes, panes = second.view === this.view ? [first] : [first, second];
    const boxes = panes.map(({ scene }) => (whole === "map" ? scene.overlay.box : [0, 0, scene.meta.width_px, scene.meta.height_px]));
    const perUm = Math.min(...panes.map(({ width, height, scene: { meta } }, i) => {
      const [x0, y0, x1, y1] = boxes[i];
      return 0.96 * Math.min((width || first.width) / (x1 - x0), (height || first.height) / (y1 - y0)) / meta.mpp;
    }));
    panes.forEach(({ view, scene }, i) => {
      const [x0, y0, x1, y1] = boxes[i];
      view.set((x0 + x1) / 2, (y0 + y1) / 2, perUm * scene.meta.mpp, whole);
    });
  }
  // About the middle of the pane that the keys move.
  zoom(factor) { const { view, scene } = this.aimedPane(); view.zoom(factor, scene.meta); }
  magnify(times) { const { view, scene } = this.aimedPane(); view.zoom(times / TIMES_UM * scene.meta.mpp / view.scale, scene.meta); }
  aimedPane() { return this.visiblePanes().includes(this.aimed) ? this.aimed : this.panes[0]; }

  // The pointer: its tile is read, and the other pane shows where it is.
  hover(event, place, pane) {
    if (!this.scene) return;
    this.cursor = event && { place, pane };
    if (event) this.aiming = false;
    if (this.visiblePanes().length > 1) this.redraw();
    if (!event) { this.readout.hide(); return; }
    const box = $("panes").getBoundingClientRect();
    this.readout.show(pane.scene.overlay.under(...place), event.clientX - box.left, event.clientY - box.top, pane);
  }
  // The keyboard: a cross in the middle of the view, under which the slide moves.
  aim(on) { this.aiming = on; if (on) this.moved(this.aimedPane().view); else this.readout.hide(); this.redraw(); }
  moved(view) {
    if (!this.scene) return;
    const twin = view === this.view ? this.otherView : this.view;
    if (this.other && this.panes[1].view === this.otherView) {
      const [from, to] = view === this.view ? [this.scene, this.other] : [this.other, this.scene], scale = view.scale / from.meta.mpp * to.meta.mpp;
      if (Math.abs(twin.scale / scale - 1) > 1e-6) { twin.set(twin.x, twin.y, scale); return; }  // which comes here again
    }
    this.redraw();
    this.minimaps.forEach((map) => map.moved());
    this.panel.magnified();
    if (!this.aiming) { this.readout.hide(); return; }
    this.cursor = null;
    const pane = this.aimedPane(), { x, y } = pane.view, { drawing } = this.selection;
    if (drawing && this.selection.scene === pane.scene) this.selection.extend([x, y]);
    const box = $("panes").getBoundingClientRect(), own = pane.canvas.getBoundingClientRect(), i = pane.scene.overlay.under(x, y);
    this.readout.show(i, own.left + own.width / 2 - box.left, own.top + own.height / 2 - box.top, pane);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => { if (this.aiming && !this.selection.drawing) this.say(this.readout.words(i, pane)); }, 300);
  }
  mark() {
    clearTimeout(this.speaking);
    if (this.selection.drawing) this.selection.finish();
    else {
      const { view, scene } = this.aimedPane();
      this.selection.start(this.tool === "lasso" ? "lasso" : "rectangle", [view.x, view.y], scene);
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
    if (target.matches("input[type=search], input[type=text], select")) return;
    const onSlide = target.matches(".pane canvas") || target === document.body, { view } = this.aimedPane();
    const step = event.shiftKey ? 10 : 60;
    const moves = {
      ArrowLeft: () => view.move(step, 0), ArrowRight: () => view.move(-step, 0), ArrowUp: () => view.move(0, step),
      ArrowDown: () => view.move(0, -step), Enter: () => this.aiming && this.mark(), " ": () => this.aiming && this.mark(),
    };
    const zoom = (factor) => () => this.zoom(factor);
    const letters = {
      "+": zoom(1.4), "=": zoom(1.4), "-": zoom(1 / 1.4), _: zoom(1 / 1.4), 0: () => this.fit(),
      "[": () => this.stepType(-1), "]": () => this.stepType(1),
      ",": () => this.setOpacity(this.opacity - 0.1), ".": () => this.setOpacity(this.opacity + 0.1),
      h: () => this.setHatching(!this.hatching), t: () => this.theme(), v: () => this.setTool("pan"), r: () => this.setTool("rectangle"),
      l: () => this.setTool("lasso"), k: () => this.regions.keep(), "/": () => $("search").focus(), "?": () => this.help(),
    };
    const [first, ...others] = Object.keys(LAYERS).filter((name) => !Object.values(LETTERS).includes(name));
    const shows = (layer) => () => this.layers.has(layer) && this.show({ layer });
    [...others, first].forEach((layer, i) => { letters[i + 1] = shows(layer); });
    for (const [letter, layer] of Object.entries(LETTERS)) letters[letter] = shows(layer);
    const action = (onSlide && moves[event.key]) || ($("single").checked && letters[event.key]);
    if (action) { event.preventDefault(); action(); }
  }
}

// A link may name the slide: index.html#slide=P4S1
function linked() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("slide");
  return Math.max(0, FACTS.slides.findIndex((slide) => slide.name === wanted));
}
const begun = new SlideData(FACTS.slides[linked()]).early();
const app = new App();
app.setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
app.setOpacity(app.opacity);
document.addEventListener("keydown", (event) => app.key(event));
window.addEventListener("hashchange", () => app.open(linked()));
const clicks = {
  "tool-pan": () => app.setTool("pan"), "tool-rectangle": () => app.setTool("rectangle"), "tool-lasso": () => app.setTool("lasso"),
  "zoom-in": () => app.zoom(1.6), "zoom-out": () => app.zoom(1 / 1.6), "zoom-fit": () => app.fit(), keep: () => app.regions.keep(),
  theme: () => app.theme(), help: () => app.help(), "keys-close": () => $("keys").close(), drop: () => app.drop(), "regions-open": () => $("regions-file").click(),
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", () => { if (app.meta || id === "help") act(); });
const exports = {
  "export-png": [".png", () => drawFigure(app, CanvasPen)], "export-svg": [".svg", () => drawFigure(app, DrawingPen)],
  "export-csv": ["_selection.csv", () => exportTable(app)],
  "regions-geojson": [".geojson", () => app.regions.geojson(app.drawnOn)], "regions-csv": ["_regions.csv", () => app.regions.table(app.drawnOn)],
};
for (const [id, [ending, make]] of Object.entries(exports)) {
  $(id).addEventListener("click", async () => {
    if (!app.meta) return;
    const of = id.startsWith("regions") || ending.startsWith("_selection") ? app.drawnOn : app.scene, name = `${safeName(of.meta.name)}${ending}`;
    try { download(name, await make()); app.say(`Saved ${name}`); } catch (error) { app.status(`${name}: ${error.message}`); }
  });
}
$("regions-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files, scene = app.drawnOn;
  if (!file || !scene) return;
  try { $("regions-said").textContent = `${file.name}: ${app.regions.read(await file.text(), scene)}.`; } catch (error) { $("regions-said").textContent = `${file.name} ${error.message}.`; }
  target.value = "";
  app.selectionChanged();
});
app.open(linked(), begun);
