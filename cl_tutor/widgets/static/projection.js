// A-GEM and GEM in the plane: which half-planes a step may enter, and what that costs. After kit.js.

const RATE = 0.1;
const EPS = 1e-9; // what counts as zero beside lengths of about one

// ----------------------------------------------------------------------------------------------------- mathematics

const dot = ([a, b], [c, d]) => a * c + b * d;
const shadow = (g, r) => { // g without its part along r: its nearest point on the border of r's half-plane
  const c = dot(g, r) / dot(r, r);
  return [g[0] - c * r[0], g[1] - c * r[1]];
};
export const mean = (refs) => [0, 1].map((i) => refs.reduce((s, r) => s + r[i], 0) / refs.length);

// A-GEM: g − (g·r / ‖r‖²) r where g·r < 0. A reference of zero constrains nothing.
export const projectMean = (g, r) => (dot(g, r) >= 0 ? g.slice() : shadow(g, r));

// GEM: the nearest g̃ with g̃·r ≥ 0 for all r. In the plane that is g, or its shadow on one border, or the tip 0.
export function project(g, refs) {
  const allowed = (v) => refs.every((r) => dot(v, r) >= -1e-12 * Math.hypot(...r) * Math.hypot(...g));
  if (refs.every((r) => dot(g, r) >= 0)) return g.slice();
  const shadows = refs.filter((r) => dot(r, r) > 0).map((r) => shadow(g, r)).filter(allowed);
  const far = (v) => Math.hypot(v[0] - g[0], v[1] - g[1]);
  return shadows.reduce((best, v) => (far(v) < far(best) ? v : best), [0, 0]);
}
export const tilde = (method, g, refs) => (method === "GEM" ? project(g, refs) : projectMean(g, mean(refs)));
// First-order change of each loss for the step −η step: the old ones, then the new one.
export const changes = (step, g, refs) => [...refs, g].map((r) => -RATE * dot(step, r));

export function turned(a, b) { // degrees between two vectors; 0 where one of them vanishes
  const size = Math.hypot(...a) * Math.hypot(...b);
  return size ? (Math.acos(clamp(dot(a, b) / size, -1, 1)) * 180) / Math.PI : 0;
}

const list = (names) => names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
export function verdict(method, g, refs) {
  const out = tilde(method, g, refs), old = changes(out, g, refs).slice(0, -1);
  const kept = Math.hypot(...out) / Math.hypot(...g);
  const names = (keep) => refs.map((_, k) => `task ${k + 1}`).filter((_, k) => keep(k));
  const broken = names((k) => dot(g, refs[k]) < -EPS), rising = names((k) => old[k] > EPS);
  const first = broken.length ? `A plain step along −g raises the loss of ${list(broken)}.`
    : "A plain step raises no old loss.";
  const moved = kept > 1 - EPS ? "g̃ = g: nothing is changed."
    : kept < EPS ? "No direction is left: g̃ = 0, and nothing is learnt."
    : `g̃ is turned by ${num(turned(g, out), 0)}° and keeps ${num(100 * kept, 0)} % of the length.`;
  const last = rising.length ? ` The mean of the old losses does not rise, but ${list(rising)} still pays.` : "";
  return `${first} ${method}: ${moved}${last}`;
}

// ----------------------------------------------------------------------------------------------------------- view

const KEYS = ["g_new", "g_refs", "method"];
const SPARE = [[0.4, 1.4], [1.4, 0.6], [-1.2, 0.9]]; // where an old gradient appears when it is asked for

