// ACC and forgetting over a grid of real runs: `methods` with their `values` and `points`, one value a point, every
// point with one number a seed. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

export const average = (v) => (v.length ? v.reduce((s, x) => s + x, 0) / v.length : NaN);
export function spread(v) { // the standard deviation over seeds, n − 1 below
  const m = average(v);
  return v.length > 1 ? Math.sqrt(v.reduce((s, x) => s + (x - m) ** 2, 0) / (v.length - 1)) : 0;
}

// The place of the grid that is nearest to x by its ratio.
export function snap(x, values) {
  const off = values.map((v) => Math.abs(Math.log(v / x)));
  return off.indexOf(Math.min(...off));
}

// Means and standard deviations along a method's grid; NaN where every seed diverged.
export function path(points, key) {
  return points.map((p) => ({ mean: average(p[key]), sd: spread(p[key]) }));
}

// The place with the highest mean ACC, the first of equals. The survivors of a place where seeds diverged stand for
// nothing, and are passed over.
export function best(points) {
  const means = points.map((p) => (p.acc.length < p.seeds ? NaN : average(p.acc)));
  return means.reduce((k, m, j) => (Number.isFinite(m) && !(means[k] >= m) ? j : k), 0);
}

// ---------------------------------------------------------------------------------------------------------- words

const LETTERS = { lam: "λ", alpha: "α", decay: "γ" };
export function symbol(option) {
  const last = option.split(".").pop();
  return LETTERS[last] ?? last;
}
const pm = (v) => `${num(average(v))}${v.length > 1 ? ` ± ${num(spread(v))}` : ""}`;

export function told(method, value, point) {
  const at = `${method.name}, ${symbol(method.option)} = ${value}`;
  const n = point.acc.length, lost = point.seeds - n;
  const why = lost ? ` ${lost} of ${point.seeds} runs diverged (${point.why})` : "";
  if (!n) return `${at}: no number, for every run diverged (${point.why})`;
  return `${at}: ACC ${pm(point.acc)}, forgetting ${pm(point.forgetting)}, mean ± sd over ${n} ` +
    `seed${n === 1 ? "" : "s"}.${why}`;
}

// A run of the reader's beside the point of the grid that is nearest to it.
export function compare(run, method) {
  const k = snap(run.value, method.values), point = method.points[k], { acc: [acc], forgetting: [f] } = run;
  const at = `${symbol(method.option)} = ${run.value}, seed ${run.seed}: ACC ${num(acc)}, forgetting ${num(f)}.`;
  if (!point.acc.length) return `${at} In the grid, at ${method.values[k]}, every run diverged.`;
  const off = Math.abs(acc - average(point.acc)), band = spread(point.acc);
  return `${at} In the grid, at ${method.values[k]}: ACC ${pm(point.acc)}, so it lies ` +
    (off <= band ? "inside the band." : "outside the band.");
}

// ----------------------------------------------------------------------------------------------------------- view

const middle = (p) => [average(p.forgetting), average(p.acc)], finite = (xy) => xy.every(Number.isFinite);
const ACC = { color: "var(--blue)", dash: "", shape: "o" };
const FALL = { color: "var(--vermillion)", dash: "7 3", shape: "s" };

