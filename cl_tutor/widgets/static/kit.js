// What all explorables share. Python puts this file before each explorable's own: one module, no imports.

// ---------------------------------------------------------------------------------------------- numbers and words

// A true minus sign, which screen readers speak; never "-0.00".
export function num(x, digits = 3) {
  return Number.isFinite(x) ? x.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−") : "undefined";
}

// 1234567 -> "1.23·10⁶", 0.05 -> "0.0500": three digits at any size.
export function sci(x, digits = 3) {
  if (!Number.isFinite(x) || x === 0) return x === 0 ? "0" : x > 0 ? "∞" : x < 0 ? "−∞" : "undefined";
  const [mantissa, e] = x.toExponential(digits - 1).split("e");
  if (e >= -2 && e < 4) return num(x, Math.max(0, digits - 1 - e));
  return `${mantissa.replace("-", "−")}·${power(+e)}`;
}
const SUPER = { "-": "⁻", ..."⁰¹²³⁴⁵⁶⁷⁸⁹" };
export const power = (e) => "10" + String(e).replace(/[-\d]/g, (c) => SUPER[c]);
export const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x));

// Round numbers from lo to hi, about n of them.
export function ticks(lo, hi, n = 6) {
  const rough = (hi - lo) / n, base = 10 ** Math.floor(Math.log10(rough));
  const step = base * [1, 2, 5, 10].find((m) => m * base >= rough * 0.999);
  const first = Math.ceil(lo / step - 1e-9), count = Math.floor(hi / step + 1e-9) - first + 1;
  return [...Array(Math.max(0, count)).keys()].map((k) => +((first + k) * step).toPrecision(12));
}

// ---------------------------------------------------------------------------------------------------------- looks

// Colour, dashes and marker, in the order of plots.LOOKS; clt.css lightens the colours in the dark.
const LOOKS = [
  ["fg", "2 3", "v"], ["grey", "13 5", "^"], ["blue", "", "o"], ["vermillion", "11 3 3 3", "s"],
  ["green", "7 3", "D"], ["purple", "15 3 3 3 3 3", "X"], ["orange", "18 4", "P"], ["sky", "5 2", "p"],
].map(([name, dash, shape]) => ({ color: `var(--${name})`, dash, shape }));
const METHODS = { naive: 0, joint: 1, ewc: 2, er: 3, si: 4, mas: 5, lwf: 6, "online ewc": 7, der: 5, "der++": 7,
  "a-gem": 4, gem: 6, packnet: 5, progressive: 6, supsup: 7 };

// As plots.styles in Python: a method's own look where it is free, else the next one.
export function styles(names) {
  const taken = {};
  for (const name of names) {
    const k = METHODS[name.toLowerCase()];
    if (k !== undefined && !Object.values(taken).includes(k)) taken[name] = k;
  }
  const free = [2, 3, 4, 5, 6, 7, 0, 1].filter((k) => !Object.values(taken).includes(k));
  for (const name of names) taken[name] ??= free.shift();
  return Object.fromEntries(names.map((name) => [name, LOOKS[taken[name]]]));
}

const polygon = (n, turn, r) => [...Array(n).keys()].map((k) => turn + (k * 2 * Math.PI) / n)
  .map((a) => [r * Math.sin(a), -r * Math.cos(a)]);
const SHAPES = {
  o: (r) => polygon(24, 0, 0.92 * r), s: (r) => polygon(4, Math.PI / 4, 1.2 * r), D: (r) => polygon(4, 0, 1.15 * r),
  "^": (r) => polygon(3, 0, 1.25 * r), v: (r) => polygon(3, Math.PI, 1.25 * r), p: (r) => polygon(5, 0, 1.1 * r),
  P: (r) => [[-1, 3], [1, 3], [1, 1], [3, 1], [3, -1], [1, -1], [1, -3], [-1, -3], [-1, -1], [-3, -1], [-3, 1], [-1, 1]]
    .map(([x, y]) => [(x * r) / 2.8, (y * r) / 2.8]),
  X: (r) => SHAPES.P(r).map(([x, y]) => [(x - y) * 0.72, (x + y) * 0.72]),
};
// The outline of a marker at (x, y), as the d of a path.
export const mark = (shape, x, y, r = 5) => join(SHAPES[shape](r).map(([a, b]) => [x + a, y + b])) + "Z";

// Points in pixels -> the d of a path; a point that is not finite lifts the pen.
export function join(points) {
  let d = "", pen = "M";
  for (const [x, y] of points)
    if (Number.isFinite(x) && Number.isFinite(y)) {
      d += `${pen}${clamp(x, -1e5, 1e5).toFixed(2)} ${clamp(y, -1e5, 1e5).toFixed(2)}`;
      pen = "L";
    } else pen = "M";
  return d;
}

