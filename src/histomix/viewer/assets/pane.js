// One canvas on a slide. Panes on one slide share the view, so that they show the same place; a second slide has its own,
// of the same magnification.
const CLOSEST_UM = 0.1, CLICK_PX = 4, TIMES_UM = 10;
class View {
  constructor() { this.x = 0; this.y = 0; this.scale = 1; this.whole = ""; this.listeners = []; }
  // whole: what is fitted into the pane, "map" or "slide", if anything is.
  set(x, y, scale, whole = "") { Object.assign(this, { x, y, scale, whole }); this.listeners.forEach((listener) => listener(this)); }
  fit([x0, y0, x1, y1], width, height, whole) {
    this.set((x0 + x1) / 2, (y0 + y1) / 2, 0.96 * Math.min(width / (x1 - x0), height / (y1 - y0)), whole);
  }
  move(dx, dy) { this.set(this.x - dx / this.scale, this.y - dy / this.scale, this.scale); }
  // Zoom about a point of the pane, given from its middle in screen px.
  zoom(factor, meta, dx = 0, dy = 0) {
    const farthest = 40 / Math.max(meta.width_px, meta.height_px);
    const next = Math.min(Math.max(this.scale * factor, farthest), meta.mpp / CLOSEST_UM);
    this.set(this.x + dx / this.scale - dx / next, this.y + dy / this.scale - dy / next, next);
  }
}

