// One canvas on the slide. Panes share the view, so they always show the same place.
class View {
  constructor() { this.x = 0; this.y = 0; this.scale = 1; this.listeners = []; }
  changed() { this.listeners.forEach((listener) => listener()); }
  set(x, y, scale) { this.x = x; this.y = y; this.scale = scale; this.changed(); }
  fit(meta, width, height) { this.set(meta.width_px / 2, meta.height_px / 2, 0.96 * Math.min(width / meta.width_px, height / meta.height_px)); }
  move(dx, dy) { this.set(this.x - dx / this.scale, this.y - dy / this.scale, this.scale); }
  // Zoom about a point of the pane, given from its middle in screen px; 0.2 um a screen px is the closest.
  zoom(factor, meta, dx = 0, dy = 0) {
    const next = Math.min(Math.max(this.scale * factor, 1e-4), meta.mpp / 0.1);
    this.set(this.x + dx / this.scale - dx / next, this.y + dy / this.scale - dy / next, next);
  }
}

class Pane {
  constructor(canvas, view, app, number) {
    this.canvas = canvas; this.view = view; this.app = app; this.number = number;
    this.frame = 0; this.picture = null; this.pointer = null;
    view.listeners.push(() => this.redraw());
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.app.hover(null));
    canvas.addEventListener("dblclick", (event) => { const [dx, dy] = this.fromMiddle(event); this.view.zoom(2, this.app.meta, dx, dy); });
    this.resize();
  }
  get width() { return this.canvas.clientWidth; }
  get height() { return this.canvas.clientHeight; }
  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.width * ratio));
    this.canvas.height = Math.max(1, Math.round(this.height * ratio));
    this.redraw();
  }
  redraw() { if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(this.canvas.getContext("2d"), window.devicePixelRatio || 1); }); }
  transform(ratio) {
    const scale = this.view.scale * ratio;
    return [scale, 0, 0, scale, this.width * ratio / 2 - this.view.x * scale, this.height * ratio / 2 - this.view.y * scale];
  }
  draw(context, ratio) {
    const { app } = this, width = this.width * ratio, height = this.height * ratio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--stage");
    context.fillRect(0, 0, width, height);
    if (!app.overlay) return;
    context.setTransform(...this.transform(ratio));
    app.pyramid.draw(context, { x: this.view.x, y: this.view.y, scale: this.view.scale * ratio, width, height });
    if (this.picture) app.overlay.draw(context, this.picture, app.opacity);
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (this.picture && app.hatching) app.overlay.hatch(context, this.transform(ratio), width, height);
    app.selection.draw(context, this.transform(ratio), ratio);
    this.scaleBar(context, ratio);
  }
  scaleBar(context, ratio) {
    const perPx = this.app.meta.mpp / this.view.scale, target = perPx * 140;
    const power = 10 ** Math.floor(Math.log10(target));
    const length = power * [5, 2, 1].find((step) => step * power <= target);
    const long = length / perPx * ratio, right = (this.width - 16) * ratio, bottom = (this.height - 18) * ratio;
    const text = length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(3)} µm`;
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    const wide = Math.max(long, context.measureText(text).width);
    context.fillStyle = "rgb(255 255 255 / .88)";
    context.fillRect(right - wide - 8 * ratio, bottom - 20 * ratio, wide + 16 * ratio, 30 * ratio);
    context.fillStyle = "#1a1a1f";
    context.fillRect(right - long, bottom, long, 3 * ratio);
    context.textAlign = "right"; context.textBaseline = "bottom";
    context.fillText(text, right, bottom - 3 * ratio);
  }
  fromMiddle(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }
  place(event) { const [dx, dy] = this.fromMiddle(event); return [this.view.x + dx / this.view.scale, this.view.y + dy / this.view.scale]; }
  wheel(event) {
    event.preventDefault();
    const [dx, dy] = this.fromMiddle(event);
    this.view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), this.app.meta, dx, dy);
  }
  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = [event.clientX, event.clientY];
    if (this.app.tool === "pan") this.canvas.classList.add("dragging");
    else this.app.selection.start(this.app.tool, this.place(event));
  }
  moved(event) {
    if (!this.pointer) { this.app.hover(event, this.place(event)); return; }
    if (this.app.tool === "pan") {
      this.view.move(event.clientX - this.pointer[0], event.clientY - this.pointer[1]);
      this.pointer = [event.clientX, event.clientY];
    } else this.app.selection.extend(this.place(event));
  }
  up() {
    if (!this.pointer) return;
    this.pointer = null;
    this.canvas.classList.remove("dragging");
    if (this.app.tool !== "pan") this.app.selection.finish();
  }
}