function render({ model, el }) {
  const grid = model.get("grid"), live = model.widget_manager !== undefined; // the island's host has none
  const named = (all) => Object.fromEntries(all.map(({ name }) => [name, name]));
  let protocol, method, k, value, chooser, waiting = false, asked = 0;

  const protocols = choice("protocol", named(grid), (name) => { enter(name); draw(); });
  const methods = make("div", { class: "clt-bar" });
  const knob = slider("grid point", { min: 0, max: 1, step: 1, act: (x) => { k = x; value = method.values[k]; draw(); },
    words: (x) => `${symbol(method.option)} = ${method.values[x]}` });
  const stops = make("p", { class: "clt-note" });
  const cloud = plot("ACC against forgetting", { height: (w) => clamp(0.85 * w, 240, 380),
    x: { range: [0, 1], label: "forgetting: less is better" }, y: { range: [0, 1], label: "ACC: more is better" } });
  const along = plot("ACC and forgetting along the grid", { height: (w) => clamp(0.85 * w, 240, 380),
    x: { range: [0.1, 1], log: true, label: "λ" }, y: { range: [0, 1], label: "ACC and forgetting, mean ± sd" } });
  const others = cloud.add("g"), cross = cloud.add("path", stroke({ color: "var(--fg)", dash: "" }, 2));
  const here = cloud.add("path", { class: "clt-mark" }), mine = cloud.add("path", stroke(ACC, 2.5));
  const lost = along.add("rect", { class: "clt-band", y: 0 });
  const bands = [ACC, FALL].map(({ color }) => along.add("path", { fill: color, "fill-opacity": 0.2 }));
  const curves = [ACC, FALL].map((look) => along.curve(look, 2.5, 1));
  const now = along.add("path", stroke({ color: "var(--fg)", dash: "" }, 1.5));
  const own = [ACC, FALL].map((look) => along.add("path", stroke({ ...look, dash: "" }, 2.5)));
  const gone = along.word("seeds diverge", { "text-anchor": "end" });
  const keys = make("div"), tells = make("p", { class: "clt-note" });
  const table = make("table", { class: "clt-numbers clt-heat" }), numbers = scroller("Accuracy matrix R", table);
  const typed = field("value to train", { act: (x) => { value = x; draw(); } });
  const train = button("", ask), status = make("p", { class: "clt-note" }), list = make("ul", { class: "clt-note" });
  const { say } = frame(el, "Strength and memory explorer",
    ...(grid.length > 1 ? [make("div", { class: "clt-bar" }, protocols.node)] : []), methods, knob.node, stops,
    make("div", { class: "clt-panes clt-two" }, make("div", {}, cloud.node, keys),
      make("div", {}, along.node, legend({ ACC, forgetting: FALL }))),
    tells, make("div", { class: "clt-note" }, numbers),
    make("div", { class: "clt-bar" }, typed.node, train), status, list);

  function enter(name) {
    protocol = grid.find((p) => p.name === name);
    chooser = choice("method", named(protocol.methods), (m) => { pick(m); draw(); });
    methods.replaceChildren(chooser.node);
    pick((protocol.methods.find((m) => m.name === method?.name) ?? protocol.methods[0]).name);
  }
  function pick(name) {
    method = protocol.methods.find((m) => m.name === name);
    k = best(method.points);
    value = method.values[k];
  }

  const runs = () => model.get("trained").filter((r) => r.protocol === protocol.name && r.method === method.name);
  function ask() {
    if (!live) {
      status.textContent = "This page has no kernel to train with. In JupyterLab this button runs it: cl-tutor lab.";
      return say(status.textContent);
    }
    const seed = Math.max(...method.points.map((p) => p.seeds)) + model.get("trained").length;
    waiting = true;
    asked += 1; // the same wish twice is two wishes
    model.set("wanted", { protocol: protocol.name, method: method.name, option: method.option, value, seed, asked });
    model.save_changes();
    draw();
  }

  const framed = new Map(); // what each plot's axes show: drawn anew only when that changes
  function refit(p) {
    const now = JSON.stringify([p.x, p.y]);
    if (framed.get(p) !== now) { framed.set(p, now); p.fit(); }
  }
  function drawCloud() {
    const looks = styles(protocol.methods.map((m) => m.name));
    const means = protocol.methods.map((m) => [m.name, m.points.map(middle)]);
    const fixed = Object.entries(protocol.references).map(([name, p]) => [name, middle(p)]);
    const trained = runs().map((r) => [r.forgetting[0], r.acc[0]]);
    const own = method.points.map(middle); // the frame fits these; a wild method of the others may leave it
    const all = [...own, ...fixed.map(([, p]) => p), ...trained].filter(finite);
    for (const [axis, n] of [[cloud.x, 0], [cloud.y, 1]]) {
      const v = all.map((p) => p[n]), lo = Math.min(...v), hi = Math.max(...v), pad = 0.08 * (hi - lo || 1);
      axis.range = [lo - pad, hi + pad];
    }
    refit(cloud);
    const px = ([f, a]) => [cloud.X(f), cloud.Y(a)];
    others.replaceChildren(...means.flatMap(([name, p]) => {
      const chosen = name === method.name, opacity = chosen ? 1 : 0.55, look = looks[name];
      const at = p.filter(finite).map(px).map(([x, y]) => mark(look.shape, x, y, chosen ? 5 : 3.5)).join("");
      return [svg("path", { d: join(p.map(px)), ...stroke(look, chosen ? 3 : 1.5), opacity }),
        svg("path", { d: at, class: "clt-mark", fill: look.color, opacity })];
    }));
    const { acc, forgetting } = method.points[k], [x, y] = px(middle(method.points[k]));
    const [sx, sy] = px([average(forgetting) + spread(forgetting), average(acc) + spread(acc)]);
    cross.setAttribute("d", acc.length ? `M${2 * x - sx} ${y}H${sx}M${x} ${2 * y - sy}V${sy}` : "");
    set(here, { d: acc.length ? mark(looks[method.name].shape, x, y, 9) : "", fill: looks[method.name].color });
    set(mine, { d: trained.map(px).map(([a, b]) => mark("D", a, b, 9)).join(""), stroke: "var(--fg)" });
    cloud.over.replaceChildren(...fixed.flatMap(([name, p]) => {
      const [a, b] = px(p), [x, anchor] = a > cloud.size[0] / 2 ? [a - 9, "end"] : [a + 9, "start"];
      return [svg("path", { d: mark("P", a, b, 6), fill: "var(--fg)" }),
        svg("text", { x, y: b + 4, class: "clt-word", "text-anchor": anchor }, name)];
    }));
    keys.replaceChildren(legend(looks), make("p", { class: "clt-note" },
      `The frame fits ${method.name}; lines of other methods may leave it.`));
  }
  function drawAlong() {
    const v = method.values, n = v.length;
    Object.assign(along.x, { range: [v[0] / 1.4, v[n - 1] * 1.4], label: symbol(method.option) });
    const [acc, fall] = ["acc", "forgetting"].map((key) => path(method.points, key));
    const ys = [acc, fall].flat().flatMap(({ mean, sd }) => [mean - sd, mean + sd]).filter(Number.isFinite);
    along.y.range = [Math.min(0, ...ys), Math.max(1, ...ys)];
    refit(along);
    [acc, fall].forEach((series, j) => {
      const edge = (sign) => series.map(({ mean, sd }, i) => [v[i], mean + sign * sd]).filter(finite);
      const ring = [...edge(1), ...edge(-1).reverse()].map(([a, b]) => [along.X(a), along.Y(b)]);
      bands[j].setAttribute("d", ring.length ? join(ring) + "Z" : "");
      curves[j].to(series.map(({ mean }, i) => [v[i], mean]));
      const at = runs().map((r) => [along.X(r.value), along.Y(r[["acc", "forgetting"][j]][0])]);
      own[j].setAttribute("d", at.map(([a, b]) => mark("D", a, b, 8)).join(""));
    });
    const [w, h] = along.size, dead = method.points.findIndex((p) => p.acc.length < p.seeds);
    const from = dead < 0 ? w : along.X(v[dead]) - 8;
    set(lost, { x: from, width: Math.max(0, w - from), height: h });
    set(gone, { x: w - 4, y: h / 2, visibility: dead < 0 ? "hidden" : "visible" });
    now.setAttribute("d", `M${along.X(v[k])} 0V${h}`);
  }
  function drawTable() {
    const R = method.points[k].R, head = R.map((_, j) => make("th", { scope: "col" }, `task ${j + 1}`));
    const cell = (x) => make("td", { style: `--share: ${Math.round(100 * x)}%` }, num(x, 2));
    const row = (r, i) => make("tr", {}, make("th", { scope: "row" }, `task ${i + 1}`), ...r.map(cell));
    numbers.hidden = !R.length;
    table.replaceChildren(make("caption", {}, "R, mean over seeds: rows after, columns on"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "R"), ...head)), make("tbody", {}, ...R.map(row)));
  }
  function draw() {
    protocols.show(protocol.name);
    chooser.show(method.name);
    knob.input.max = method.values.length - 1;
    knob.show(k);
    typed.show(value);
    const point = method.points[k], letter = symbol(method.option);
    stops.textContent = `The slider stops at the ${method.values.length} values of ${letter} that were run, ` +
      `${point.seeds} seeds each; nothing between them is made up. It starts where ACC on the test images is highest: ` +
      "an optimist’s choice. A fair one needs images that are held out for choosing.";
    drawCloud();
    drawAlong();
    drawTable();
    tells.textContent = told(method, method.values[k], point);
    train.textContent = `train ${method.name} with ${letter} = ${value} now`;
    train.disabled = waiting;
    status.textContent = waiting && !model.get("progress").startsWith("training")
      ? `Sent to the kernel: about ${num(point.seconds, 0)} s once no other cell is running.` : model.get("progress");
    list.replaceChildren(...runs().map((r) => make("li", {}, compare(r, method))));
    say(`${tells.textContent} ${status.textContent}`);
  }
  const heard = () => {
    if (!model.get("progress").startsWith("training")) waiting = false;
    draw();
  };

  enter(grid[0].name);
  model.on("change:progress", heard);
  const unbind = bind(model, ["trained"], draw, [cloud, along]);
  return () => { unbind(); model.off("change:progress", heard); };
}
export default { render };
