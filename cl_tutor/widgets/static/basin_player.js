// Paths across one landscape: play, pause, scrub; the curves run in step. After kit.js.

const SECONDS = 8; // a whole walk at speed 1
const SPEEDS = { "×½": 0.5, "×1": 1, "×2": 2, "×4": 4 };
const STATIONS = 8; // with reduced motion, play jumps from one to the next, once a second

// ----------------------------------------------------------------------------------------------------- mathematics

// The position, in frames from 0 to last, `seconds` after `from`; it stops at the last.
export const advance = (from, seconds, speed, last) => Math.min(last, from + (last * speed * seconds) / SECONDS);
// The next of STATIONS equal stretches.
export function station(from, last) {
  const passed = Math.floor((from * STATIONS) / last + 1e-9);
  return Math.min(last, Math.ceil(((passed + 1) * last) / STATIONS));
}
// A polyline with gaps, [[x...], [y...]] with null between the pieces -> points, NaN at the gaps.
export const points = ([xs, ys]) => xs.map((x, k) => (x === null ? [NaN, NaN] : [x, ys[k]]));
export function span(curves) { // from 0 or below to above everything, with room
  const all = Object.values(curves).flat().filter(Number.isFinite), top = Math.max(...all), low = Math.min(0, ...all);
  return top <= 1 && top > 0.5 && low === 0 ? [0, 1] : [low, low + 1.05 * (top - low || 1)];
}

// ----------------------------------------------------------------------------------------------------------- view

const RINGS = [{ color: "var(--blue)", dash: "" }, { color: "var(--vermillion)", dash: "4 2" }];

