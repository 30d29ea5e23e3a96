// What is drawn over the slide: one colour for each tile. Tiles on a grid are one small picture, enlarged; spots are discs.
class Overlay {
  constructor(data) {
    this.data = data;
    const { meta, n, x, y } = data;
    this.cell = meta.cell_px;
    this.spots = meta.spots;
    this.x0 = Infinity; this.y0 = Infinity; let x1 = -Infinity, y1 = -Infinity;
    for (let i = 0; i < n; i++) {
      this.x0 = Math.min(this.x0, x[i]); this.y0 = Math.min(this.y0, y[i]); x1 = Math.max(x1, x[i]); y1 = Math.max(y1, y[i]);
    }
    this.columns = Math.round((x1 - this.x0) / this.cell) + 1;
    this.rows = Math.round((y1 - this.y0) / this.cell) + 1;
    this.at = new Map();
    this.place = new Int32Array(n);
    for (let i = 0; i < n; i++) {
      const column = Math.round((x[i] - this.x0) / this.cell), row = Math.round((y[i] - this.y0) / this.cell);
      this.place[i] = row * this.columns + column;
      const list = this.at.get(this.place[i]);
      if (list) list.push(i); else this.at.set(this.place[i], [i]);
    }
    this.hatchMask = this.picture((i) => (data.in_scope[i] < 0.5 || data.read_ok[i] < 0.5 ? 0xff000000 : 0));
    this.anyHatched = data.in_scope.some((value) => value < 0.5);
  }
  picture(colourOf) {
    if (this.spots) {
      const colours = new Uint32Array(this.data.n);
      for (let i = 0; i < this.data.n; i++) colours[i] = colourOf(i);
      return colours;
    }
    const canvas = document.createElement("canvas");
    canvas.width = this.columns; canvas.height = this.rows;
    const context = canvas.getContext("2d"), image = context.createImageData(this.columns, this.rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < this.data.n; i++) pixels[this.place[i]] = colourOf(i);
    context.putImageData(image, 0, 0);
    return canvas;
  }
  draw(context, picture, alpha) {
    context.save();
    context.globalAlpha = alpha;
    if (this.spots) this.discs(context, picture);
    else {
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, this.x0 - this.cell / 2, this.y0 - this.cell / 2, this.columns * this.cell, this.rows * this.cell);
    }
    context.restore();
  }
  discs(context, colours) {
    const byColour = new Map();
    for (let i = 0; i < colours.length; i++) {
      if (!colours[i]) continue;
      const list = byColour.get(colours[i]);
      if (list) list.push(i); else byColour.set(colours[i], [i]);
    }
    const radius = this.cell / 2, { x, y } = this.data;
    for (const [colour, rows] of byColour) {
      context.fillStyle = `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
      context.beginPath();
      for (const i of rows) { context.moveTo(x[i] + radius, y[i]); context.arc(x[i], y[i], radius, 0, 2 * Math.PI); }
      context.fill();
    }
  }
  // Hatching is cut out of a pattern in screen px, so that it looks the same at every zoom.
  hatch(context, transform, width, height) {
    if (!this.anyHatched) return;
    const layer = document.createElement("canvas");
    layer.width = width; layer.height = height;
    const own = layer.getContext("2d");
    own.setTransform(...transform);
    this.draw(own, this.hatchMask, 1);
    own.setTransform(1, 0, 0, 1, 0, 0);
    own.globalCompositeOperation = "source-in";
    own.fillStyle = Overlay.pattern(own);
    own.fillRect(0, 0, width, height);
    context.drawImage(layer, 0, 0);
  }
  static pattern(context) {
    const cell = document.createElement("canvas");
    cell.width = cell.height = 8;
    const own = cell.getContext("2d");
    for (const [colour, shift] of [["rgb(255 255 255 / .85)", 1.2], ["rgb(20 20 30 / .9)", 0]]) {
      own.strokeStyle = colour; own.lineWidth = 1.2;
      own.beginPath();
      for (const start of [-8, 0, 8]) { own.moveTo(start + shift, 8); own.lineTo(start + 8 + shift, 0); }
      own.stroke();
    }
    return context.createPattern(cell, "repeat");
  }
  // The tile under a place of the slide, or -1.
  under(x, y) {
    const column = Math.round((x - this.x0) / this.cell), row = Math.round((y - this.y0) / this.cell);
    let best = -1, nearest = this.spots ? this.cell / 2 : Infinity;
    for (let down = -1; down <= 1; down++) for (let along = -1; along <= 1; along++) {
      if (column + along < 0 || column + along >= this.columns) continue;
      for (const i of this.at.get((row + down) * this.columns + column + along) || []) {
        const dx = Math.abs(this.data.x[i] - x), dy = Math.abs(this.data.y[i] - y);
        const distance = this.spots ? Math.hypot(dx, dy) : Math.max(dx, dy);
        if (distance <= Math.min(nearest, this.cell / 2 + 1e-3)) { nearest = distance; best = i; }
      }
    }
    return best;
  }
}

const packedColour = (red, green, blue) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
function colourByValue(values, top, map) {
  const table = Uint32Array.from(map, ([red, green, blue]) => packedColour(red, green, blue));
  return (i) => (Number.isNaN(values[i]) ? 0 : table[Math.max(0, Math.min(255, Math.round(255 * values[i] / top)))]);
}
function colourByCode(codes, colours) {
  const table = Uint32Array.from(colours, ([red, green, blue]) => packedColour(red, green, blue));
  return (i) => (Number.isNaN(codes[i]) ? 0 : table[Math.round(codes[i])]);
}
