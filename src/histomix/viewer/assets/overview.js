// The first look: the H&E and the cell types that vary most on the slide, small, in one scale.
class Overview {
  constructor(app) { this.app = app; this.thumbs = []; this.frame = 0; this.stale = false; }
  get top() { return this.app.meta.differs_top; }
  async open() {
    const { app } = this, { scene, meta } = app, shown = app.layers.has("differs");
    this.thumbs = [];
    $("overview").hidden = !shown;
    $("thumbs").replaceChildren();
    if (!shown) return;
    const small = await scene.data.small();
    if (scene !== app.scene) return;
    this.thumbs = [this.thumb("H&E", null, null), ...meta.varying.map((number, place) => this.thumb(
      meta.types[number], number, app.overlay.picture(colourBySmall(small[place]))))];
    $("thumbs").append(...this.thumbs.map((thumb) => thumb.button));
    const context = $("overview-bar").getContext("2d");
    FACTS.signed.forEach((colour, i) => { context.fillStyle = css(colour); context.fillRect(i, 0, 1, 1); });
    const ends = [signed(-this.top, meta.unit), "the slide's mean", signed(this.top, meta.unit)];
    $("overview-ends").replaceChildren(...ends.map((words) => element("span", words)));
    const held = meta.calibrated_on ? ` Intervals are calibrated on: ${meta.calibrated_on}.` : "";
    const pale = meta.has_bounds ? `Pale: the interval of the tile holds the mean.${held}` : "The head has no intervals.";
    $("overview-words").textContent = [pale, ...meta.remarks, meta.limits].filter(Boolean).join(" ");
    this.redraw();
  }
  thumb(name, number, picture) {
    const button = element("button", null, { class: "thumb", type: "button", title: name }), canvas = element("canvas", null, { "aria-hidden": "true" });
    button.append(canvas, element("span", name));
    button.addEventListener("click", () => this.app.show(number === null ? { layer: "none" } : { type: number, layer: "differs" }));
    return { button, canvas, number, picture };
  }
  shown() {
    const { layer, type } = this.app;
    for (const { button, number } of this.thumbs) {
      button.setAttribute("aria-pressed", number === null ? layer === "none" : layer === "differs" && type === number);
    }
  }
  // Only what changed: pictures of the slide come one by one, and only the H&E shows them.
  redraw(pictures = false) {
    this.stale ||= !pictures;
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(this.stale); this.stale = false; });
  }
  draw(all) {
    const { app } = this, ratio = window.devicePixelRatio || 1, drawn = all ? this.thumbs : this.thumbs.slice(0, 1);
    const widths = drawn.map(({ canvas }) => Math.round(canvas.clientWidth * ratio));
    for (const [place, { canvas, picture }] of drawn.entries()) {
      const [x0, y0, x1, y1] = app.overlay.box, width = widths[place];
      const scale = width / (x1 - x0), height = Math.round(Math.min(1.4, (y1 - y0) / (x1 - x0)) * width);
      if (!width) continue;
      canvas.width = width; canvas.height = height;
      canvas.style.aspectRatio = `${width} / ${height}`;
      const context = canvas.getContext("2d"), view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, scale, width, height };
      const transform = [scale, 0, 0, scale, width / 2 - view.x * scale, height / 2 - view.y * scale];
      context.setTransform(...transform);
      if (!picture) { app.pyramid.draw(context, view); continue; }
      app.overlay.draw(context, picture, 1, view);
      context.setTransform(1, 0, 0, 1, 0, 0);
      if (app.hatching) app.overlay.hatch(context, transform, view, ratio);
    }
  }
}