class Pane {
  constructor(canvas, view, app, number) {
    this.canvas = canvas; this.view = view; this.app = app; this.number = number;
    this.frame = 0; this.picture = null; this.hatches = {}; this.pointers = new Map(); this.layer = "none"; this.type = 0; this.scene = null;
    new ResizeObserver(() => this.resize()).observe(canvas);
    const on = (name, act, options) => canvas.addEventListener(name, act, options);
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.moved(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", (event) => this.up(event));
    on("pointerleave", () => this.app.hover(null));
    on("dblclick", (event) => this.view.zoom(2, this.scene.meta, ...this.fromMiddle(event)));
    on("focus", () => { this.app.aimed = this; this.app.aim(canvas.matches(":focus-visible")); });
    on("blur", () => this.app.aim(false));
    this.resize();
  }
  // The size is read here only, where it may have changed: asked for between two changes of the page, it costs a layout.
  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth; this.height = this.canvas.clientHeight;
    this.canvas.width = Math.max(1, Math.round(this.width * ratio));
    this.canvas.height = Math.max(1, Math.round(this.height * ratio));
    // What is fitted stays so when its pane grows or shrinks.
    if (this.scene && this.view.whole && this.width) this.app.fit(this.view.whole);
    this.redraw();
  }
  redraw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.width) this.draw(this.canvas.getContext("2d"), window.devicePixelRatio || 1);
    });
  }
  transform(ratio) {
    const scale = this.view.scale * ratio;
    return [scale, 0, 0, scale, this.width * ratio / 2 - this.view.x * scale, this.height * ratio / 2 - this.view.y * scale];
  }
  // The slide, and what lies over it; an export asks for the parts that it does not draw itself.
  draw(context, ratio, { overlay = true, marks = true, ground = this.app.stage } = {}) {
    const { app, scene } = this, width = Math.round(this.width * ratio), height = Math.round(this.height * ratio);
    const view = { x: this.view.x, y: this.view.y, scale: this.view.scale * ratio, width, height };
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
    if (!scene) return;
    context.setTransform(...this.transform(ratio));
    scene.pyramid.draw(context, view);
    if (overlay && this.picture) scene.overlay.draw(context, this.picture, app.opacity, view);
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (overlay && (this.picture || scene.meta.statement) && app.hatching) scene.overlay.hatch(context, this.transform(ratio), view, ratio, this.hatches);
    if (!marks) return;
    app.regions.draw(context, this.transform(ratio), ratio, scene);
    app.selection.draw(context, this.transform(ratio), ratio, scene);
    this.scaleBar(context, ratio);
    if (ground !== app.stage) return;
    if (app.aiming && (app.aimed === this || app.aimed.scene === scene)) this.cross(context, width / 2, height / 2, ratio);
    else if (app.cursor && app.cursor.pane !== this && app.cursor.pane.scene === scene) {
      const [scale, , , , e, f] = this.transform(ratio), [x, y] = app.cursor.place;
      this.cross(context, x * scale + e, y * scale + f, ratio);
    }
  }
  cross(context, x, y, ratio) {
    for (const [colour, wide] of [["rgb(255,255,255)", 4], ["rgb(20,20,26)", 1.6]]) {
      context.strokeStyle = colour; context.lineWidth = wide * ratio;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx * ratio, y + 4 * dy * ratio); context.lineTo(x + 12 * dx * ratio, y + 12 * dy * ratio);
      }
      context.stroke();
    }
  }
  // As a microscope would say it: 10x is 1 um per screen px.
  get times() { return TIMES_UM * this.view.scale / this.scene.meta.mpp; }
  // A round length of up to 120 screen px, less in a narrow pane: [screen px, words].
  scale() {
    const perPx = this.scene.meta.mpp / this.view.scale, target = perPx * Math.min(120, 0.28 * this.width), power = 10 ** Math.floor(Math.log10(target));
    const length = power * [5, 2, 1].find((step) => step * power <= target);
    return [length / perPx, length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(3)} µm`];
  }
  scaleBar(context, ratio) {
    const [long, words] = this.scale(), right = (this.width - 20) * ratio, bottom = (this.height - 20) * ratio;
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    const wide = Math.max(long * ratio, context.measureText(words).width);
    context.fillStyle = "rgb(255 255 255 / .9)";
    context.beginPath();
    context.roundRect(right - wide - 10 * ratio, bottom - 22 * ratio, wide + 20 * ratio, 33 * ratio, 7 * ratio);
    context.fill();
    context.fillStyle = "#1a1a1f";
    context.fillRect(right - wide / 2 - long * ratio / 2, bottom, long * ratio, 3 * ratio);
    context.textAlign = "center"; context.textBaseline = "bottom";
    context.fillText(words, right - wide / 2, bottom - 3 * ratio);
  }
  fromMiddle(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }
  place(event) {
    const [dx, dy] = this.fromMiddle(event);
    return [this.view.x + dx / this.view.scale, this.view.y + dy / this.view.scale];
  }
  wheel(event) {
    event.preventDefault();
    if (!this.scene) return;
    const step = event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0016;
    this.view.zoom(Math.exp(-event.deltaY * step), this.scene.meta, ...this.fromMiddle(event));
  }
  down(event) {
    if (event.button !== 0 || !this.scene) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.app.tool === "pan" || this.pointers.size > 1) this.canvas.classList.add("dragging");
    else this.app.selection.start(this.app.tool, this.place(event), this.scene);
  }
  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) { this.app.hover(event, this.place(event), this); return; }
    if (this.pointers.size > 1) this.pinch(before, event);
    else if (this.app.tool === "pan") this.view.move(event.clientX - before.clientX, event.clientY - before.clientY);
    else this.app.selection.extend(this.place(event), CLICK_PX / this.view.scale);
    this.pointers.set(event.pointerId, event);
  }
  // Two fingers: zoom by the change of their distance, about the one that stays.
  pinch(before, event) {
    const still = [...this.pointers.values()].find((other) => other.pointerId !== event.pointerId);
    const distance = (one) => Math.hypot(one.clientX - still.clientX, one.clientY - still.clientY) || 1;
    this.view.zoom(distance(event) / distance(before), this.scene.meta, ...this.fromMiddle(still));
  }
  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    this.canvas.classList.remove("dragging");
    if (this.app.tool !== "pan" && this.app.selection.drawing) this.app.selection.finish();
  }
}
