// What is drawn over the slide: one colour for each tile. Tiles on a grid are one small picture, enlarged; other places
// are drawn one by one, spots as discs.
const GRID_AT_MOST = 2 ** 24, TABLE_AT_MOST = 2 ** 22;
// Radius in px up to which marks are written px by px: smooth edges where they are few, speed where they are many.
const smallPx = (n) => (n > 20000 ? 24 : n > 3000 ? 6 : 1);
class Overlay {
  constructor(data) {
    this.data = data;
    const { meta, n, x, y } = data;
    this.cell = meta.cell_px; this.spots = meta.spots;
    let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      x0 = Math.min(x0, x[i]); y0 = Math.min(y0, y[i]); x1 = Math.max(x1, x[i]); y1 = Math.max(y1, y[i]);
    }
    if (!n) [x0, y0, x1, y1] = [0, 0, meta.width_px, meta.height_px];
    this.x0 = x0; this.y0 = y0;
    const edge = this.cell;
    this.box = [Math.max(0, x0 - edge), Math.max(0, y0 - edge), Math.min(meta.width_px, x1 + edge), Math.min(meta.height_px, y1 + edge)];
    this.columns = Math.round((x1 - x0) / this.cell) + 1;
    this.rows = Math.round((y1 - y0) / this.cell) + 1;
    this.gridded = !this.spots && this.columns * this.rows <= GRID_AT_MOST;
    // Rows of the table by grid place, chained: the last row of each place, and of each row the one before; 0 is none,
    // else row + 1.
    const places = this.columns * this.rows;
    this.last = places <= TABLE_AT_MOST ? new Int32Array(places) : new Map();
    this.before = new Int32Array(n); this.place = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const place = this.place[i] = this.placeOf(x[i], y[i]);
      this.before[i] = this.lastOf(place);
      if (this.last instanceof Map) this.last.set(place, i + 1); else this.last[place] = i + 1;
    }
    this.stateOf = (i) => (data.read_ok[i] ? (data.in_scope[i] ? "" : "outside") : "unread");
    this.counts = { outside: 0, unread: 0 };
    this.boxes = { outside: [Infinity, Infinity, -Infinity, -Infinity], unread: [Infinity, Infinity, -Infinity, -Infinity] };
    for (let i = 0; i < n; i++) {
      if (data.read_ok[i] && data.in_scope[i]) continue;
      const kind = this.stateOf(i), box = this.boxes[kind];
      this.counts[kind]++;
      box[0] = Math.min(box[0], x[i]); box[1] = Math.min(box[1], y[i]); box[2] = Math.max(box[2], x[i]); box[3] = Math.max(box[3], y[i]);
    }
    this.masks = {};
    for (const kind of Object.keys(this.counts)) {
      if (this.counts[kind]) this.masks[kind] = this.picture((i) => (this.stateOf(i) === kind ? 0xff000000 : 0));
    }
  }
  placeOf(x, y) { return Math.round((y - this.y0) / this.cell) * this.columns + Math.round((x - this.x0) / this.cell); }
  lastOf(place) { return (this.last instanceof Map ? this.last.get(place) : this.last[place]) || 0; }
  // Colours made ready to draw: a small canvas, or a list of them with the rows of each.
  picture(colourOf) {
    const { n } = this.data;
    if (!this.gridded) {
      const groups = new Map(), colours = new Uint32Array(n);
      for (let i = 0; i < n; i++) {
        const colour = colourOf(i);
        if (!colour) continue;
        colours[i] = colour;
        const rows = groups.get(colour);
        if (rows) rows.push(i); else groups.set(colour, [i]);
      }
      return { groups, colours };
    }
    const canvas = document.createElement("canvas");
    canvas.width = this.columns; canvas.height = this.rows;
    const context = canvas.getContext("2d"), image = context.createImageData(this.columns, this.rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < n; i++) pixels[this.place[i]] = colourOf(i);
    context.putImageData(image, 0, 0);
    return canvas;
  }
  draw(context, picture, alpha, view) {
    context.save();
    context.globalAlpha = alpha;
    if (picture.bitmap) {
      context.imageSmoothingEnabled = false;
      context.drawImage(picture.bitmap, 0, 0, ...picture.size_px);
    } else if (this.gridded) {
      const { cell } = this;
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, this.x0 - cell / 2, this.y0 - cell / 2, this.columns * cell, this.rows * cell);
    } else if (this.cell / 2 * view.scale < smallPx(this.data.n)) this.small(context, picture.colours, view);
    else this.marks(context, picture.groups, view);
    context.restore();
  }
  // One path for each colour, of what is in view.
  marks(context, groups, view) {
    const half = this.cell / 2, { x, y } = this.data;
    const across = view.width / 2 / view.scale + half, down = view.height / 2 / view.scale + half;
    for (const [colour, rows] of groups) {
      context.fillStyle = css(unpackedColour(colour));
      context.beginPath();
      for (const i of rows) {
        if (Math.abs(x[i] - view.x) > across || Math.abs(y[i] - view.y) > down) continue;
        if (this.spots) { context.moveTo(x[i] + half, y[i]); context.arc(x[i], y[i], half, 0, 2 * Math.PI); }
        else context.rect(x[i] - half, y[i] - half, this.cell, this.cell);
      }
      context.fill();
    }
  }
  // From afar there may be very many: their px are written one by one.
  small(context, colours, view) {
    const { width, height, scale } = view, { n, x, y } = this.data, radius = Math.max(0.5, this.cell / 2 * scale);
    const sheet = this.sheet ||= document.createElement("canvas");
    if (!this.image || sheet.width !== width || sheet.height !== height) {
      sheet.width = width; sheet.height = height;
      this.image = sheet.getContext("2d").createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels } = this;
    pixels.fill(0);
    for (let i = 0; i < n; i++) {
      if (!colours[i]) continue;
      const across = (x[i] - view.x) * scale + width / 2, down = (y[i] - view.y) * scale + height / 2;
      if (across < -radius || down < -radius || across > width + radius || down > height + radius) continue;
      const last = Math.min(height, Math.round(down + radius));
      for (let row = Math.max(0, Math.round(down - radius)); row < last; row++) {
        const off = row + 0.5 - down, half = this.spots ? Math.sqrt(Math.max(0, radius * radius - off * off)) : radius;
        const from = Math.max(0, Math.round(across - half)), to = Math.min(width, Math.round(across + half));
        if (to > from) pixels.fill(colours[i], row * width + from, row * width + to);
      }
    }
    sheet.getContext("2d").putImageData(this.image, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(sheet, 0, 0);
  }
  // Hatching is a pattern in screen px, cut out by the mask of the tiles, where there are any in view. kept: what was
  // made for the same view before, for the next colours on it.
  hatch(context, transform, view, ratio, kept = {}) {
    const [scale, , , , e, f] = transform, half = this.cell / 2, place = [this.data.meta.key, ...transform, view.width, view.height].join();
    for (const [kind, mask] of Object.entries(this.masks)) {
      const [x0, y0, x1, y1] = this.boxes[kind];
      const left = Math.max(0, Math.floor((x0 - half) * scale + e)), top = Math.max(0, Math.floor((y0 - half) * scale + f));
      const wide = Math.min(view.width, Math.ceil((x1 + half) * scale + e)) - left;
      const high = Math.min(view.height, Math.ceil((y1 + half) * scale + f)) - top;
      if (wide <= 0 || high <= 0) continue;
      const one = kept[kind] ||= { layer: document.createElement("canvas"), place: "" }, { layer } = one;
      if (one.place !== place) {
        one.place = place;
        if (layer.width !== view.width || layer.height !== view.height) { layer.width = view.width; layer.height = view.height; }
        const own = layer.getContext("2d");
        own.setTransform(1, 0, 0, 1, 0, 0);
        own.globalCompositeOperation = "source-over";
        own.clearRect(left, top, wide, high);
        own.setTransform(...transform);
        this.draw(own, mask, 1, view);
        own.setTransform(1, 0, 0, 1, 0, 0);
        own.globalCompositeOperation = "source-in";
        own.fillStyle = hatchPattern(own, kind, ratio);
        own.fillRect(left, top, wide, high);
      }
      context.drawImage(layer, left, top, wide, high, left, top, wide, high);
    }
  }
  // The tile under a place of the slide, or -1.
  under(x, y) {
    const column = Math.round((x - this.x0) / this.cell), row = Math.round((y - this.y0) / this.cell);
    let best = -1, nearest = this.cell / 2 + 1e-3;
    for (let down = -1; down <= 1; down++) for (let along = -1; along <= 1; along++) {
      if (column + along < 0 || column + along >= this.columns) continue;
      for (let entry = this.lastOf((row + down) * this.columns + column + along); entry; entry = this.before[entry - 1]) {
        const i = entry - 1;
        const dx = Math.abs(this.data.x[i] - x), dy = Math.abs(this.data.y[i] - y);
        const distance = this.spots ? Math.hypot(dx, dy) : Math.max(dx, dy);
        if (distance <= nearest) { nearest = distance; best = i; }
      }
    }
    return best;
  }
}
