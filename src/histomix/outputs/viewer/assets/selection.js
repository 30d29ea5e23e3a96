// A rectangle or a free shape on the slide, and the composition of the tiles in it.
class Selection {
  constructor(app) { this.app = app; this.clear(); }
  clear() { this.points = []; this.rows = null; this.kind = null; }
  start(kind, place) { this.kind = kind; this.points = [place]; this.rows = null; }
  extend(place) {
    if (this.kind === "rectangle") {
      const [x, y] = this.points[0];
      this.points = [[x, y], [place[0], y], place, [x, place[1]]];
    } else this.points.push(place);
    this.choose();
    this.app.selectionChanged();
  }
  finish() {
    if (this.points.length < 3) this.clear(); else this.choose();
    this.app.selectionChanged();
  }
  choose() {
    const { data } = this.app, rows = [];
    let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
    for (const [x, y] of this.points) { left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y); }
    for (let i = 0; i < data.n; i++) {
      const x = data.x[i], y = data.y[i];
      if (x >= left && x <= right && y >= top && y <= bottom && this.holds(x, y)) rows.push(i);
    }
    this.rows = rows;
  }
  holds(x, y) {
    let inside = false;
    const points = this.points;
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
    context.lineWidth = 3 * ratio; context.strokeStyle = "rgb(255 255 255 / .9)"; context.stroke();
    context.lineWidth = 1.4 * ratio; context.strokeStyle = "#14141a"; context.stroke();
  }
  // Mean of each type over the readable tiles of the selection; layers in the order of the types.
  means(layers) {
    const rows = this.rows.filter((i) => this.app.data.read_ok[i] > 0.5);
    return { count: rows.length, means: layers.map((layer) => rows.reduce((sum, i) => sum + layer.value[i], 0) / (rows.length || 1)) };
  }
}
