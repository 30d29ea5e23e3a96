// The slide's pictures: the level that fits the zoom, over coarser ones until it has come.
const KEPT_TILES = 240;
class Pyramid {
  constructor(meta, redraw) {
    this.meta = meta; this.redraw = redraw; this.tiles = new Map();
    this.present = meta.levels.map((level) => bytesOf(level.tiles));  // a bit for each tile; what has none is white
  }
  // The coarsest level that needs no (or little) enlarging.
  levelFor(scale) {
    let chosen = 0;
    this.meta.levels.forEach((level, number) => { if (scale * level.mpp / this.meta.mpp <= 1.25) chosen = number; });
    return chosen;
  }
  request(number, column, row) {
    const name = `${number}_${column}_${row}`, known = this.tiles.get(name);
    if (known) {
      this.tiles.delete(name); this.tiles.set(name, known);  // the last used stands last
      return known.picture;
    }
    const entry = { picture: null, failed: false }, path = `${this.meta.key}/tiles/${name}`;
    this.tiles.set(name, entry);
    HX.load(path, `data/${path}.js`)
      .then((text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/jpeg" })))
      .then((picture) => {
        if (this.tiles.get(name) !== entry) { picture.close(); return; }
        entry.picture = picture;
        this.redraw();
      })
      .catch(() => { entry.failed = true; });
    while (this.tiles.size > KEPT_TILES) {
      const [oldest, old] = this.tiles.entries().next().value;
      if (old.picture) old.picture.close();
      this.tiles.delete(oldest);
    }
    return null;
  }
  get settled() { return [...this.tiles.values()].every((tile) => tile.picture || tile.failed); }
  close() { for (const tile of this.tiles.values()) if (tile.picture) tile.picture.close(); this.tiles.clear(); }
  // Draws on a context in slide px (level 0); view: {x, y, scale, width, height}. Coarser pictures stand in for what has
  // not come yet, and are left out where all has.
  draw(context, view) {
    const { meta } = this, chosen = this.levelFor(view.scale), coarsest = meta.levels.length - 1;
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, meta.width_px, meta.height_px);
    const wanted = this.inView(chosen, view), coming = wanted.some(([column, row]) => !this.request(chosen, column, row));
    if (coming && chosen !== coarsest) {
      this.paint(context, coarsest, this.inView(coarsest, view), view, true);
      for (let number = Math.min(chosen + 3, coarsest - 1); number > chosen; number--) {
        this.paint(context, number, this.inView(number, view), view, false);
      }
    }
    this.paint(context, chosen, wanted, view, true);
  }
  inView(number, view) {
    const level = this.meta.levels[number], step = FACTS.tile_px * level.mpp / this.meta.mpp, found = [];
    const left = view.x - view.width / 2 / view.scale, top = view.y - view.height / 2 / view.scale;
    const right = Math.min(level.columns - 1, Math.floor((left + view.width / view.scale) / step));
    const bottom = Math.min(level.rows - 1, Math.floor((top + view.height / view.scale) / step));
    for (let row = Math.max(0, Math.floor(top / step)); row <= bottom; row++) {
      for (let column = Math.max(0, Math.floor(left / step)); column <= right; column++) {
        const place = row * level.columns + column;
        if (this.present[number][place >> 3] & (128 >> (place & 7))) found.push([column, row]);
      }
    }
    return found;
  }
  paint(context, number, tiles, view, ask) {
    const size = this.meta.levels[number].mpp / this.meta.mpp, step = FACTS.tile_px * size;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = size * view.scale < 0.6 ? "medium" : "low";
    for (const [column, row] of tiles) {
      const picture = ask ? this.request(number, column, row) : this.tiles.get(`${number}_${column}_${row}`)?.picture;
      if (picture) context.drawImage(picture, column * step, row * step, picture.width * size, picture.height * size);
    }
  }
}
