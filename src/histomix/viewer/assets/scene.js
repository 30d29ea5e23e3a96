// One slide as it is shown: its numbers, where its tiles are, its pictures, and the scale of what varies on it.
class Scene {
  static async open(number, app, data = new SlideData(FACTS.slides[number])) {
    return new Scene(number, await data.open(), app);
  }
  constructor(number, data, app) {
    this.number = number; this.data = data; this.meta = data.meta;
    this.overlay = new Overlay(data);
    this.pyramid = new Pyramid(this.meta, () => app.pictured(this));
  }
  close() { this.pyramid.close(); }
  // Mean of each type over the readable tiles of rows that are in scope; layers in the order of the types.
  means(rows, layers) {
    const { data, meta } = this, readable = rows.filter((i) => data.read_ok[i] > 0.5 && !Number.isNaN(data.dominant[i]));
    const used = readable.filter((i) => data.in_scope[i] > 0.5);
    const mean = (values) => {
      let sum = 0, count = 0;
      for (const i of used) if (!Number.isNaN(values[i])) { sum += values[i]; count++; }
      return count ? sum / count : NaN;
    };
    const tile_mm2 = (meta.cell_px * meta.mpp / 1000) ** 2 * (meta.spots ? Math.PI / 4 : 1);
    return {
      count: used.length, mm2: used.length * tile_mm2, unread: rows.length - readable.length, outside: readable.length - used.length,
      means: layers.map((layer) => mean(layer.value)), labels: meta.has_label ? layers.map((layer) => mean(layer.label)) : null,
    };
  }
}
