// LwF on one image. Logits: `old` the teacher's, of the old classes; `z` the student's, old classes first. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

export function logSoftmax(z, T = 1) {
  const top = Math.max(...z), lse = Math.log(z.reduce((s, v) => s + Math.exp((v - top) / T), 0));
  return z.map((v) => (v - top) / T - lse);
}
export const softmax = (z, T = 1) => logSoftmax(z, T).map(Math.exp);

// KL(softmax(old/T) ‖ softmax(new/T)), over the teacher's classes.
export function kl(old, z, T) {
  const q = logSoftmax(old, T), p = logSoftmax(z.slice(0, old.length), T);
  return q.reduce((s, v, c) => s + Math.exp(v) * (v - p[c]), 0);
}

// T² KL as T -> ∞: 1/(2C) Σ (d − mean d)², d = new − old: half the variance of the differences of the logits.
export function limit(old, z) {
  const d = old.map((v, c) => z[c] - v), middle = d.reduce((s, v) => s + v, 0) / d.length;
  return d.reduce((s, v) => s + (v - middle) ** 2, 0) / (2 * d.length);
}

// ∂/∂z of α T² KL: α T (p − q) on the old units, 0 on the new ones.
export function pull(old, z, T, alpha) {
  const q = softmax(old, T), p = softmax(z.slice(0, old.length), T);
  return z.map((_, c) => (c < old.length ? alpha * T * (p[c] - q[c]) : 0));
}

// ∂/∂z of the cross-entropy of `label`: p − onehot over the units that share its softmax, 0 on the others.
export function push(old, z, label, shared) {
  const first = shared ? 0 : old.length, p = softmax(z.slice(first));
  return z.map((_, c) => (c < first ? 0 : p[c - first] - (c === label ? 1 : 0)));
}

// ----------------------------------------------------------------------------------------------------------- words

export function verdict({ names, old, z, T, label, shared, alpha }) {
  const q = softmax(old, T), order = q.map((_, c) => c).sort((a, b) => q[b] - q[a]);
  const who = (k) => `${names[order[k]]} ${num(q[order[k]], 2)}`;
  const down = push(old, z, label, shared), back = pull(old, z, T, alpha);
  const c = order[0], sum = down[c] + back[c], way = Math.abs(sum) < 5e-4 ? "stays" : sum > 0 ? "falls" : "rises";
  const so = `The student’s logit for ${names[c]} ${way} with the next step.`;
  return `At T = ${num(T, 1)} the teacher says ${who(0)}, then ${who(1)}. ${so}`;
}

// ----------------------------------------------------------------------------------------------------------- view

const TEMPERATURES = [...Array(81).keys()].map((k) => 0.5 * 40 ** (k / 80)); // 0.5 to 20
const WHO = { teacher: LOOKS[2], student: LOOKS[3] };
const LOSSES = { "T²·KL": LOOKS[4], KL: LOOKS[1], "limit at T → ∞": LOOKS[0] };
const FORCES = { "cross-entropy": LOOKS[5], "α·T²·KL": LOOKS[4], "their sum": LOOKS[0] };

