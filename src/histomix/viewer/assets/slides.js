// Slides as thumbnails, which come as they are looked for: a list for each pane.
class Slides {
  // choose: told the number of the slide that was asked for; chosen: the number of the one that is shown.
  constructor(app, list, { choose, chosen }) {
    this.app = app; this.list = list; this.choose = choose; this.chosen = chosen;
    this.part = list.closest(".slides-part");
    this.part.hidden = FACTS.slides.length < 2;
    const kinds = new Set(FACTS.slides.map(({ kind }) => kind)).size > 1;
    const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      seen.unobserve(target);
      this.paint(target.querySelector("canvas"), FACTS.slides[+target.dataset.number]);
    }), { root: list, rootMargin: "80px" });
    FACTS.slides.forEach((slide, number) => {
      const item = element("li", null, { role: "option", id: this.name(number), "data-number": number, "aria-selected": "false", title: slide.name });
      item.append(element("canvas", null, { width: 1, height: 1, "aria-hidden": "true" }), element("span", slide.name, { class: "name" }));
      if (kinds) item.append(element("small", slide.kind));
      item.addEventListener("click", () => choose(number));
      list.append(item);
    });
    list.addEventListener("keydown", (event) => this.key(event));
    this.begin = () => { if (!this.part.hidden) for (const item of list.children) seen.observe(item); this.begin = () => {}; };
  }
  name(number) { return `${this.list.id.slice(0, -1)}-${number}`; }
  // The coarsest picture of the slide, which is one.
  async paint(canvas, meta) {
    try {
      const picture = await Slides.picture(meta);
      if (!picture) return;  // all white
      const scale = Math.min(1, 160 / Math.max(picture.width, picture.height));
      canvas.width = Math.max(1, picture.width * scale); canvas.height = Math.max(1, picture.height * scale);
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    } catch (error) { this.app.status(error.message); }
  }
  static picture(meta) {
    const level = meta.levels.length - 1, name = `${meta.key}/tiles/${level}_0_0`;
    if (!(bytesOf(meta.levels[level].tiles)[0] & 128)) return null;
    return meta.small ||= HX.load(name, `data/${name}.js`).then((text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/jpeg" })));
  }
  key(event) {
    const last = FACTS.slides.length - 1, at = this.chosen() ?? 0, across = Math.max(1, Math.round(this.list.clientWidth / this.list.children[0].offsetWidth));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + across, ArrowUp: at - across, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last && to !== at) this.choose(to);
  }
  shown() {
    const { list } = this, number = this.chosen(), item = $(this.name(number));
    for (const one of list.children) one.setAttribute("aria-selected", one === item);
    list.setAttribute("aria-activedescendant", item.id);
    list.scrollTop = Math.max(item.offsetTop + item.offsetHeight - list.clientHeight, Math.min(list.scrollTop, item.offsetTop));
  }
}

// The whole slide of a pane, small, and the window on it: drag it, or point where to look.
class Minimap {
  constructor(app, pane, number) {
    this.app = app; this.pane = pane; this.box = $(`map-${number}`); this.frame = 0;
    this.canvas = this.box.querySelector("canvas"); this.window = this.box.querySelector("div");
    const go = (event) => {
      if (!event.buttons || !pane.scene) return;
      const { meta } = pane.scene, box = this.canvas.getBoundingClientRect();
      pane.view.set((event.clientX - box.left) / box.width * meta.width_px, (event.clientY - box.top) / box.height * meta.height_px, pane.view.scale);
    };
    this.box.addEventListener("pointerdown", (event) => { this.box.setPointerCapture(event.pointerId); go(event); });
    this.box.addEventListener("pointermove", go);
  }
  moved() {
    const { view, width, height, scene } = this.pane;
    if (!scene || this.box.hidden) return;
    const { width_px, height_px } = scene.meta, part = (value) => `${100 * Math.min(1, Math.max(0, value))}%`;
    const [across, down] = [width / 2 / view.scale, height / 2 / view.scale];
    Object.assign(this.window.style, {
      left: part((view.x - across) / width_px), right: part(1 - (view.x + across) / width_px),
      top: part((view.y - down) / height_px), bottom: part(1 - (view.y + down) / height_px),
    });
  }
  redraw() { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(); }); }
  draw() {
    const { scene } = this.pane;
    if (!scene || this.box.hidden) return;
    const { width_px, height_px } = scene.meta, ratio = window.devicePixelRatio || 1;
    const scale = Math.min(this.box.parentElement.clientWidth / width_px, 150 / height_px), width = Math.round(width_px * scale * ratio), height = Math.round(height_px * scale * ratio);
    if (!width || !height) return;
    this.canvas.width = width; this.canvas.height = height;
    this.box.style.width = `${width / ratio}px`; this.box.style.height = `${height / ratio}px`;
    const context = this.canvas.getContext("2d");
    context.setTransform(scale * ratio, 0, 0, scale * ratio, 0, 0);
    scene.pyramid.draw(context, { x: width_px / 2, y: height_px / 2, scale: scale * ratio, width, height });
    this.moved();
  }
}
