// Named regions of each slide: kept from selections, and read from and written as QuPath's GeoJSON.
const REGION_COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];
const REGIONS_AT_MOST = 1000;
class Regions {
  constructor(app) { this.app = app; this.kept = new Map(); }
  of(scene) {
    if (!this.kept.has(scene.number)) this.kept.set(scene.number, []);
    return this.kept.get(scene.number);
  }
  add(scene, name, polygons, classification = null, colour = null) {
    const list = this.of(scene);
    const region = { name, classification, polygons, rows: rowsInside(polygons.flat(), scene.data), colour: colour || REGION_COLOURS[list.length % REGION_COLOURS.length], id: uuid() };
    list.push(region);
    return region;
  }
  keep() {
    const { selection } = this.app, { scene } = selection;
    if (!selection.rows || selection.drawing || selection.region) return;
    const names = new Set(this.of(scene).map(({ name }) => name));
    let number = 1;
    while (names.has(`Region ${number}`)) number++;
    selection.take(this.add(scene, `Region ${number}`, [selection.rings]), scene);
    this.app.say(`Kept as Region ${number}`);
  }
  remove(scene, region) {
    const list = this.of(scene);
    list.splice(list.indexOf(region), 1);
    if (this.app.selection.region === region) this.app.drop(); else this.app.selectionChanged();
  }
  draw(context, transform, ratio, scene) {
    const [scale, , , , e, f] = transform;
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`; context.textAlign = "left"; context.textBaseline = "bottom";
    for (const { name, polygons, colour } of this.of(scene)) {
      strokeRings(context, polygons.flat(), transform, ratio, css(colour));
      const [x, y] = polygons[0][0].reduce((best, corner) => (corner[1] < best[1] ? corner : best));
      context.lineWidth = 4 * ratio; context.strokeStyle = "rgb(255 255 255 / .95)"; context.strokeText(name, x * scale + e, y * scale + f - 5 * ratio);
      context.fillStyle = "#14141a"; context.fillText(name, x * scale + e, y * scale + f - 5 * ratio);
    }
  }
  // Annotations with a class and its colour, and the mean of each type as a measurement.
  async geojson(scene) {
    const layers = await scene.data.all(), { types } = scene.meta, rounded = (ring) => [...ring, ring[0]].map(([x, y]) => [+x.toFixed(2), +y.toFixed(2)]);
    const features = this.of(scene).map(({ id, name, classification, polygons, rows, colour }) => {
      const found = scene.means(rows, layers), rings = polygons.map((polygon) => polygon.map(rounded));
      const numbers = [["tiles in scope", found.count], ["mm2 in scope", found.mm2], ...types.map((type, number) => [type, found.means[number]])];
      return {
        type: "Feature", id,
        geometry: rings.length === 1 ? { type: "Polygon", coordinates: rings[0] } : { type: "MultiPolygon", coordinates: rings },
        properties: {
          objectType: "annotation", name, classification: { name: classification || name, color: colour },
          measurements: Object.fromEntries(numbers.filter(([, value]) => !Number.isNaN(value)).map(([key, value]) => [key, +value.toPrecision(6)])),
        },
      };
    });
    return new Blob([JSON.stringify({ type: "FeatureCollection", features }, null, 1)], { type: "application/geo+json" });
  }
  // Regions as rows, cell types as columns.
  async table(scene) {
    const layers = await scene.data.all(), number = (value) => (Number.isNaN(value) ? "" : String(+value.toPrecision(5)));
    const lines = [["region", "class", "tiles", "mm2", "out_of_scope", "not_read", ...scene.meta.types].map(cell).join(",")];
    for (const { name, classification, rows } of this.of(scene)) {
      const { count, mm2, outside, unread, means } = scene.means(rows, layers);
      lines.push([cell(name), cell(classification || name), count, number(mm2), outside, unread, ...means.map(number)].join(","));
    }
    return new Blob([lines.join("\n") + "\n"], { type: "text/csv" });
  }
  // Areas of a file; what is no area is counted and passed over. Throws where the file is no GeoJSON.
  read(text, scene) {
    let found;
    try { found = JSON.parse(text); } catch { throw new Error("is no GeoJSON"); }
    const features = Array.isArray(found) ? found : found?.features || (found?.type === "Feature" ? [found] : null);
    if (!features) throw new Error("is no GeoJSON of QuPath: it holds no features");
    let read = 0, outside = 0, other = 0;
    for (const feature of features) {
      const polygons = polygonsOf(feature?.geometry), { name, classification, color } = feature?.properties || {};
      if (!polygons || read >= REGIONS_AT_MOST) { other++; continue; }
      const own = classification?.color || color || rgbOf(classification?.colorRGB), colour = Array.isArray(own) && own.length === 3 ? own.map((part) => Math.max(0, Math.min(255, Math.round(+part) || 0))) : null;
      const words = [name, classification?.name].filter((word) => typeof word === "string" && word);
      const region = this.add(scene, words[0] || `Region ${this.of(scene).length + 1}`, polygons, words.at(-1), colour);
      if (!region.rows.length) outside++;
      read++;
    }
    return [`${grouped(read)} region${read === 1 ? "" : "s"} read`, outside && `${outside} of them with no tile of this slide inside`, other && `${grouped(other)} passed over: no areas, or beyond ${grouped(REGIONS_AT_MOST)}`].filter(Boolean).join("; ");
  }
}
// A random UUID (version 4), also where the page has no secure origin.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = bytes[6] & 15 | 64; bytes[8] = bytes[8] & 63 | 128;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
// Rings of at least three corners, open, of finite numbers; null for anything else.
function polygonsOf(geometry) {
  const given = { Polygon: (one) => [one], MultiPolygon: (one) => one }[geometry?.type]?.(geometry.coordinates);
  if (!Array.isArray(given)) return null;
  const polygons = given.map((polygon) => (Array.isArray(polygon) ? polygon : []).map((ring) => {
    const corners = (Array.isArray(ring) ? ring : []).map((corner) => [+corner?.[0], +corner?.[1]]), [first, last] = [corners[0], corners.at(-1)];
    return corners.length > 1 && first[0] === last[0] && first[1] === last[1] ? corners.slice(0, -1) : corners;
  }));
  const whole = polygons.length && polygons.every((polygon) => polygon.length && polygon.every((ring) => ring.length > 2 && ring.flat().every(Number.isFinite)));
  return whole ? polygons : null;
}
// The one number that older QuPaths write for a colour.
const rgbOf = (number) => (Number.isInteger(number) ? [(number >> 16) & 255, (number >> 8) & 255, number & 255] : null);
