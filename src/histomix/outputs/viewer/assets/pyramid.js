// The slide's pictures: the level that fits the zoom, over coarser ones until it has come.
const KEPT_TILES = 400;
class Pyramid {
  constructor(meta, redraw) {
    this.meta = meta; this.redraw = redraw; this.tiles = new Map();
    this.present = meta.levels.map((level) => new Set(level.tiles));
  }
  levelFor(scale) {
    let chosen = 0;
    this.meta.levels.forEach((level, number) => { if (scale * level.mpp / this.meta.mpp <= 1.25) chosen = number; });
    return chosen;
  }
  request(number, column, row) {
    const name = `${number}_${column}_${row}`;
    const known = this.tiles.get(name);
    if (known) { this.tiles.delete(name); this.tiles.set(name, known); return known.picture; }
    const entry = { picture: null };
    this.tiles.set(name, entry);
    const key = `${this.meta.key}/tiles/${name}`;
    HX.load(key, `data/${key}.js`)
      .then((text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/jpeg" })))
      .then((picture) => { entry.picture = picture; HX.forget(key); this.redraw(); })
      .catch(() => HX.forget(key));
    while (this.tiles.size > KEPT_TILES) {
      const [oldest, old] = this.tiles.entries().next().value;
      if (old.picture) old.picture.close();
      this.tiles.delete(oldest);
    }
    return null;
  }
  // Draws on a context in slide px (level 0); view: {x, y, scale, width, height}.
  draw(context, view) {
    const meta = this.meta, chosen = this.levelFor(view.scale);
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, meta.width_px, meta.height_px);
    context.imageSmoothingEnabled = true;
    let whole = true;
    for (let number = meta.levels.length - 1; number >= chosen; number--) {
      if (number !== chosen && number !== meta.levels.length - 1 && number - chosen > 3) continue;
      const level = meta.levels[number], step = FACTS.tile_px * level.mpp / meta.mpp;
      const left = view.x - view.width / 2 / view.scale, top = view.y - view.height / 2 / view.scale;
      const from = [Math.max(0, Math.floor(left / step)), Math.max(0, Math.floor(top / step))];
      const to = [
        Math.min(level.columns - 1, Math.floor((left + view.width / view.scale) / step)),
        Math.min(level.rows - 1, Math.floor((top + view.height / view.scale) / step)),
      ];
      for (let row = from[1]; row <= to[1]; row++) for (let column = from[0]; column <= to[0]; column++) {
        if (!this.present[number].has(row * level.columns + column)) continue;
        const wanted = number === chosen || number === meta.levels.length - 1;
        const known = this.tiles.get(`${number}_${column}_${row}`);
        const picture = wanted ? this.request(number, column, row) : known && known.picture;
        if (picture) {
          const size = level.mpp / meta.mpp;
          context.drawImage(picture, column * step, row * step, picture.width * size, picture.height * size);
        } else if (number === chosen) whole = false;
      }
    }
    return whole;
  }
}
