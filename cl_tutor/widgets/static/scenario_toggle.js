// One network's scores read as Task-, Domain- and Class-IL. S[n][c]: the score of unit c for sample n; owner[c]: the
// task that unit c belongs to; y[n]: the right unit; t[n]: its task. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

// The units that compete for a sample of task t.
export const competing = (rule, owner, t) => owner.map((task) => rule !== "task" || task === t);

// argmax over the units that compete, the first where two are equal.
export function winner(s, C) {
  return s.reduce((best, v, c) => (C[c] && (best < 0 || v > s[best]) ? c : best), -1);
}

// The place of each unit in its own task, from 0: what Domain-IL asks for.
export function places(owner) {
  const met = {};
  return owner.map((task) => { met[task] = (met[task] ?? -1) + 1; return met[task]; });
}

export function right(rule, s, y, t, owner, place = places(owner), C = competing(rule, owner, t)) {
  const won = winner(s, C);
  return rule === "domain" ? place[won] === place[y] : won === y;
}

// The share answered rightly: of each task, then of all samples.
export function accuracies(rule, S, y, t, owner) {
  const T = Math.max(...owner) + 1, hits = Array(T).fill(0), n = Array(T).fill(0), place = places(owner);
  const C = hits.map((_, task) => competing(rule, owner, task)); // once a task, not once an image
  S.forEach((s, k) => { n[t[k]] += 1; hits[t[k]] += right(rule, s, y[k], t[k], owner, place, C[t[k]]); });
  const all = hits.reduce((a, b) => a + b, 0) / S.length;
  return { tasks: hits.map((h, k) => h / n[k]), all };
}

// −‖φ − μ_c‖ for every sample and unit; a unit without a mean is never the answer.
export function nearest(features, means) {
  const distance = (f, m) => Math.sqrt(f.reduce((sum, v, k) => sum + (v - m[k]) ** 2, 0));
  return features.map((f) => means.map((m) => (m ? -distance(f, m) : -Infinity)));
}

// The scores with δ taken from the units of the last task.
export function hush(S, owner, delta) {
  const last = Math.max(...owner);
  return S.map((s) => s.map((v, c) => (owner[c] === last ? v - delta : v)));
}

// For each sample of an old task the best score among the old units, and among those of the last task.
export function loudest(S, t, owner) {
  const last = Math.max(...owner), old = S.filter((_, k) => t[k] !== last);
  const best = (C) => old.map((s) => s[winner(s, C)]);
  return { old: best(owner.map((task) => task !== last)), new: best(owner.map((task) => task === last)) };
}

// The share of the values in each of n equal bins from lo to hi.
export function histogram(values, lo, hi, n) {
  const counts = Array(n).fill(0);
  values.forEach((v) => { counts[clamp(Math.floor(((v - lo) / (hi - lo)) * n), 0, n - 1)] += 1 / values.length; });
  return counts;
}

// ---------------------------------------------------------------------------------------------------------- words

const RULES = { task: "Task-IL", domain: "Domain-IL", class: "Class-IL" };
const ASKS = {
  task: "The task is told: only its own units compete.",
  domain: "All units compete, and only the place of the winner in its task is judged, not the task.",
  class: "Nothing is told: all units compete, and the right one must win.",
};
const ORDER = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];

export function story(rule, s, y, t, owner) {
  const won = winner(s, competing(rule, owner, t)), ok = right(rule, s, y, t, owner) ? "Right." : "Wrong.";
  const place = places(owner), nth = (c) => ORDER[place[c]] ?? `${place[c] + 1}th`;
  if (rule === "domain") return `unit ${won} wins, the ${nth(won)} of its task; the ${nth(y)} is right. ${ok}`;
  return won === y ? `unit ${won} wins. ${ok}` : `unit ${won} wins, but unit ${y} is right. ${ok}`;
}

export function bias(S, t, owner) {
  const { old, new: fresh } = loudest(S, t, owner);
  const share = fresh.filter((v, k) => v > old[k]).length / old.length;
  return `On ${Math.round(100 * share)} % of the old tasks' images a unit of the last task has the highest score.`;
}