function render({ model, el }) {
  const { title, x, y, steps, surfaces, paths, points: marks, curves } = model.get("data");
  const last = steps.length - 1, names = Object.keys(paths), looks = styles(names);
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

  // what stands still
  const sample = (look) => svg("svg", { width: 38, height: 16, class: "clt-swatch", "aria-hidden": "true" },
    svg("path", { d: "M1 8H37", ...stroke(look, 1.5) }));
  const key = legend(looks);
  key.append(...Object.keys(surfaces).map((name, k) => make("span", {}, sample(RINGS[k]), name)));
  const land = plot(title, { equal: true, x: { range: x.slice(0, 2), label: x[2] },
    y: { range: y.slice(0, 2), label: y[2] } });
  const rings = Object.values(surfaces).map((xy, k) =>
    [land.lay("path", { ...stroke(RINGS[k], 1.1), opacity: 0.7 }), points(xy)]);
  const crosses = Object.entries(marks).map(([name, p]) =>
    [land.add("path", { stroke: "var(--fg)", "stroke-width": 2.5 }), land.word(name), p]);
  const layers = (p, r) => names.map((name) => ({ name, r,
    ghost: p.lay("path", { ...stroke(looks[name], 1.5), opacity: 0.35 }), trail: p.add("path", stroke(looks[name], 3)),
    head: p.add("path", { fill: looks[name].color, class: "clt-mark", "data-head": name }) }));
  const walks = layers(land, 8);
  const panes = Object.entries(curves).map(([what, of]) => {
    const p = plot(what, { x: { range: [0, 1.02 * steps[last]], label: "step" }, y: { range: span(of), label: what },
      height: (w) => clamp(0.45 * w, 170, 260) });
    return { p, what, of, now: p.add("path", { stroke: "var(--fg)" }), layers: layers(p, 6) };
  });

  // what moves
  let raf = 0, before = 0, position = model.get("frame");
  const put = (frame) => { model.set("frame", frame); };
  const play = button("", () => (raf ? pause() : start()));
  const scrub = slider("step", { min: 0, max: last, step: 1, words: (k) => `${steps[k]} of ${steps[last]}`,
    act: (k) => { pause(); position = k; put(k); }, done: () => model.save_changes() });
  const speed = choice("speed", Object.fromEntries(Object.keys(SPEEDS).map((s) => [s, s])), (s) => {
    model.set("speed", SPEEDS[s]);
    model.save_changes();
  });
  const label = () => {
    play.replaceChildren(raf ? "❚❚ pause" : "▶ play");
    play.setAttribute("aria-label", raf ? "pause" : "play");
  };
  function start() {
    position = model.get("frame") >= last ? 0 : model.get("frame");
    before = 0;
    raf = requestAnimationFrame(tick);
    put(Math.floor(position));
    label();
  }
  function pause() {
    if (!raf) return;
    cancelAnimationFrame(raf);
    raf = 0;
    label();
    model.save_changes();
    draw();
  }
  function tick(now) {
    before ||= now;
    const seconds = (now - before) / 1000;
    if (!calm.matches || seconds * model.get("speed") >= 1) {
      position = calm.matches ? station(position, last) : advance(position, seconds, model.get("speed"), last);
      before = now;
      if (Math.floor(position) !== model.get("frame")) put(Math.floor(position));
    }
    raf = requestAnimationFrame(tick);
    if (position >= last) pause();
  }

  const head = ["", ...Object.keys(curves)].map((w) => make("th", { scope: "col" }, w)), body = make("tbody");
  const table = make("table", { class: "clt-numbers" }, make("caption", { class: "clt-hidden" }, "Values at this step"),
    make("thead", {}, make("tr", {}, ...head)), body);
  const numbers = scroller("Values at this step", table);
  const { say } = frame(el, "Basin player", key, make("div", { class: "clt-panes clt-two" },
    make("div", {}, land.node, make("div", { class: "clt-sliders" }, scrub.node),
      make("div", { class: "clt-bar" }, play, speed.node)),
    make("div", {}, ...panes.map(({ p }) => p.node), numbers)));

  let size = ""; // for which all that does not move has been drawn
  function still() {
    const now = [land, ...panes.map(({ p }) => p)].flatMap((p) => p.size).join();
    if (now === size) return;
    size = now;
    const lay = (p, layer, line) => {
      layer.px = line.map(([a, b]) => [p.X(a), p.Y(b)]);
      set(layer.ghost, { d: join(layer.px) });
    };
    rings.forEach(([node, line]) => set(node, { d: join(line.map(([a, b]) => [land.X(a), land.Y(b)])) }));
    for (const [cross, word, [a, b]] of crosses) {
      const [cx, cy] = [land.X(a), land.Y(b)];
      set(cross, { d: `M${cx - 7} ${cy}h14M${cx} ${cy - 7}v14` });
      set(word, { x: cx + 9, y: cy - 8 });
    }
    walks.forEach((layer) => lay(land, layer, paths[layer.name]));
    for (const { p, of, layers } of panes)
      for (const layer of layers) lay(p, layer, (of[layer.name] ?? []).map((v, j) => [steps[j], v]));
  }

  function draw() {
    still();
    const k = clamp(model.get("frame"), 0, last);
    for (const { name, px, trail, head, r } of [...walks, ...panes.flatMap(({ layers }) => layers)]) {
      const [cx, cy] = px[k] ?? [NaN, NaN];
      set(trail, { d: join(px.slice(0, k + 1)) });
      set(head, { d: Number.isFinite(cx + cy) ? mark(looks[name].shape, cx, cy, r) : "" });
    }
    for (const { p, now } of panes) set(now, { d: `M${p.X(steps[k])} 0V${p.size[1]}` });
    scrub.show(k);
    speed.show(Object.keys(SPEEDS).find((s) => SPEEDS[s] === model.get("speed")));
    body.replaceChildren(...names.map((name) => make("tr", {}, make("th", { scope: "row" }, name),
      ...panes.map(({ of }) => make("td", {}, of[name] ? num(of[name][k], 2) : "")))));
    if (!raf) {
      const value = (name) => panes.filter(({ of }) => of[name])
        .map(({ what, of }) => `${what} ${num(of[name][k], 2)}`);
      const at = (name) => `${name} at (${paths[name][k].map((v) => num(v, 1)).join(", ")})`;
      say(`Step ${steps[k]}. ${names.map((name) => [at(name), ...value(name)].join(", ")).join("; ")}.`);
    }
  }
  numbers.hidden = !panes.length;
  label();
  const free = bind(model, ["frame", "speed"], draw, [land, ...panes.map(({ p }) => p)]);
  return () => { cancelAnimationFrame(raf); free(); };
}
export default { render };
