// What is drawn over the slide: one colour for each tile. Tiles on a grid are one small picture, enlarged; other places
// are drawn one by one, spots as discs.
const GRID_AT_MOST = 2 ** 24;
class Overlay {
  constructor(data) {
    this.data = data;
    const { meta, n, x, y } = data;
    this.cell = meta.cell_px; this.spots = meta.spots;
    let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      x0 = Math.min(x0, x[i]); y0 = Math.min(y0, y[i]); x1 = Math.max(x1, x[i]); y1 = Math.max(y1, y[i]);
    }
    this.x0 = x0; this.y0 = y0;
    this.columns = Math.round((x1 - x0) / this.cell) + 1;
    this.rows = Math.round((y1 - y0) / this.cell) + 1;
    this.gridded = !this.spots && this.columns * this.rows <= GRID_AT_MOST;
    // Rows of the table by grid place, chained: head of the chain by place, next row by row.
    this.first = new Map(); this.next = new Int32Array(n).fill(-1); this.place = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const place = this.placeOf(x[i], y[i]);
      this.place[i] = place;
      const before = this.first.get(place);
      if (before !== undefined) this.next[i] = before;
      this.first.set(place, i);
    }
    const state = (i) => (data.read_ok[i] < 0.5 ? "unread" : data.in_scope[i] < 0.5 ? "outside" : "");
    this.counts = { outside: 0, unread: 0 };
    for (let i = 0; i < n; i++) if (state(i)) this.counts[state(i)]++;
    this.masks = {};
    for (const kind of Object.keys(this.counts)) {
      if (this.counts[kind]) this.masks[kind] = this.picture((i) => (state(i) === kind ? 0xff000000 : 0));
    }
    this.stateOf = state;
  }
  placeOf(x, y) { return Math.round((y - this.y0) / this.cell) * this.columns + Math.round((x - this.x0) / this.cell); }
  // Colours made ready to draw: a small canvas, or rows by colour.
  picture(colourOf) {
    const { n } = this.data;
    if (!this.gridded) {
      const groups = new Map();
      for (let i = 0; i < n; i++) {
        const colour = colourOf(i);
        if (!colour) continue;
        const rows = groups.get(colour);
        if (rows) rows.push(i); else groups.set(colour, [i]);
      }
      return groups;
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
    if (this.gridded) {
      const { cell } = this;
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, this.x0 - cell / 2, this.y0 - cell / 2, this.columns * cell, this.rows * cell);
    } else this.marks(context, picture, view);
    context.restore();
  }
  // Only what is in view; from a distance a disc is a square.
  marks(context, groups, view) {
    const half = this.cell / 2, { x, y } = this.data, square = !this.spots || half * view.scale < 2;
    const side = square && this.spots ? half * Math.sqrt(Math.PI) : this.cell;
    const across = view.width / 2 / view.scale + half, down = view.height / 2 / view.scale + half;
    for (const [colour, rows] of groups) {
      context.fillStyle = css(unpackedColour(colour));
      if (!square) context.beginPath();
      for (const i of rows) {
        if (Math.abs(x[i] - view.x) > across || Math.abs(y[i] - view.y) > down) continue;
        if (square) context.fillRect(x[i] - side / 2, y[i] - side / 2, side, side);
        else { context.moveTo(x[i] + half, y[i]); context.arc(x[i], y[i], half, 0, 2 * Math.PI); }
      }
      if (!square) context.fill();
    }
  }
  // Hatching is cut out of a pattern in screen px by the mask of the tiles.
  hatch(context, transform, view, ratio) {
    for (const [kind, mask] of Object.entries(this.masks)) {
      const layer = this.layer ||= document.createElement("canvas");
      if (layer.width !== view.width || layer.height !== view.height) { layer.width = view.width; layer.height = view.height; }
      const own = layer.getContext("2d");
      own.setTransform(1, 0, 0, 1, 0, 0);
      own.globalCompositeOperation = "copy";
      own.fillStyle = hatchPattern(own, kind, ratio);
      own.fillRect(0, 0, view.width, view.height);
      own.globalCompositeOperation = "destination-in";
      if (this.gridded) {
        own.setTransform(...transform);
        this.draw(own, mask, 1, view);
      } else this.cut(own, mask, transform, view);
      context.drawImage(layer, 0, 0);
    }
  }
  // Many marks together cut once: as one path, since each drawing of its own would clear all the others.
  cut(own, groups, transform, view) {
    const half = this.cell / 2, { x, y } = this.data;
    own.setTransform(...transform);
    own.beginPath();
    for (const rows of groups.values()) for (const i of rows) {
      if (this.spots) { own.moveTo(x[i] + half, y[i]); own.arc(x[i], y[i], half, 0, 2 * Math.PI); }
      else own.rect(x[i] - half, y[i] - half, this.cell, this.cell);
    }
    own.fillStyle = "#000";
    own.fill();
  }
  // The tile under a place of the slide, or -1.
  under(x, y) {
    const column = Math.round((x - this.x0) / this.cell), row = Math.round((y - this.y0) / this.cell);
    let best = -1, nearest = this.cell / 2 + 1e-3;
    for (let down = -1; down <= 1; down++) for (let along = -1; along <= 1; along++) {
      if (column + along < 0 || column + along >= this.columns) continue;
      let i = this.first.get((row + down) * this.columns + column + along) ?? -1;
      for (; i >= 0; i = this.next[i]) {
        const dx = Math.abs(this.data.x[i] - x), dy = Math.abs(this.data.y[i] - y);
        const distance = this.spots ? Math.hypot(dx, dy) : Math.max(dx, dy);
        if (distance <= nearest) { nearest = distance; best = i; }
      }
    }
    return best;
  }
}