// -------------------------------------------------------------------------------------------------------- elements

function set(node, attributes) {
  for (const [key, v] of Object.entries(attributes)) node.setAttribute(key, v);
  return node;
}
function make(tag, attributes = {}, ...children) {
  const node = set(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}
function svg(tag, attributes = {}, ...children) {
  const node = set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
  node.append(...children);
  return node;
}
const stroke = (look, width = 2.5) => ({ fill: "none", stroke: look.color, "stroke-dasharray": look.dash,
  "stroke-width": width, "stroke-linejoin": "round" });

// A piece of line with its marker, for legends and buttons.
function swatch(look) {
  return svg("svg", { width: 38, height: 16, class: "clt-swatch", "aria-hidden": "true" },
    svg("path", { d: "M1 8H37", ...stroke(look) }), svg("path", { d: mark(look.shape, 19, 8), fill: look.color }));
}
function legend(looks) {
  const item = ([name, look]) => make("span", {}, swatch(look), name);
  return make("div", { class: "clt-legend" }, ...Object.entries(looks).map(item));
}

// The frame of an explorable. `say` speaks to a screen reader, once the hand has come to rest.
function frame(el, name, ...children) {
  const status = make("div", { class: "clt-hidden", role: "status" });
  const root = make("div", { class: "clt clt-wide", role: "group", "aria-label": name }, ...children, status);
  let timer = 0;
  keepKeys(root);
  el.append(root);
  return { root, say(text) { clearTimeout(timer); timer = setTimeout(() => { status.textContent = text; }, 500); } };
}

// A table that may be wider than its place: the keyboard can reach it and scroll it.
const scroller = (name, table) =>
  make("div", { class: "clt-scroll", tabindex: 0, role: "group", "aria-label": name }, table);

// JupyterLab must not read an arrow or a letter typed here as one of its commands.
function keepKeys(root) {
  const forLab = (e) => e.key === "Escape" || (e.key === "Enter" && (e.shiftKey || e.ctrlKey));
  root.addEventListener("keydown", (e) => { if (!forLab(e)) e.stopPropagation(); });
}

// Draw now, when one of the keys changes (here or in Python), and when a plot gets another width.
function bind(model, keys, draw, plots = []) {
  const all = () => { plots.forEach((p) => p.fit()); draw(); };
  const seen = new ResizeObserver(() => { if (plots.some((p) => p.stale())) all(); });
  plots.forEach((p) => seen.observe(p.node));
  keys.forEach((key) => model.on(`change:${key}`, draw));
  all();
  return () => { seen.disconnect(); keys.forEach((key) => model.off(`change:${key}`, draw)); };
}

// -------------------------------------------------------------------------------------------------------- controls

function button(label, act, attributes = {}) {
  const node = make("button", { type: "button", ...attributes }, ...[label].flat());
  node.addEventListener("click", act);
  return node;
}

// One of several: a row of buttons. options: {value: label}; `show(value)` presses the one.
function choice(name, options, act) {
  const nodes = Object.entries(options).map(([value, label]) => [value, button(label, () => act(value))]);
  const node = make("div", { class: "clt-choice", role: "group", "aria-label": name },
    make("span", { "aria-hidden": "true" }, name), ...nodes.map(([, b]) => b));
  const show = (now) => nodes.forEach(([value, b]) => b.setAttribute("aria-pressed", String(value === String(now))));
  return { node, show };
}

// A range with its name and its value in words: `words(x)`; `act` at every move, `done` on release.
function slider(name, { min, max, step, words, act, done = () => {} }) {
  const input = make("input", { type: "range", min, max, step, "aria-label": name }), out = make("output");
  input.addEventListener("input", () => act(+input.value));
  input.addEventListener("change", done);
  const node = make("label", { class: "clt-slider" }, make("span", {}, name), input, out);
  const show = (x) => { input.value = x; out.textContent = words(x); input.setAttribute("aria-valuetext", words(x)); };
  return { node, input, show };
}

// A number to type; only a number of min or more is taken.
function field(name, { min = 0, step = "any", act }) {
  const input = make("input", { type: "number", min, step, "aria-label": name });
  input.addEventListener("input", () => {
    const ok = input.value !== "" && input.value >= min;
    input.setAttribute("aria-invalid", String(!ok));
    if (ok) act(+input.value);
  });
  const show = (x) => { if (input !== input.getRootNode().activeElement) input.value = x; };
  return { node: make("label", { class: "clt-field" }, make("span", {}, name), input), show };
}

// ----------------------------------------------------------------------------------------------------------- plots

// An SVG as wide as its place, in real pixels. x, y: { range: [lo, hi], label, log }; a log axis takes the numbers
// themselves; `ticks` may be [[value, words], ...], or false. `equal` gives both axes one scale (the height follows), else the height is `height(width)`.
// `add` and `curve` draw inside the axes, clipped; `lay` below them what seldom moves, a layer of its own, which the
// browser does not paint again when the rest moves; `over` holds handles and words.
function plot(name, { x, y, height = (w) => clamp(0.62 * w, 220, 360), equal = false }) {
  const axes = svg("g", { class: "clt-axes", "aria-hidden": "true" });
  const still = svg("g", { class: "clt-still" }), inside = svg("svg", { overflow: "hidden" }, still), over = svg("g");
  const node = svg("svg", { class: "clt-plot", role: "group", "aria-label": name }, axes, inside, over);
  const left = y.left ?? (y.ticks === false ? 20 : 50), right = 20, top = y.label ? 28 : 12;
  const bottom = (x.ticks === false ? 12 : 28) + (x.label ? 18 : 0);
  let width = 0, w = 1, h = 1;
  const along = (axis, v) => (axis.log ? Math.log10(v / axis.range[0]) / Math.log10(axis.range[1] / axis.range[0])
    : (v - axis.range[0]) / (axis.range[1] - axis.range[0]));
  const back = (axis, s) => (axis.log ? axis.range[0] * (axis.range[1] / axis.range[0]) ** s
    : axis.range[0] + s * (axis.range[1] - axis.range[0]));
  const values = (axis, n) => {
    if (Array.isArray(axis.ticks)) return axis.ticks;
    if (!axis.log) return ticks(...axis.range, n).map((v) => [v, String(v).replace("-", "−")]);
    const decades = axis.range.map(Math.log10), apart = Math.ceil((decades[1] - decades[0]) / n);
    return ticks(...decades, decades[1] - decades[0]).filter((e) => e % apart === 0).map((e) => [10 ** e, power(e)]);
  };
  const text = (words, x, y, anchor) => svg("text", { x, y, "text-anchor": anchor }, words);

  const self = {
    node, over, x, y,
    X: (v) => along(x, v) * w,
    Y: (v) => (1 - along(y, v)) * h,
    at: (px, py) => [back(x, px / w), back(y, 1 - py / h)], // pixels inside the axes -> numbers
    get size() { return [w, h]; },
    stale: () => Math.abs(node.clientWidth - width) > 1,
    add: (tag, attributes) => inside.appendChild(svg(tag, attributes)),
    lay: (tag, attributes) => still.appendChild(svg(tag, attributes)),
    word: (words = "", attributes = {}) => over.appendChild(svg("text", { class: "clt-word", ...attributes }, words)),
    fit() { // to the place it has, and to the ranges as they are now
      width = node.clientWidth || 640;
      w = width - left - right;
      const [spanX, spanY] = [x, y].map((a) => a.range[1] - a.range[0]);
      h = equal ? (w * spanY) / spanX : height(width) - top - bottom;
      set(node, { height: h + top + bottom });
      set(inside, { x: left, y: top, width: w, height: h });
      set(over, { transform: `translate(${left} ${top})` });
      axes.replaceChildren(svg("rect", { x: left, y: top, width: w, height: h, class: "clt-ground" }));
      if (x.ticks !== false) for (const [v, words] of values(x, w / 55)) {
        const at = left + self.X(v);
        axes.append(svg("path", { d: `M${at} ${top}v${h}` }), text(words, at, top + h + 18, "middle"));
      }
      if (y.ticks !== false) for (const [v, words] of values(y, h / 36)) {
        const at = top + self.Y(v);
        axes.append(svg("path", { d: `M${left} ${at}h${w}` }), text(words, left - 6, at + 4, "end"));
      }
      if (x.label) axes.append(text(x.label, left + w / 2, top + h + bottom - 8, "middle"));
      if (y.label) axes.append(text(y.label, left, top - 10, "start"));
    },
    curve(look, width = 2.5, every = 0) { // `to(points)`: a line, with a marker at each `every`-th point, or at the end
      const line = self.add("path", stroke(look, width));
      const marks = self.add("path", { fill: look.color, class: "clt-mark" });
      return { to(points) {
        const px = points.map(([a, b]) => [self.X(a), self.Y(b)]);
        line.setAttribute("d", join(px));
        const chosen = every ? px.filter((_, k) => k % every === 0) : px.slice(-1);
        marks.setAttribute("d", chosen.filter((p) => p.every(Number.isFinite))
          .map(([a, b]) => mark(look.shape, clamp(a, -1e4, 1e4), clamp(b, -1e4, 1e4), every ? 4 : 6)).join(""));
      } };
    },
  };
  return self;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// Something to drag in a plot, by hand or by arrow keys (with Shift ten times as far); 44 pixels wide to a finger.
// `get()` -> [x, y]; `put([x, y])` takes it, clipped to the axes; `words()` says where it is; `done` on release.
// `move(key, far, [x, y])` -> [x, y] replaces what an arrow does; `track` keeps it on a line: "x" or "y".
function handle(plot, name, { look, get, put, words, done = () => {}, move, track, step = 0.01 }) {
  const axis = track === "y" ? 1 : 0, bounds = [plot.x, plot.y][axis];
  const node = plot.over.appendChild(svg("g", { class: "clt-handle", tabindex: 0, role: "slider", "aria-label": name,
    "aria-orientation": track === "y" ? "vertical" : "horizontal" },
    svg("circle", { r: 22, fill: "transparent" }), svg("circle", { r: 14, class: "clt-ring", stroke: look.color }),
    svg("path", { d: mark(look.shape, 0, 0, 9), fill: look.color })));
  const inside = (p) => p.map((v, k) => clamp(v, ...(k ? plot.y : plot.x).range));
  let held = null; // where inside the handle the pointer took it, in pixels
  const place = (e) => {
    const box = plot.over.parentNode.getBoundingClientRect(), origin = plot.over.transform.baseVal[0].matrix;
    return [e.clientX - box.left - origin.e, e.clientY - box.top - origin.f];
  };
  node.addEventListener("pointerdown", (e) => {
    const [px, py] = place(e), [x, y] = get();
    held = [px - plot.X(x), py - plot.Y(y)];
    node.setPointerCapture(e.pointerId);
    node.focus({ preventScroll: true });
    e.preventDefault();
  });
  node.addEventListener("pointermove", (e) => {
    if (!held) return;
    const [px, py] = place(e);
    put(inside(plot.at(px - held[0], py - held[1])));
  });
  const release = () => { if (held) { held = null; done(); } };
  node.addEventListener("pointerup", release);
  node.addEventListener("pointercancel", release);
  node.addEventListener("keydown", (e) => {
    const arrow = ARROWS[e.key], far = e.shiftKey ? 10 : 1;
    if (!arrow) return;
    e.preventDefault();
    const [x, y] = get(), pixels = step * far * plot.size[axis], both = arrow[0] + arrow[1];
    const [right, up] = track === "x" ? [both, 0] : track === "y" ? [0, both] : arrow;
    put(inside(move ? move(e.key, far, [x, y]) : plot.at(plot.X(x) + right * pixels, plot.Y(y) - up * pixels)));
    done();
  });
  return { node, show() {
    const [x, y] = get();
    set(node, { transform: `translate(${plot.X(x).toFixed(2)} ${plot.Y(y).toFixed(2)})`, "aria-valuetext": words(),
      "aria-valuemin": bounds.range[0], "aria-valuemax": bounds.range[1],
      "aria-valuenow": +get()[axis].toPrecision(6) });
  } };
}

// Columns side by side at x = 0, 1, 2, ...: `columnsIn(plot, looks, count)` -> draw([values of each look]); NaN has none.
function columnsIn(plot, looks, count) {
  const wide = 0.8 / looks.length;
  const nodes = looks.map(({ color }) => Array.from({ length: count }, () =>
    plot.add("rect", { fill: color, "fill-opacity": 0.45, stroke: color, "stroke-width": 1.5 })));
  return (series) => series.forEach((values, k) => nodes[k].forEach((node, c) => {
    const v = values[c], gone = !Number.isFinite(v), [a, b] = [plot.Y(0), plot.Y(gone ? 0 : v)];
    set(node, { x: plot.X(c - 0.4 + k * wide), width: plot.X(wide) - plot.X(0), y: Math.min(a, b),
      height: Math.abs(a - b), visibility: gone ? "hidden" : "visible" });
  }));
}

// Their names below an axis without ticks; the function puts them in place.
function namesBelow(plot, names) {
  const words = names.map((name) => plot.word(name, { "text-anchor": "middle" }));
  plot.node.style.marginBottom = "22px";
  return () => words.forEach((word, c) => set(word, { x: plot.X(c), y: plot.size[1] + 17 }));
}