function render({ model, el }) {
  const save = () => model.save_changes(), put = (key, v) => model.set(key, v);
  const looks = styles(["g", "EWC", "LwF", "mas", "A-GEM", "joint"]);
  const NEW = { ...looks.g, color: "var(--vermillion)", dash: "", shape: "s" };
  const OUT = looks["A-GEM"], MEAN = looks.joint;
  const OLD = [looks.EWC, looks.LwF, looks.mas];
  const K = () => model.get("g_refs").length;

  const method = choice("method", { "A-GEM": "A-GEM", GEM: "GEM" }, (name) => { put("method", name); save(); });
  const count = choice("old tasks", { 1: "1", 2: "2", 3: "3" }, (n) => {
    const refs = model.get("g_refs");
    put("g_refs", SPARE.slice(0, n).map((spare, k) => refs[k] ?? spare));
    save();
  });

  const blank = (lo, hi) => ({ range: [lo, hi], ticks: false });
  const plane = plot("The gradients", { x: blank(-2.4, 2.4),
    y: { ...blank(-1.8, 1.8), label: "shaded: no place for g̃" },
    equal: true });
  const shades = OLD.map((look) => plane.add("path", { fill: look.color, opacity: 0.14 }));
  const borders = OLD.map((look) => plane.add("path", stroke(look, 1.5)));
  const meanBorder = plane.add("path", stroke(MEAN, 1.5)), cross = plane.add("path", { stroke: "var(--edge)" });
  const drop = plane.add("path", { stroke: "var(--fg)", "stroke-dasharray": "2 4", "stroke-width": 2 });
  const arrow = (look, width) => plane.add("path", { ...stroke({ ...look, dash: "" }, width) });
  const arrows = { refs: OLD.map((look) => arrow(look, 3)), mean: arrow(MEAN, 3), g: arrow(NEW, 3),
    out: arrow(OUT, 6) };
  const point = (name, look, get, set) => handle(plane, name, { look, get, put: set, done: save,
    words: () => {
      const [x, y] = get();
      return `angle ${num((Math.atan2(y, x) * 180) / Math.PI, 0)}°, length ${num(Math.hypot(x, y), 2)}`;
    } });
  const handles = {
    refs: OLD.map((look, k) => point(`gradient of old task ${k + 1}`, look, () => model.get("g_refs")[k] ?? [0, 0],
      (v) => put("g_refs", model.get("g_refs").map((r, j) => (j === k ? v : r))))),
    g: point("gradient of the new task", NEW, () => model.get("g_new"), (v) => put("g_new", v)),
  };
  const words = { refs: OLD.map((_, k) => plane.word(`g${"₁₂₃"[k]}`, { "text-anchor": "middle" })),
    mean: plane.word("mean", { "text-anchor": "middle" }), g: plane.word("g", { "text-anchor": "middle" }),
    out: plane.word("g̃", { "text-anchor": "middle", "font-weight": 700 }) };

  const bars = plot("First-order change of each loss", { height: (w) => clamp(0.55 * w, 200, 300),
    x: { range: [0.4, 4.6], ticks: false },
    y: { range: [-0.4, 0.4], label: "ΔL (dashed: step −g, filled: step −g̃), η = 0.1" } });
  const rises = bars.add("rect", { fill: "var(--vermillion)", opacity: 0.12 });
  const zero = bars.add("path", { stroke: "var(--fg)", opacity: 0.7 });
  const pairs = [0, 1, 2, 3].map(() => [bars.add("rect", { fill: "none", stroke: "var(--fg)", "stroke-dasharray": "3 2",
    "stroke-width": 1.5 }), bars.add("rect", { stroke: "var(--fg)" })]);
  const under = [0, 1, 2, 3].map(() => bars.word("", { "text-anchor": "middle" }));
  bars.node.style.marginBottom = "22px";

  const body = make("tbody"), note = make("p", { class: "clt-note" });
  const head = (...all) => make("tr", {}, ...all.map((w) => make("th", { scope: "col" }, w)));
  const table = make("table", { class: "clt-numbers" },
    make("caption", { class: "clt-hidden" }, "First-order change of each loss"),
    make("thead", {}, head("change of loss", "step −g", "step −g̃")), body);
  const { say } = frame(el, "Gradient projection", make("div", { class: "clt-bar" }, method.node, count.node),
    make("div", { class: "clt-panes clt-two" }, plane.node,
      make("div", {}, bars.node, scroller("First-order change of each loss, in numbers", table))), note);

  function draw() {
    const g = model.get("g_new"), refs = model.get("g_refs"), how = model.get("method");
    const out = tilde(how, g, refs), mid = mean(refs), each = how === "GEM";
    const px = ([x, y]) => [plane.X(x), plane.Y(y)], o = px([0, 0]);
    const point = (node, v, width) => { // an arrow from the origin
      const tip = px(v), long = Math.hypot(tip[0] - o[0], tip[1] - o[1]);
      const a = Math.atan2(o[1] - tip[1], o[0] - tip[0]), size = Math.min(6 + 2 * width, 0.6 * long);
      const barb = (t) => [tip[0] + size * Math.cos(a + t), tip[1] + size * Math.sin(a + t)];
      set(node, { d: long < 3 ? "" : join([o, tip]) + join([barb(0.42), tip, barb(-0.42)]) });
    };
    const half = (r) => { // the border of r's half-plane, and the side where r·g̃ < 0
      const n = Math.hypot(...r), u = [-r[1] / n, r[0] / n], far = 9;
      const a = [far * u[0], far * u[1]], b = [-a[0], -a[1]];
      const away = (p) => [p[0] - (far * r[0]) / n, p[1] - (far * r[1]) / n];
      if (!n) return { line: "", side: "" };
      return { line: join([a, b].map(px)), side: join([a, away(a), away(b), b].map(px)) + "Z" };
    };
    const named = (node, v, size) => { // beyond the tip of its arrow
      const [x, y] = px(v), n = Math.hypot(...v) || 1;
      set(node, { x: x + (size * v[0]) / n, y: y - (size * v[1]) / n + 4 });
    };

    set(cross, { d: `M0 ${o[1]}H${plane.size[0]}M${o[0]} 0V${plane.size[1]}` });
    OLD.forEach((_, k) => {
      const r = refs[k], { line, side } = r ? half(r) : { line: "", side: "" };
      set(borders[k], { d: line, opacity: each ? 1 : 0.45 });
      set(shades[k], { d: each ? side : "" });
      if (r) { point(arrows.refs[k], r, 3); named(words.refs[k], r, 28); handles.refs[k].show(); }
      else set(arrows.refs[k], { d: "" });
      handles.refs[k].node.style.display = words.refs[k].style.display = r ? "" : "none";
    });
    const one = half(mid);
    if (!each) set(shades[0], { d: one.side });
    set(shades[0], { fill: each ? OLD[0].color : MEAN.color, opacity: each ? 0.14 : 0.22 });
    set(meanBorder, { d: each ? "" : one.line });
    if (each || refs.length < 2) set(arrows.mean, { d: "" }); else point(arrows.mean, mid, 3);
    words.mean.style.display = each || refs.length < 2 ? "none" : "";
    named(words.mean, mid, 22);
    point(arrows.g, g, 3);
    point(arrows.out, out, 6);
    named(words.g, g, 28);
    named(words.out, out, Math.hypot(out[0] - g[0], out[1] - g[1]) < 0.35 ? -30 : 20);
    set(drop, { d: join([px(g), px(out)]) });
    handles.g.show();

    // bars: dashed with g, filled with g̃
    const plain = changes(g, g, refs), bent = changes(out, g, refs);
    const top = Math.max(0.2, ...[...plain, ...bent].map(Math.abs));
    const high = [0.2, 0.3, 0.4, 0.6, 0.8, 1.2].find((v) => v >= top) ?? 1.2;
    if (bars.y.range[1] !== high || bars.x.range[1] !== refs.length + 1.6) {
      bars.y.range = [-high, high];
      bars.x.range = [0.4, refs.length + 1.6];
      bars.fit();
    }
    set(zero, { d: `M0 ${bars.Y(0)}H${bars.size[0]}` });
    set(rises, { x: 0, y: 0, width: bars.size[0], height: bars.Y(0) });
    pairs.forEach((pair, k) => {
      const here = k <= refs.length, look = k === refs.length ? NEW : OLD[k];
      pair.forEach((rect, which) => {
        const v = clamp((which ? bent : plain)[k] ?? 0, -high, high), left = bars.X(k + 1 + (which ? 0.03 : -0.37));
        set(rect, { x: left, width: bars.X(k + 1.37) - bars.X(k + 1.03), y: Math.min(bars.Y(v), bars.Y(0)),
          height: Math.abs(bars.Y(v) - bars.Y(0)), ...(which ? { fill: look?.color ?? "none" } : {}) });
        rect.style.display = here ? "" : "none";
      });
      under[k].textContent = !here ? "" : k === refs.length ? "new" : `task ${k + 1}`;
      set(under[k], { x: bars.X(k + 1), y: bars.size[1] + 17 });
    });

    body.replaceChildren(...bent.map((v, k) => make("tr", {},
      make("th", { scope: "row" }, k === refs.length ? "new task" : `task ${k + 1}`),
      ...[plain[k], v].map((c) => make("td", {}, (c > EPS ? "+" : "") + num(c, 3))))));
    method.show(how);
    count.show(K());
    note.textContent = verdict(how, g, refs);
    say(note.textContent);
  }
  return bind(model, KEYS, draw, [plane, bars]);
}
export default { render };
