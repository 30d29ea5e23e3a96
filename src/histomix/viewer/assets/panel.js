// What magnification may be chosen: 10× is 1 µm per screen px.
const STEPS = [0.5, 1, 2, 4, 10, 20, 40];
// The side panel: layers, cell types, selection; and the legend of each pane.
class Panel {
  constructor(app) {
    this.app = app;
    for (const [name, words] of Object.entries(LAYERS)) {
      const label = element("label", null, { class: "segment" });
      const input = element("input", null, { type: "radio", name: "layer", value: name });
      input.addEventListener("change", () => app.show({ layer: name }));
      label.append(input, element("span", words));
      $("layers").append(label);
    }
    for (const name of Object.keys(FACTS.maps)) $("map").append(element("option", name, { value: name }));
    for (const times of STEPS) $("times").append(element("option", `${times}×`, { value: times }));
    for (const [name, ink] of Object.entries(INKS)) {
      const row = element("label", null, { class: "row" }), words = element("span"), select = element("select", null, { id: `ink-${name.toLowerCase()}` });
      words.append(swatch(ink), ` ${name}`);
      row.append(words, select);
      select.addEventListener("change", () => app.show({ channels: [...$("inks").querySelectorAll("select")].map(({ value }) => value), layer: "channels" }));
      $("inks").append(row);
    }
    const on = (id, name, act) => $(id).addEventListener(name, act);
    on("times", "change", () => app.magnify(+$("times").value));
    on("threshold", "input", () => app.show({ threshold: $("threshold").value / 100 }));
    on("beside-type", "change", () => app.show({ besideType: $("beside-type").value || null }));
    on("map", "change", () => app.show({ map: $("map").value }));
    on("range", "change", () => app.show({ range: $("range").value }));
    on("beside", "change", () => app.show({ beside: $("beside").value }));
    on("opacity", "input", () => app.setOpacity($("opacity").value / 100));
    on("hatch", "change", () => app.setHatching($("hatch").checked));
    on("search", "input", () => this.filter());
    on("search", "keydown", (event) => this.searched(event));
    on("type-list", "keydown", (event) => this.listed(event));
  }
  visible() { return this.app.meta.types.map((_, number) => number).filter((number) => !$(`type-${number}`).hidden); }
  listed(event) {
    const names = this.visible(), at = names.indexOf(this.app.type), last = names.length - 1;
    const to = { ArrowDown: Math.min(last, at + 1), ArrowUp: Math.max(0, at - 1), Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.app.chooseType(names[to]);
  }
  searched(event) {
    const [first] = this.visible();
    if (event.key === "Escape") { $("search").value = ""; this.filter(); }
    else if ((event.key === "Enter" || event.key === "ArrowDown") && first !== undefined) {
      event.preventDefault();
      this.app.chooseType(first);
      $("type-list").focus();
    } else return;
    event.stopPropagation();
  }
  opened() {
    const { app } = this, { meta } = app, top = greatest(meta.means.value), words = meta.good_for.some((word) => word !== "not known");
    $("type-list").replaceChildren(...meta.types.map((name, number) => {
      const item = element("li", null, { role: "option", id: `type-${number}`, "aria-selected": "false" });
      const mean = meta.means.value[number], bar = element("i", null, { "aria-hidden": "true" });
      bar.style.width = `${100 * (mean || 0) / top}%`; bar.style.backgroundColor = css(meta.colours[number]);
      item.append(swatch(meta.colours[number]), element("span", name, { class: "name" }), element("small", format(mean, meta.unit)));
      if (words) item.append(element("small", `good for: ${meta.good_for[number]}`, { class: "word" }));
      item.append(bar);
      item.title = `${name}: mean over the slide ${format(mean, meta.unit)}`;
      item.addEventListener("click", () => app.chooseType(number));
      return item;
    }));
    this.besides();
    for (const select of $("inks").querySelectorAll("select")) {
      select.replaceChildren(element("option", "none", { value: "" }), ...meta.types.map((name) => element("option", name, { value: name })));
    }
    for (const input of $("layers").querySelectorAll("input")) input.parentElement.hidden = !app.layers.has(input.value);
    $("no-bounds").hidden = meta.has_bounds;
    $("hatch-choice").hidden = !app.overlay.counts.outside && !app.overlay.counts.unread;
    const unit = `${grouped(meta.n)} ${meta.spots ? "spots" : "tiles"}, unit: ${meta.unit}.`;
    $("about-head").textContent = meta.head;
    $("about").replaceChildren(...[unit, ...meta.notes].map((text) => element("li", text)));
    $("slide-mean").textContent = meta.statement ? "" : `Bars: mean over the slide${app.overlay.counts.outside ? ", of what is in scope" : ""}, ${meta.unit}.`;
    $("statement").hidden = !meta.statement;
    $("statement").replaceChildren(meta.statement, element("p", "No composition is shown. The layers show what the head says all the same."));
    this.filter();
  }
  // What the second pane may show, which follows its slide.
  besides() {
    const { app } = this, { meta } = app, other = app.panes[1].scene || app.scene;
    const named = Object.entries({ off: "Off", same: "the same layer", ...LAYERS }).filter(([name]) => app.layers.has(name, other));
    $("beside").replaceChildren(...named.map(([value, words]) => element("option", words, { value })));
    $("beside-type").replaceChildren(element("option", "the same", { value: "" }), ...other.meta.types.map((name) => element("option", name, { value: name })));
    $("beside-type").parentElement.hidden = meta.types.length < 2;
  }
  // The magnification of the pane that the keys move, between the steps to choose.
  magnified() {
    const times = $("times"), { times: now } = this.app.aimedPane(), step = STEPS.find((one) => Math.abs(one / now - 1) < 0.005);
    times.options[0].textContent = `${+now.toPrecision(2)}×`;
    times.value = step ?? "";
  }
  filter() {
    const wanted = $("search").value.trim().toLowerCase(), { types } = this.app.meta;
    types.forEach((name, number) => { $(`type-${number}`).hidden = !name.toLowerCase().includes(wanted); });
    const found = this.visible().length;
    $("found").textContent = wanted ? (found ? `${found} of ${types.length} cell types` : "No cell type has this in its name") : "";
    this.marked();
  }
  // Only a type that is in the list may be named as its current one.
  marked() {
    const item = $(`type-${this.app.type}`);
    if (item.hidden) $("type-list").removeAttribute("aria-activedescendant");
    else $("type-list").setAttribute("aria-activedescendant", item.id);
  }
  shown() {
    const { app } = this;
    document.querySelector(`input[name=layer][value=${app.layer}]`).checked = true;
    app.meta.types.forEach((_, number) => $(`type-${number}`).setAttribute("aria-selected", number === app.type));
    const item = $(`type-${app.type}`), list = $("type-list");
    if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
    const below = item.offsetTop + item.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
    this.marked();
    $("beside").value = app.beside; $("map").value = app.map; $("range").value = app.range;
    $("beside-type").value = app.besideType ?? "";
    app.slides.forEach((slides) => slides.shown());
    $("threshold-row").hidden = !app.panes.some((pane) => CUT.includes(pane.layer));
    $("threshold").value = Math.round(100 * app.threshold);
    $("threshold-shown").textContent = app.threshold ? `${Math.round(100 * app.threshold)} % of it` : "off";
    $("inks").hidden = !app.panes.some((pane) => pane.layer === "channels");
    [...$("inks").querySelectorAll("select")].forEach((select, place) => { select.value = app.channels[place] ?? ""; });
    for (const pane of app.panes) {
      const words = app.caption(pane);
      $(`caption-${pane.number}`).textContent = words;
      pane.canvas.setAttribute("aria-label", `Slide ${pane.scene.meta.name}: ${words}`);
    }
    this.legends();
    this.regions();
  }
  legends() {
    let before = "";
    for (const pane of this.app.panes) {
      const legend = pane.scene && this.app.layers.legend(pane), box = $(`legend-${pane.number}`);
      box.hidden = !legend;
      if (legend) box.replaceChildren(...this.legend(legend));
      box.classList.toggle("same", before === (before = JSON.stringify(legend)));
    }
  }
  legend(legend) {
    const parts = [element("p", legend.title)];
    if (legend.cut) parts.push(element("p", `shown: ${legend.cut}`, { class: "cut" }));
    if (legend.map) {
      const bar = element("canvas", null, { width: 256, height: 1, "aria-hidden": "true" }), context = bar.getContext("2d");
      legend.map.forEach((colour, i) => { context.fillStyle = css(colour); context.fillRect(i, 0, 1, 1); });
      const ends = element("div", null, { class: "ends" });
      ends.append(...legend.ends.map((words) => element("span", words)));
      const scale = element("div", null, { class: "scale" });
      scale.append(bar, ends);
      parts.push(scale);
    } else {
      for (const [name, colour, share, words] of legend.entries) {
        const row = element("div", null, { class: "entry" });
        row.append(swatch(colour), element("span", name), element("span", words || format(share, "proportion")));
        parts.push(row);
      }
      if (legend.rest) parts.push(element("p", legend.rest));
    }
    if (legend.note) parts.push(element("p", legend.note, { class: "noted" }));
    for (const [kind, words] of legend.marks) {
      const row = element("div", null, { class: "entry" }), key = element("canvas", null, { width: 44, height: 24, "aria-hidden": "true" });
      const context = key.getContext("2d");
      context.fillStyle = "#9aa0aa"; context.fillRect(0, 0, 44, 24);
      context.fillStyle = hatchPattern(context, kind, 2); context.fillRect(0, 0, 44, 24);
      row.append(key, element("span", words));
      parts.push(row);
    }
    return parts;
  }
  async selected() {
    const { app } = this, { selection } = app, { scene, region } = selection;
    this.regions();
    $("selected").hidden = !selection.rows;
    if (!selection.rows) return;
    const { meta } = scene, layers = await scene.data.all();
    if (!selection.rows || scene !== selection.scene) return;
    const { count, mm2, unread, outside, means, labels } = scene.means(selection.rows, layers), what = meta.spots ? "spots" : "tiles";
    const words = [`${grouped(count)} readable ${what}${outside ? " in scope" : ""}, ${mm2.toPrecision(3)} mm²`];
    if (outside) words.push(`${grouped(outside)} out of scope, in no number here`);
    if (unread) words.push(`${grouped(unread)} could not be read`);
    $("selection-title").textContent = region ? region.name : "Selection";
    $("keep").hidden = selection.drawing || !!region;
    $("label-head").hidden = !labels;
    $("selected-text").textContent = `${words.join("; ")}.`;
    const order = meta.types.map((_, number) => number).sort((a, b) => (means[b] || 0) - (means[a] || 0));
    const top = greatest([...means, ...meta.means.value]);
    $("selected-rows").replaceChildren(...order.map((number) => {
      const row = element("tr"), name = element("th", null, { scope: "row" }), here = means[number], slide = meta.means.value[number];
      const bar = element("div", null, { class: "compare", "aria-hidden": "true" }), fill = element("i"), tick = element("b");
      fill.style.width = `${100 * (here || 0) / top}%`; fill.style.backgroundColor = css(meta.colours[number]);
      tick.style.left = `${100 * (slide || 0) / top}%`;
      bar.append(fill, tick);
      name.append(meta.types[number], bar);
      const cells = [here, ...(labels ? [labels[number]] : []), slide];
      row.append(name, ...cells.map((value) => element("td", format(value, meta.unit))));
      return row;
    }));
    if (!selection.drawing) {
      const strongest = order.slice(0, 3).map((number) => `${meta.types[number]} ${format(means[number], meta.unit)}`);
      app.say(`${region ? region.name : "Selection"}: ${words.join("; ")}. ${strongest.join(", ")}`);
    }
  }
  // The regions of the slide last drawn on, with the mean of the chosen type in each.
  regions() {
    const { app } = this, scene = app.drawnOn, list = app.regions.of(scene), { meta, data } = scene;
    const type = scene === app.scene ? app.type : app.panes[1].type, layer = data.layers.get(type);
    $("regions-title").textContent = list.length && app.other ? `Regions of ${meta.name}` : "Regions";
    for (const id of ["regions-geojson", "regions-csv", "regions-table"]) $(id).hidden = !list.length;
    $("regions-type").textContent = meta.types[type] ?? "";
    // What is being written in stays.
    if ($("regions-rows").contains(document.activeElement) && document.activeElement.matches("input") && $("regions-rows").children.length === list.length) {
      list.forEach((region, place) => { $("regions-rows").children[place].children[2].textContent = this.regionMean(scene, region, layer); });
      return;
    }
    $("regions-rows").replaceChildren(...list.map((region) => {
      const row = element("tr"), head = element("th", null, { scope: "row" }), actions = element("td");
      const name = element("input", null, { type: "text", "aria-label": `Name of ${region.name}`, autocomplete: "off", spellcheck: "false", maxlength: 80 });
      name.value = region.name;
      name.addEventListener("input", () => { region.name = name.value.trim() || "Region"; app.redraw(); });
      name.addEventListener("change", () => app.selectionChanged());
      head.append(swatch(region.colour), name);
      const button = (words, label, act) => { const made = element("button", words, { type: "button", "aria-label": `${label} ${region.name}` }); made.addEventListener("click", act); return made; };
      actions.append(button("Look", "Look at", () => app.selection.take(region, scene)), button("×", "Remove", () => app.regions.remove(scene, region)));
      const { mm2 } = scene.means(region.rows, []);
      row.append(head, element("td", mm2.toPrecision(2)), element("td", this.regionMean(scene, region, layer)), actions);
      return row;
    }));
  }
  regionMean(scene, region, layer) { return layer ? format(scene.means(region.rows, [layer]).means[0], scene.meta.unit) : ""; }
}