function render({ model, el }) {
  const names = model.get("names"), old = model.get("teacher"), label = model.get("label");
  const C = old.length, all = names.length, first = model.get("student").slice(), save = () => model.save_changes();
  const logits = [...old, ...first], low = Math.floor(Math.min(...logits)) - 2, high = Math.ceil(Math.max(...logits)) + 2;
  const x = (count) => ({ range: [-0.6, count - 0.4], ticks: false }), tall = (w) => clamp(0.6 * w, 210, 270);

  const zPane = plot("Logits", { x: x(all), y: { range: [low, high], label: "logit; drag the student’s" }, height: tall });
  const pPane = plot("What they say of the old classes", { x: x(C), y: { range: [0, 1], label: "softmax of logit / T" },
    height: tall });
  const tPane = plot("The loss against the temperature", { x: { range: [0.5, 21], label: "temperature T", log: true,
    ticks: [0.5, 1, 2, 5, 10, 20].map((t) => [t, String(t)]) },
    y: { range: [1e-3, 100], label: "distillation loss", log: true }, height: (w) => tall(w) + 20 });
  const gPane = plot("Gradient by class", { x: x(all), y: { range: [-1, 1], label: "gradient of the loss; a step goes the other way" },
    height: tall });
  const zBars = columnsIn(zPane, [WHO.teacher, WHO.student], all), pBars = columnsIn(pPane, Object.values(WHO), C);
  const gBars = columnsIn(gPane, Object.values(FORCES), all);
  const zero = [zPane, gPane].map((pane) => pane.add("path", { stroke: "var(--fg)", opacity: 0.6 }));
  const captions = [namesBelow(zPane, names), namesBelow(pPane, names.slice(0, C)), namesBelow(gPane, names)];
  const lines = Object.values(LOSSES).map((look) => tPane.curve(look));
  const here = tPane.add("path", { stroke: "var(--fg)", "stroke-dasharray": "2 3" });

  const grips = names.map((name, c) => handle(zPane, `student’s logit for ${name}`, { look: WHO.student, track: "y",
    step: 0.1 / (high - low), get: () => [c + 0.2, model.get("student")[c]], done: save,
    put: ([, v]) => model.set("student", model.get("student").map((w, k) => (k === c ? v : w))),
    words: () => `${num(model.get("student")[c], 2)}${c < C ? `, the teacher’s ${num(old[c], 2)}` : ""}` }));
  const T = slider("temperature T", { min: 0, max: 80, step: 1, words: (k) => num(0.5 * 40 ** (k / 80), 1),
    act: (k) => model.set("T", TEMPERATURES[k]), done: save });
  const alpha = slider("weight α", { min: 0, max: 10, step: 0.1, words: (a) => num(a, 1),
    act: (a) => model.set("alpha", a), done: save });
  const scenario = choice("cross-entropy over", { true: "all units (Class-IL)", false: "the new units (Task-IL)" },
    (value) => { model.set("shared", value === "true"); save(); });
  const reset = button("put the student’s logits back", () => { model.set("student", first); save(); });

  const says = make("p", { class: "clt-note clt-two-lines" });
  const rows = ["KL", "T²·KL", "at T → ∞: half the variance of the logit differences", "largest pull, α·T·|p − q|",
    "the same without T²"].map((name) => [make("th", { scope: "row" }, name), make("td")]);
  const table = make("table", { class: "clt-numbers clt-wrap" }, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row))));
  const pane = (looks, one) => make("div", {}, legend(looks), one.node);
  const { say } = frame(el, "Temperature", T.node, alpha.node, scenario.node, says,
    make("div", { class: "clt-panes clt-two" }, pane(WHO, zPane), pane(WHO, pPane), pane(LOSSES, tPane), pane(FORCES, gPane)),
    table, make("div", { class: "clt-bar clt-after" }, reset));

  function draw() {
    const z = model.get("student"), temperature = model.get("T"), weight = model.get("alpha"), shared = model.get("shared");
    const down = push(old, z, label, shared), back = pull(old, z, temperature, weight), sum = down.map((v, c) => v + back[c]);
    const most = Math.max(...[down, back, sum].flat().map(Math.abs));
    const reach = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((r) => r >= most) ?? most;
    if (gPane.y.range[1] !== reach) { gPane.y.range = [-reach, reach]; gPane.fit(); }
    zBars([names.map((_, c) => (c < C ? old[c] : NaN)), z]);
    pBars([softmax(old, temperature), softmax(z.slice(0, C), temperature)]);
    gBars([down, back, sum]);
    captions.forEach((place) => place());
    [zPane, gPane].forEach((p, k) => zero[k].setAttribute("d", `M0 ${p.Y(0)}H${p.size[0]}`));
    const loss = (t) => kl(old, z, t), end = limit(old, z);
    [(t) => t * t * loss(t), loss, () => end].forEach((f, k) => lines[k].to(TEMPERATURES.map((t) => [t, f(t)]).filter(([, v]) => v > 1e-9)));
    here.setAttribute("d", `M${tPane.X(temperature)} 0V${tPane.size[1]}`);
    const strongest = Math.max(...back.map(Math.abs)), now = loss(temperature);
    [num(now, 4), num(temperature ** 2 * now), num(end), num(strongest), num(strongest / temperature ** 2, 4)]
      .forEach((words, k) => { rows[k][1].textContent = words; });
    says.textContent = verdict({ names, old, z, T: temperature, label, shared, alpha: weight });
    say(`${says.textContent} T²·KL is ${num(temperature ** 2 * now)}, at infinite T ${num(end)}.`);
    grips.forEach((grip) => grip.show());
    T.show(Math.round((80 * Math.log(temperature / 0.5)) / Math.log(40)));
    alpha.show(weight);
    scenario.show(shared);
  }
  return bind(model, ["student", "T", "alpha", "shared"], draw, [zPane, pPane, tPane, gPane]);
}
export default { render };