// ----------------------------------------------------------------------------------------------------------- view

const BLUE = { color: "var(--blue)", dash: "", shape: "o" };
const RED = { color: "var(--vermillion)", dash: "7 3", shape: "s" };
const WAYS = { logits: "largest logit", mean: "nearest mean" };

function render({ model, el }) {
  const [owner, y, t, Z] = ["owner", "y", "t", "logits"].map((key) => model.get(key)), place = places(owner);
  const T = Math.max(...owner) + 1, C = owner.length, bins = 24, features = model.get("features");
  const near = features.length ? nearest(features, model.get("means")) : null;
  const { old, new: fresh } = loudest(Z, t, owner);
  const far = Math.max(1, Math.ceil(Math.max(...fresh.map((v, k) => v - old[k]))));
  let rule = "task", way = "logits", delta = 0, sample = 0, S = Z;

  const meters = Object.entries(RULES).map(([key, name]) => {
    const out = make("strong");
    const node = button([make("span", {}, name), out], () => { rule = key; draw(); });
    return { key, node, out };
  });
  const ask = make("p", { class: "clt-note" }), verdict = make("p", { class: "clt-note" });
  const ways = choice("answer by", WAYS, (w) => { way = w; draw(); });
  const inTheMiddle = (n, from) => [...Array(n).keys()].map((k) => [k + 0.5, String(k + from)]);
  const one = plot("The scores of one image", { height: () => 230,
    x: { range: [0, C], ticks: inTheMiddle(C, 0), label: "unit" }, y: { range: [0, 1], label: "score" } });
  const own = plot("Accuracy on each task", { height: (w) => clamp(0.62 * w, 210, 280),
    x: { range: [0, T], ticks: inTheMiddle(T, 1), label: "task" },
    y: { range: [0, 1.2], ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], label: "accuracy" } });
  const loud = plot("Old units against new", { height: (w) => clamp(0.62 * w, 210, 280),
    x: { range: [0, 1], label: "highest score, images of old tasks" },
    y: { range: [0, 1], label: "share of images" } });
  const columns = own.add("path", { class: "clt-bars" });
  const filled = (look) => ({ ...stroke(look), fill: look.color, "fill-opacity": 0.15 });
  const shapes = [BLUE, RED].map((look) => loud.add("path", filled(look)));
  const walk = slider("image", { min: 1, max: y.length, step: 1, act: (x) => { sample = x - 1; draw(); },
    words: (x) => `${x}: of task ${t[x - 1] + 1}` });
  const dispute = button("next image that the rules judge differently", () => {
    const judged = (k) => new Set(Object.keys(RULES).map((r) => right(r, S[k], y[k], t[k], owner))).size > 1;
    const order = [...S.keys()].map((k) => (sample + 1 + k) % S.length);
    sample = order.find(judged) ?? sample;
    draw();
  });
  const last = owner.flatMap((task, c) => (task === T - 1 ? [c] : [])).join(", ");
  const quiet = slider(`taken from units ${last}`, { min: 0, max: far, step: 0.1, words: (x) => `δ = ${num(x, 1)}`,
    act: (x) => { delta = x; draw(); } });
  const shares = make("p", { class: "clt-note" });
  const { say } = frame(el, "Scenario toggle",
    make("div", { class: "clt-meters clt-three", role: "group", "aria-label": "Scenario" },
      ...meters.map((m) => m.node)),
    ask, ...(near ? [make("div", { class: "clt-bar" }, ways.node)] : []),
    make("div", { class: "clt-panes clt-two" },
      make("div", {}, own.node),
      make("div", {}, loud.node, legend({ "old units": BLUE, "units of the last task": RED }))),
    shares, quiet.node, one.node, verdict, walk.node, make("div", { class: "clt-bar" }, dispute));

  function drawOne() {
    const s = S[sample], allowed = competing(rule, owner, t[sample]), won = winner(s, allowed);
    const finite = s.filter(Number.isFinite), lo = Math.min(...finite), hi = Math.max(...finite);
    const pad = 0.16 * (hi - lo || 1);
    one.y.range = [lo - pad, hi + pad];
    one.fit();
    const [w, h] = one.size, cell = w / C, parts = [];
    const word = (c, y, words) => parts.push(svg("text", { x: (c + 0.5) * cell, y, "text-anchor": "middle",
      class: "clt-word", style: "font-size: 16px" }, words));
    s.forEach((v, c) => {
      const top = one.Y(Number.isFinite(v) ? v : lo - pad);
      const tone = rule === "domain" && place[c] % 2 ? "orange" : "blue";
      parts.push(svg("path", { d: `M${(c + 0.1) * cell} ${h}V${top.toFixed(2)}h${0.8 * cell}V${h}Z`, class: "clt-bars",
        style: allowed[c] ? `fill: color-mix(in srgb, var(--${tone}) 45%, transparent); stroke: var(--${tone})`
          : "fill: none; stroke: var(--edge); stroke-dasharray: 3 3" }));
      if (c && owner[c] !== owner[c - 1])
        parts.push(svg("path", { d: `M${c * cell} 0V${h}`, stroke: "var(--edge)" }));
    });
    word(won, one.Y(s[won]) - 5, "★");
    word(y[sample], h - 6, "▲");
    one.over.replaceChildren(...parts);
    verdict.textContent = `★ the answer, ▲ the right unit: ${story(rule, s, y[sample], t[sample], owner)}` +
      (rule === "task" ? " Dashed units do not compete." : rule === "domain" ? " One colour, one place." : "");
    walk.show(sample + 1);
  }
  function drawTasks(found) {
    const [w, h] = own.size, cell = w / T;
    columns.setAttribute("d", found.tasks.map((a, k) =>
      `M${(k + 0.15) * cell} ${h}V${own.Y(a).toFixed(2)}h${0.7 * cell}V${h}Z`).join(""));
    own.over.replaceChildren(...found.tasks.map((a, k) => svg("text", { x: (k + 0.5) * cell, y: own.Y(a) - 6,
      "text-anchor": "middle", class: "clt-word" }, num(a, 2))));
  }
  function drawLoud() {
    const both = loudest(S, t, owner), values = [...both.old, ...both.new].filter(Number.isFinite);
    const lo = Math.min(...values), hi = Math.max(...values) + 1e-9, width = (hi - lo) / bins;
    const shown = [both.old, both.new].map((v) => histogram(v.filter(Number.isFinite), lo, hi, bins));
    loud.x.range = [lo, hi];
    loud.y.range = [0, 1.1 * Math.max(...shown.flat())];
    loud.fit();
    shown.forEach((share, k) => shapes[k].setAttribute("d", join([[lo, 0], ...share.flatMap((v, b) =>
      [[lo + b * width, v], [lo + (b + 1) * width, v]]), [hi, 0]].map(([a, v]) => [loud.X(a), loud.Y(v)])) + "Z"));
  }
  function draw() {
    S = way === "mean" ? near : hush(Z, owner, delta);
    const found = Object.fromEntries(Object.keys(RULES).map((r) => [r, accuracies(r, S, y, t, owner)]));
    for (const { key, node, out } of meters) {
      node.setAttribute("aria-pressed", String(key === rule));
      out.textContent = num(found[key].all, 2);
    }
    ways.show(way);
    quiet.show(delta);
    quiet.node.hidden = way === "mean";
    ask.textContent = ASKS[rule];
    drawTasks(found[rule]);
    drawLoud();
    drawOne();
    shares.textContent = bias(S, t, owner);
    const byTask = found[rule].tasks.map((a) => num(a, 2)).join(", ");
    say(`${RULES[rule]}, ${WAYS[way]}: accuracy ${num(found[rule].all, 2)}; by task ${byTask}. ` +
      `${shares.textContent} ${verdict.textContent}`);
  }
  return bind(model, [], draw, [own, loud, one]);
}
export default { render };
