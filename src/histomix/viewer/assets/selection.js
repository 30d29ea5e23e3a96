// A rectangle or a free shape on the slide, and the composition of the tiles whose centres are in it.
class Selection {
  constructor(app) { this.app = app; this.clear(); }
  clear() { this.points = []; this.rows = null; this.kind = null; this.drawing = false; this.waiting = 0; }
  start(kind, place) { this.kind = kind; this.points = [place]; this.rows = null; this.drawing = true; }
  extend(place, least = 0) {
    if (!this.drawing) return;
    if (this.kind === "rectangle") {
      const [x, y] = this.points[0];
      this.points = [[x, y], [place[0], y], place, [x, place[1]]];
    } else {
      const [x, y] = this.points.at(-1);
      if (Math.hypot(place[0] - x, place[1] - y) < least) return;
      this.points.push(place);
    }
    // Counting follows the pointer once a frame.
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      if (this.drawing && this.points.length > 2) { this.rows = this.inside(); this.app.selectionChanged(); }
    });
    this.app.redraw();
  }
  finish() {
    if (this.points.length < 3) this.clear();
    else { this.drawing = false; this.rows = this.inside(); }
    this.app.selectionChanged();
  }
  inside() {
    const { data } = this.app, rows = [];
    const xs = this.points.map(([x]) => x), ys = this.points.map(([, y]) => y);
    const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
    for (let i = 0; i < data.n; i++) {
      const x = data.x[i], y = data.y[i];
      if (x >= left && x <= right && y >= top && y <= bottom && this.holds(x, y)) rows.push(i);
    }
    return rows;
  }
  // Even-odd rule.
  holds(x, y) {
    let inside = false;
    const { points } = this;
    for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
      const [xi, yi] = points[i], [xj, yj] = points[j];
      if (yi > y !== yj > y && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  }
  draw(context, transform, ratio) {
    if (this.points.length < 2) return;
    context.setTransform(...transform);
    context.beginPath();
    this.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.lineJoin = "round";
    context.lineWidth = 4 * ratio; context.strokeStyle = "rgb(255 255 255 / .95)"; context.stroke();
    context.lineWidth = 1.8 * ratio; context.strokeStyle = "#14141a"; context.stroke();
  }
  // Mean of each type over the readable tiles of the selection that are in scope; layers in the order of the types.
  means(layers) {
    const { data } = this.app, readable = this.rows.filter((i) => data.read_ok[i] > 0.5 && !Number.isNaN(data.dominant[i]));
    const rows = readable.filter((i) => data.in_scope[i] > 0.5);
    const mean = (values) => {
      let sum = 0, count = 0;
      for (const i of rows) if (!Number.isNaN(values[i])) { sum += values[i]; count++; }
      return count ? sum / count : NaN;
    };
    const labels = this.app.meta.has_label ? layers.map((layer) => mean(layer.label)) : null;
    return { count: rows.length, unread: this.rows.length - readable.length, outside: readable.length - rows.length, means: layers.map((layer) => mean(layer.value)), labels };
  }
}
