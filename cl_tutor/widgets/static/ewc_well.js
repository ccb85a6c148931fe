// The EWC well along one weight θ, with λ from 10⁻⁶ to 10⁶. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

// A loss known at the nodes `at` by [values, slopes]: x -> [loss, slope], the cubic that has both at either end of its
// piece; beyond the nodes a straight line.
export function curve(at, [values, slopes]) {
  const last = at.length - 1, h = (at[last] - at[0]) / last;
  return (x) => {
    const end = x <= at[0] ? 0 : x >= at[last] ? last : -1;
    if (end >= 0) return [values[end] + slopes[end] * (x - at[end]), slopes[end]];
    const k = Math.min(last - 1, Math.floor((x - at[0]) / h)), t = (x - at[k]) / h;
    const [a, b, p, q] = [values[k], values[k + 1], h * slopes[k], h * slopes[k + 1]];
    const c = 3 * (b - a) - 2 * p - q, d = 2 * (a - b) + p + q;
    return [a + t * (p + t * (c + t * d)), (p + t * (2 * c + 3 * t * d)) / h];
  };
}

export const well = ({ anchor, stiffest }, x) => 0.5 * stiffest * (x - anchor) ** 2; // ½ F (θ − θ*)²
export const ceiling = ({ rate, stiffest }) => 2 / (rate * stiffest);
export const factor = ({ rate, lam, stiffest }) => 1 - rate * lam * stiffest; // what SGD makes of θ − θ*, a step

// `steps` steps from θ* on new loss + λ well, η = rate. Explicit: SGD on the sum. Proximal: SGD on the new loss, then
// θ ← (θ + ηλFθ*)/(1 + ηλF).
export function walk(slope, { anchor, stiffest, lam, rate }, proximal, steps) {
  const pull = rate * lam * stiffest, path = [anchor];
  for (let k = 0; k < steps; k++) {
    const x = path[k], down = x - rate * slope(x);
    path.push(proximal ? (down + pull * anchor) / (1 + pull) : down - pull * (x - anchor));
  }
  return path;
}

// What one of our λ is called where the well is written otherwise. `half`: "yes", the ½ is kept; `fisher`: "mean" of
// squared gradients over samples, their "sum" over n, or the mean of squared gradients of "batch" means, which at an
// optimum is F/B; `loss`: "mean" over samples, or their "sum", with which the whole objective grows n times.
export function abroad({ half, fisher, loss, n, B }) {
  const size = { mean: 1, sum: n, batch: 1 / B }[fisher];
  return ((half === "yes" ? 1 : 0.5) * (loss === "sum" ? n : 1)) / size;
}

// ----------------------------------------------------------------------------------------------------------- words

export function verdict(s) {
  const times = s.lam / ceiling(s), q = factor(s);
  const step = `each explicit step multiplies θ − θ* by ${num(q, Math.abs(q) < 10 ? 2 : 0)}`;
  if (times > 1) return `Divergence: λ is ${sci(times)} times the ceiling; ${step}. The proximal step still holds.`;
  if (times > 0.5) return `Close to divergence: λ is ${num(times, 2)} of the ceiling; ${step}, from side to side.`;
  if (times > 0.05) return `Divergence lies a factor of ${sci(1 / times, 2)} ahead; ${step}.`;
  return `Far from divergence, a factor of ${sci(1 / times, 2)}; ${step}.`;
}

// ----------------------------------------------------------------------------------------------------------- view

const LAMBDA = [1e-6, 1e6], STEPS = 40;
const LINES = { "old loss": LOOKS[2], "its quadratic at θ*": LOOKS[7], "new loss": LOOKS[6], "new loss + λ wells": LOOKS[0] };
const WALKS = { "proximal step": LOOKS[4], "explicit step": LOOKS[3] };
const KINDS = { half: { yes: "with ½", no: "without" }, fisher: { mean: "mean over samples", sum: "sum over n",
  batch: "batch mean, squared" }, loss: { mean: "mean loss", sum: "summed loss" } };

