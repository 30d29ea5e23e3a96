// A shape on a slide: rings of [x, y], level-0 px; a place is inside by the even-odd rule.
function rowsInside(rings, data) {
  const corners = rings.flat(), xs = corners.map(([x]) => x), ys = corners.map(([, y]) => y), rows = [];
  const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity), most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  const left = least(xs), right = most(xs), top = least(ys), bottom = most(ys);
  for (let i = 0; i < data.n; i++) {
    const x = data.x[i], y = data.y[i];
    if (x < left || x > right || y < top || y > bottom) continue;
    let inside = false;
    for (const ring of rings) {
      for (let k = 0, j = ring.length - 1; k < ring.length; j = k++) {
        const [xk, yk] = ring[k], [xj, yj] = ring[j];
        if (yk > y !== yj > y && x < (xj - xk) * (y - yk) / (yj - yk) + xk) inside = !inside;
      }
    }
    if (inside) rows.push(i);
  }
  return rows;
}
function strokeRings(context, rings, transform, ratio, colour) {
  context.setTransform(...transform);
  context.beginPath();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.lineJoin = "round";
  for (const [ink, wide] of [["rgb(255 255 255 / .95)", 4.4], [colour, 2]]) {
    context.lineWidth = wide * ratio; context.strokeStyle = ink; context.stroke();
  }
}

// A rectangle or a free shape that is being drawn or is looked at, and the tiles whose centres are in it.
class Selection {
  constructor(app) { this.app = app; this.clear(); }
  clear() { this.rings = []; this.rows = null; this.kind = null; this.drawing = false; this.waiting = 0; this.region = null; }
  start(kind, place, scene = this.app.scene) { this.clear(); this.kind = kind; this.scene = scene; this.rings = [[place]]; this.drawing = true; }
  extend(place, least = 0) {
    if (!this.drawing) return;
    const [points] = this.rings, [x, y] = points[0];
    if (this.kind === "rectangle") this.rings = [[[x, y], [place[0], y], place, [x, place[1]]]];
    else {
      const last = points.at(-1);
      if (Math.hypot(place[0] - last[0], place[1] - last[1]) < least) return;
      points.push(place);
    }
    // Counting follows the pointer once a frame.
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      if (this.drawing && this.rings[0].length > 2) { this.rows = this.inside(); this.app.selectionChanged(); }
    });
    this.app.redraw();
  }
  finish() {
    if (this.rings[0].length < 3) this.clear();
    else { this.drawing = false; this.rows = this.inside(); }
    this.app.selectionChanged();
  }
  inside() { return rowsInside(this.rings, this.scene.data); }
  // Look at a region that was kept.
  take(region, scene) { this.clear(); Object.assign(this, { region, scene, rings: region.polygons.flat(), rows: region.rows }); this.app.selectionChanged(); }
  draw(context, transform, ratio, scene) {
    if (scene === this.scene && this.rings.length && this.rings[0].length > 1) strokeRings(context, this.rings, transform, ratio, "#14141a");
  }
}
