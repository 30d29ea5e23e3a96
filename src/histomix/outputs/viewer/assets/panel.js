// The side panel: layers, cell types, legend, selection.
const LAYERS = { type: "Abundance", dominant: "Dominant type", width: "Uncertainty", novelty: "Novelty", none: "H&E" };
const BESIDE = { off: "off", label: "label", none: "H&E", dominant: "dominant type", width: "uncertainty", novelty: "novelty" };

class Panel {
  constructor(app) {
    this.app = app;
    for (const [name, words] of Object.entries(LAYERS)) {
      const button = element("button", words, { role: "radio", "data-layer": name });
      button.addEventListener("click", () => app.show({ layer: name }));
      $("layers").append(button);
    }
    for (const name of Object.keys(FACTS.maps)) $("map").append(element("option", name, { value: name }));
    FACTS.slides.forEach((slide, number) => $("slide").append(element("option", slide.name, { value: number })));
    $("slide").addEventListener("change", () => app.open(+$("slide").value));
    $("map").addEventListener("change", () => app.show({ map: $("map").value }));
    $("beside").addEventListener("change", () => app.show({ beside: $("beside").value }));
    $("opacity").addEventListener("input", () => app.setOpacity($("opacity").value / 100));
    $("hatch").addEventListener("change", () => app.setHatching($("hatch").checked));
    $("search").addEventListener("input", () => this.filter());
    $("type-list").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) { event.preventDefault(); event.stopPropagation(); app.stepType(step); }
    });
  }
  opened() {
    const { meta } = this.app, list = $("type-list");
    list.replaceChildren();
    meta.types.forEach((name, number) => {
      const item = element("li", null, { role: "option", id: `type-${number}`, "aria-selected": "false" });
      const mean = meta.means.value[number];
      item.append(swatch(meta.colours[number]), element("span", name), element("small", shown(mean), { title: "mean over the slide" }));
      item.addEventListener("click", () => this.app.show({ type: number, layer: "type" }));
      list.append(item);
    });
    $("beside").replaceChildren();
    for (const [value, words] of Object.entries(BESIDE)) {
      if ((value === "label" && !meta.has_label) || (value === "width" && !meta.has_bounds)) continue;
      $("beside").append(element("option", words, { value }));
    }
    document.querySelector("[data-layer=width]").disabled = !meta.has_bounds;
    document.querySelector("[data-layer=width]").title = meta.has_bounds ? "width of the interval of the chosen type" : "this head gives no intervals";
    document.querySelector("[data-layer=novelty]").disabled = !meta.has_novelty;
    const unit = `${meta.n.toLocaleString("en")} ${meta.spots ? "spots" : "tiles"}, unit: ${meta.unit}.`;
    $("about").textContent = [meta.head, unit, ...meta.notes].filter(Boolean).join(" ");
    this.filter();
  }
  filter() {
    const wanted = $("search").value.trim().toLowerCase();
    this.app.meta.types.forEach((name, number) => { $(`type-${number}`).hidden = !name.toLowerCase().includes(wanted); });
  }
  shown() {
    const { app } = this;
    for (const button of $("layers").children) button.setAttribute("aria-checked", button.dataset.layer === app.layer);
    app.meta.types.forEach((_, number) => $(`type-${number}`).setAttribute("aria-selected", number === app.type));
    $("type-list").setAttribute("aria-activedescendant", `type-${app.type}`);
    $(`type-${app.type}`).scrollIntoView({ block: "nearest" });
    $("beside").value = app.beside; $("map").value = app.map;
    $("caption-0").textContent = app.caption(0);
    $("caption-1").textContent = app.caption(1);
    this.legend();
  }
  legend() {
    const legend = this.app.legend(), box = $("legend");
    box.replaceChildren();
    if (legend.kind === "scale") {
      const bar = document.createElement("canvas");
      bar.width = 256; bar.height = 1;
      const context = bar.getContext("2d");
      legend.map.forEach(([red, green, blue], i) => { context.fillStyle = `rgb(${red} ${green} ${blue})`; context.fillRect(i, 0, 1, 1); });
      const ends = element("div", null, { class: "ends" });
      ends.append(element("span", "0"), element("span", legend.text), element("span", shown(legend.top)));
      box.append(bar, ends);
    }
  }
  async selected() {
    const { app } = this, { selection, meta } = app;
    $("selected").hidden = !selection.rows;
    if (!selection.rows) return;
    const layers = await app.data.all();
    if (!selection.rows) return;
    const { count, means } = selection.means(layers);
    const area = count * (meta.cell_px * meta.mpp / 1000) ** 2 * (meta.spots ? Math.PI / 4 : 1);
    $("selected-text").textContent = `${count.toLocaleString("en")} readable ${meta.spots ? "spots" : "tiles"}, ${area.toPrecision(3)} mm²`;
    const order = meta.types.map((_, number) => number).sort((a, b) => means[b] - means[a]);
    $("selected-rows").replaceChildren(...order.map((number) => {
      const row = element("tr"), name = element("td");
      name.append(swatch(meta.colours[number]), " ", meta.types[number]);
      row.append(name, element("td", shown(means[number])), element("td", shown(meta.means.value[number])));
      return row;
    }));
  }
  readout(event, i) {
    const box = $("readout"), { app } = this, { meta, data } = app;
    if (i < 0 || !event) { box.hidden = true; return; }
    const table = element("table");
    const layers = meta.types.map((_, number) => data.layers.get(number)).filter(Boolean);
    const value = (layer) => (Number.isNaN(layer.value[i]) ? -1 : layer.value[i]);
    const order = [...layers].sort((a, b) => value(b) - value(a)).slice(0, 5);
    const chosen = data.layers.get(app.type);
    if (chosen && !order.includes(chosen)) order.push(chosen);
    for (const layer of order) {
      const row = element("tr");
      row.append(element("td", meta.types[layer.number]), element("td", shown(layer.value[i])));
      if (layer.lower) row.append(element("td", `${shown(layer.lower[i])} – ${shown(layer.upper[i])}`));
      if (layer.label) row.append(element("td", `label ${shown(layer.label[i])}`));
      table.append(row);
    }
    const dominant = Number.isNaN(data.dominant[i]) ? "unreadable" : meta.types[Math.round(data.dominant[i])];
    const state = data.read_ok[i] < 0.5 ? "could not be read" : data.in_scope[i] < 0.5 ? "out of scope" : "in scope";
    const novelty = Number.isNaN(data.novelty[i]) ? "" : `, novelty ${data.novelty[i].toFixed(2)}`;
    box.replaceChildren(element("b", dominant), element("div", `${state}${novelty}`), table);
    box.hidden = false;
    const area = $("panes").getBoundingClientRect(), own = box.getBoundingClientRect();
    const x = event.clientX - area.left + 16, y = event.clientY - area.top + 16;
    box.style.left = `${Math.max(4, x + own.width > area.width ? x - own.width - 32 : x)}px`;
    box.style.top = `${Math.max(4, y + own.height > area.height ? y - own.height - 32 : y)}px`;
  }
}

function swatch([red, green, blue]) {
  const made = document.createElement("canvas");
  made.width = made.height = 1;
  made.setAttribute("aria-hidden", "true");
  const context = made.getContext("2d");
  context.fillStyle = `rgb(${red} ${green} ${blue})`;
  context.fillRect(0, 0, 1, 1);
  return made;
}