function render({ model, el }) {
  const keys = ["lam", "rate", "samples", "batch"];
  const at = model.get("at"), fixed = Object.fromEntries(["anchor", "stiffest", "trace"].map((k) => [k, model.get(k)]));
  const old = curve(at, model.get("old")), fresh = curve(at, model.get("new")), floor = old(fixed.anchor)[0];
  const put = (key, value) => model.set(key, value), save = () => model.save_changes();
  const kind = { half: "yes", fisher: "sum", loss: "mean" }; // how the other paper writes it

  const highest = 1.02 * Math.max(...model.get("old")[0], ...model.get("new")[0]);
  const lowest = Math.min(0, ...model.get("old")[0], ...model.get("new")[0]);
  const ruler = plot("λ and its ceiling", { x: { range: LAMBDA, label: "λ", log: true },
    y: { range: [0, 1], ticks: false }, height: () => 136 });
  const losses = plot("Losses along the stiffest weight", { x: { range: [at[0], at.at(-1)], label: "the stiffest weight θ" },
    y: { range: [lowest, highest], label: "loss" }, height: (w) => clamp(0.75 * w, 260, 340) });
  const steps = plot("The first steps on the new task", { x: { range: [0, STEPS], label: "step on the new task" },
    y: { range: [at[0], at.at(-1)], label: "the weight θ" }, height: (w) => clamp(0.75 * w, 260, 340) });

  const zones = [["orange", 0.13], ["vermillion", 0.24]].map(([color, opacity]) =>
    ruler.add("rect", { y: 0, fill: `var(--${color})`, opacity }));
  const line = ruler.add("path", { stroke: "var(--vermillion)", "stroke-width": 3 });
  const words = ["stable", "diverges"].map((text) => ruler.word(text, { y: 20, "text-anchor": "middle" }));
  const roofs = ruler.word();
  const lines = Object.values(LINES).map((look) => losses.curve(look, 2.5));
  // the proximal path is a broad line, so that the explicit one is seen on top of it
  const paths = (pane) => Object.values(WALKS).map((look, k) => pane.curve(look, k ? 1.5 : 5, k));
  const bounce = paths(losses), walks = paths(steps);
  const homes = [losses, steps].map((pane) => [pane.word("θ*"),
    pane.add("path", { stroke: "var(--fg)", "stroke-dasharray": "2 3", opacity: 0.6 })]);

  const grip = handle(ruler, "λ", { look: LOOKS[2], track: "x", step: 1 / 120, done: save,
    get: () => [model.get("lam"), 0.5], put: ([x]) => put("lam", x), words: () => `λ = ${sci(model.get("lam"))}. ${verdict(state())}` });
  const eta = slider("learning rate η", { min: -3, max: 0.5, step: 0.05, words: (e) => sci(10 ** e, 2),
    act: (e) => put("rate", +(10 ** e).toPrecision(12)), done: save });

  const says = make("p", { class: "clt-note clt-verdict" });
  const bar = make("span"), meter = make("div", { class: "clt-meter", role: "meter", "aria-label": "λ·tr F",
    "aria-valuemin": -6, "aria-valuemax": 6 }, bar);
  const stiffness = make("output"), rows = ["after 40 proximal steps", "old loss", "foretold by the quadratic", "new loss"]
    .map((name) => [make("th", { scope: "row" }, name), make("td")]);
  const table = make("table", { class: "clt-numbers clt-wrap" }, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row))));

  const ours = field("our λ", { act: (x) => { if (x > 0) { put("lam", clamp(x, ...LAMBDA)); save(); } } });
  const theirs = field("their λ", { act: (x) => { if (x > 0) { put("lam", clamp(x / abroad(spoken()), ...LAMBDA)); save(); } } });
  const counts = [["samples", "samples n"], ["batch", "batch size B"]].map(([key, name]) =>
    [key, field(name, { min: 1, step: 1, act: (x) => { put(key, Math.round(x)); save(); } })]);
  const choices = [["half", "the ½"], ["fisher", "their Fisher"], ["loss", "their loss"]].map(([key, name]) =>
    [key, choice(name, KINDS[key], (value) => { kind[key] = value; draw(); })]);
  const spoken = () => ({ ...kind, n: model.get("samples"), B: model.get("batch") });
  const formula = make("p", { class: "clt-note" });

  const { say } = frame(el, "The EWC well",
    ruler.node, says, eta.node,
    make("div", { class: "clt-meterbox" }, make("span", { "aria-hidden": "true" }, "λ·tr F"), meter, stiffness),
    legend({ ...LINES, ...WALKS }), make("div", { class: "clt-panes clt-two" }, losses.node, steps.node), table,
    make("div", { class: "clt-translator", role: "group", "aria-label": "Translator of λ" },
      make("p", { class: "clt-note" }, "The same well in another paper’s words. Ours: mean loss + λ ½ Σ F (θ − θ*)², F a mean over samples."),
      ...choices.map(([, c]) => c.node), make("div", { class: "clt-bar" }, ...counts.map(([, f]) => f.node)),
      make("div", { class: "clt-bar" }, ours.node, theirs.node), formula));

  function state() { return { ...fixed, lam: model.get("lam"), rate: model.get("rate") }; }

  function draw() {
    const s = state(), roof = ceiling(s), edge = (x) => ruler.X(clamp(x, ...LAMBDA));
    const [width, height] = ruler.size, marks = [edge(LAMBDA[0]), edge(roof / 2), edge(roof), edge(LAMBDA[1])];
    zones.forEach((zone, k) => set(zone, { x: marks[k + 1], width: marks[k + 2] - marks[k + 1], height }));
    line.setAttribute("d", `M${marks[2]} 0V${height}`);
    line.setAttribute("visibility", roof < LAMBDA[1] ? "visible" : "hidden");
    [[0, 2], [2, 3]].forEach(([a, b], k) => set(words[k],
      { x: (marks[a] + marks[b]) / 2, visibility: marks[b] - marks[a] > 70 ? "visible" : "hidden" }));
    const right = marks[2] > width - 150;
    set(roofs, { x: marks[2] + (right ? -6 : 6), y: height - 8, "text-anchor": right ? "end" : "start" });
    roofs.textContent = `2/(η·max F) = ${sci(roof)}`;

    const total = (x) => fresh(x)[0] + s.lam * well(s, x);
    [(x) => old(x)[0], (x) => floor + well(s, x), (x) => fresh(x)[0], total].forEach((f, k) =>
      lines[k].to(at.map((x) => [x, f(x)]).filter(([, y]) => y < 3 * highest)));
    const [gentle, wild] = [true, false].map((proximal) => walk((x) => fresh(x)[1], s, proximal, STEPS));
    [gentle, wild].forEach((path, k) => {
      const gone = path.findIndex((x) => x < at[0] || x > at.at(-1)), seen = gone < 0 ? path : path.slice(0, gone + 1);
      bounce[k].to(seen.slice(0, 12).map((x) => [x, total(x)]));
      walks[k].to(seen.map((x, t) => [t, x]));
    });
    homes[0][1].setAttribute("d", `M${losses.X(s.anchor)} 0V${losses.size[1]}`);
    homes[1][1].setAttribute("d", `M0 ${steps.Y(s.anchor)}H${steps.size[0]}`);
    set(homes[0][0], { x: losses.X(s.anchor) + 5, y: 16 });
    set(homes[1][0], { x: steps.size[0] - 22, y: steps.Y(s.anchor) - 6 });

    const end = gentle.at(-1);
    const told = [`θ − θ* = ${num(end - s.anchor, 3)}`, num(old(end)[0]), num(floor + well(s, end)), num(fresh(end)[0])];
    rows.forEach(([, cell], k) => { cell.textContent = told[k]; });
    const mass = s.lam * s.trace;
    bar.style.width = `${clamp((100 * (Math.log10(mass) + 6)) / 12, 0, 100)}%`;
    set(meter, { "aria-valuenow": Math.log10(mass).toFixed(3), "aria-valuetext": `λ·tr F = ${sci(mass)}` });
    stiffness.textContent = `${sci(mass)}, of it ${sci(s.lam * s.stiffest)} in the stiffest weight`;
    const text = verdict(s);
    says.textContent = `λ = ${sci(s.lam)}. ${text}`;
    says.dataset.alarm = s.lam > roof ? "beyond" : s.lam > roof / 2 ? "close" : "";
    say(says.textContent);
    grip.show();
    eta.show(+Math.log10(s.rate).toFixed(4));

    counts.forEach(([key, f]) => f.show(model.get(key)));
    choices.forEach(([key, c]) => c.show(kind[key]));
    const ratio = abroad(spoken());
    ours.show(+s.lam.toPrecision(4));
    theirs.show(+(s.lam * ratio).toPrecision(4));
    formula.textContent = `their λ = ${sci(ratio, 4)} · our λ${kind.fisher === "batch" ? ", at an optimum, where a batch mean squared is F/B" : ""}`;
  }
  return bind(model, keys, draw, [ruler, losses, steps]);
}
export default { render };
