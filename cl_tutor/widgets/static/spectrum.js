// The k steepest directions of a Fisher; and a power iteration of six directions. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

const running = (v) => { let s = 0; return v.map((x) => (s += x)); };
export const shares = (values, trace) => running(values).map((s) => s / trace); // Σ_{j≤k} λ_j / tr F, for every k
export const foretold = (values, moved) => running(values.map((v, j) => 0.5 * v * moved[j])); // ½ Σ_{j≤k} λ_j (v_j·δ)²

// Σ_{j≤k} w_j v_jᵀP_ℓv_j / Σ w_j of each layer; w_j = 1, or λ_j if `weighted`.
export function layers(values, mass, k, weighted) {
  const w = values.slice(0, k).map((v) => (weighted ? v : 1)), total = w.reduce((s, v) => s + v, 0);
  return Object.fromEntries(Object.entries(mass).map(([n, m]) => [n, w.reduce((s, v, j) => s + v * m[j], 0) / total]));
}

// What the error 1 − vᵀFv/λ₁ comes to after many products: (1 − λ₂/λ₁)(c₂/c₁)²(λ₂/λ₁)²ᵗ, c the start's coordinates.
export const promised = (values, start, t) =>
  (1 - values[1] / values[0]) * (start[1] / start[0]) ** 2 * (values[1] / values[0]) ** (2 * t);

// λ₁ = 1, λ₂ = gap, and from there on each 0.7 of the one before.
export const small = (gap, count = 6) => [1, ...Array.from({ length: count - 1 }, (_, j) => gap * 0.7 ** j)];

// v ← Fv/‖Fv‖ for F = diag(values): after each product, v in the axes of F, vᵀFv and ‖Fv − vᵀFv v‖; `steps` + 1 of them.
export function power_iteration(values, start, steps) {
  const norm = (v) => Math.hypot(...v), unit = (v) => v.map((x) => x / norm(v)), found = [];
  let v = unit(start);
  for (let t = 0; t <= steps; t++) {
    const image = v.map((x, j) => values[j] * x), value = v.reduce((s, x, j) => s + x * image[j], 0);
    found.push({ v, value, residual: norm(image.map((y, j) => y - value * v[j])) });
    v = unit(image);
  }
  return found;
}

// ----------------------------------------------------------------------------------------------------------- words

export function verdict(values, trace, k) {
  const share = shares(values, trace), most = share.findIndex((s) => s >= 0.8) + 1;
  const half = share.findIndex((s) => s >= 0.5) + 1;
  const need = most ? `80 % need ${most}` : half ? `half of it needs ${half}` : `all ${values.length} shown hold ${num(share.at(-1), 2)}`;
  return `${k === 1 ? "The steepest direction holds" : `The ${k} steepest directions hold`} ${num(share[k - 1], 2)} of the trace; ${need}.`;
}

export function rule(now, before, values) {
  const change = Math.abs(now.value / before.value - 1), error = 1 - now.value / values[0];
  if (change < 1e-3 && error > 1e-3)
    return `A rule that stops when λ changes by less than 0.1 % would stop here, with λ off by ${num(100 * error, 2)} %.`;
  return error > 1e-3 ? "Not there yet." : "λ is right to 0.1 %.";
}

// ----------------------------------------------------------------------------------------------------------- view

const START = [0.25, 0.6, 0.45, 0.4, 0.35, 0.3], MOST = 60, TOP = LOOKS[2], REST = LOOKS[1];
const RISES = [LOOKS[6], LOOKS[5], LOOKS[0], LOOKS[7], LOOKS[1]];
const ERRORS = { "error of λ": LOOKS[2], "residual ‖Fv − λv‖": LOOKS[3], "change of λ in a step": LOOKS[4],
  "promised, ∝ (λ₂/λ₁)²ᵗ": LOOKS[0] };

function render({ model, el }) {
  const values = model.get("values"), trace = model.get("trace"), mass = model.get("mass");
  const moved = model.get("moved"), rises = model.get("rises"), K = values.length, parts = Object.keys(mass);
  const save = () => model.save_changes();
  const floor = (v) => 10 ** Math.floor(Math.log10(v)), roof = (v) => 10 ** Math.ceil(Math.log10(v));
  const tall = (w) => clamp(0.6 * w, 210, 270), direction = { range: [1, 1.06 * K], label: "directions k", log: K > 10 };
  if (direction.log) direction.ticks = [1, 3, 10, 30, 100, 300, 1000].filter((j) => j <= K).map((j) => [j, String(j)]);
  let weighted = false;

  const share = shares(values, trace), told = foretold(values, moved);
  const least = values.filter((v) => v > 1e-9 * values[0]).at(-1);
  const vPane = plot("Eigenvalues", { x: { ...direction, label: "direction" }, height: tall,
    y: { range: [floor(least), roof(values[0])], label: "eigenvalue λ", log: true } });
  const sPane = plot("Share of the trace", { x: direction, y: { range: [0, 1], label: "share of the trace" }, height: tall });
  const mPane = plot("Layer mass", { x: { range: [-0.6, parts.length - 0.4], ticks: false },
    y: { range: [0, 1], label: "where the k directions live" }, height: tall });
  const known = [...Object.values(rises), ...told].filter((v) => v > 0);
  const rPane = moved.length ? plot("Rise of the old loss", { x: direction, height: tall,
    y: { range: [floor(Math.min(...known)), roof(Math.max(...known))], label: "rise of the old loss", log: true } }) : null;

  // each line twice: what the first k say in colour, the rest in grey
  const twice = (p, v) => {
    const rest = p.curve(REST, 1.5), top = p.curve(TOP, 3), all = v.map((y, j) => [j + 1, y]);
    return (now) => { rest.to(all.slice(now - 1)); top.to(all.slice(0, now)); };
  };
  const columns = columnsIn(mPane, [TOP], parts.length), places = namesBelow(mPane, parts);
  const looks = Object.fromEntries(Object.keys(rises).map((n, j) => [n, RISES[j % 5]]));
  const levels = Object.values(looks).map((look) => rPane?.curve(look, 2));
  const pieces = [twice(vPane, values), twice(sPane, share), ...(rPane ? [twice(rPane, told)] : [])];
  const lines = [vPane, sPane, rPane].filter(Boolean).map((p) => [p, p.add("path", { stroke: "var(--fg)", "stroke-dasharray": "2 3" })]);
  const k = slider("top k", { min: 1, max: K, step: 1, words: (v) => `${v} of ${K}`, act: (v) => model.set("k", v), done: save });
  const weigh = choice("mass", { false: "each direction alike", true: "weighted by λ" }, (v) => { weighted = v === "true"; draw(); });
  const says = make("p", { class: "clt-note clt-two-lines" });
  const heads = ["share of the trace", ...(rPane ? ["½ δᵀFδ from the top k", ...Object.keys(rises)] : [])];
  const rows = heads.map((name) => [make("th", { scope: "row" }, name), make("td")]);
  const table = make("table", { class: "clt-numbers" }, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row))));

  // the power iteration
  const axes = ["v₁", "v₂", "v₃", "v₄", "v₅", "v₆"];
  const cPane = plot("Where v points", { x: { range: [-0.6, 5.6], ticks: false },
    y: { range: [0, 1], label: "share of v in each eigenvector" }, height: tall });
  const ePane = plot("Errors of the power iteration", { x: { range: [-1, MOST + 1], label: "products with F" },
    y: { range: [1e-8, 1], label: "relative to λ₁", log: true }, height: tall });
  const shown = columnsIn(cPane, [LOOKS[3]], 6), below = namesBelow(cPane, axes);
  const errors = Object.values(ERRORS).map((look, j) => ePane.curve(look, j === 3 ? 1.5 : 2.2));
  const gap = slider("gap λ₂/λ₁", { min: 0.2, max: 0.99, step: 0.01, words: (g) => num(g, 2), act: (g) => model.set("gap", g), done: save });
  const go = (n) => () => { model.set("steps", Math.min(MOST, n ? model.get("steps") + n : 0)); save(); };
  const buttons = [["one product", 1], ["ten products", 10], ["start again", 0]].map(([name, n]) => button(name, go(n)));
  const told2 = make("p", { class: "clt-note clt-two-lines" });

  const pane = (one, looked) => make("div", {}, ...(looked ? [legend(looked)] : []), one.node);
  const { say } = frame(el, "The Fisher spectrum", k.node, says,
    make("div", { class: "clt-panes clt-two" }, pane(vPane), pane(sPane), make("div", {}, weigh.node, mPane.node),
      ...(rPane ? [pane(rPane, { "top k": TOP, ...looks })] : [])), table,
    make("div", { class: "clt-translator", role: "group", "aria-label": "Power iteration" },
      make("p", { class: "clt-note" }, "Power iteration on six directions, λ = 1, λ₂, 0.7 λ₂, …: multiply v by F, again and again."),
      gap.node, make("div", { class: "clt-bar" }, ...buttons), told2,
      make("div", { class: "clt-panes clt-two" }, pane(cPane), pane(ePane, ERRORS))));

  function draw() {
    const now = model.get("k"), spread = layers(values, mass, now, weighted);
    pieces.forEach((piece) => piece(now));
    columns([parts.map((n) => spread[n])]);
    places();
    Object.values(rises).forEach((v, j) => levels[j]?.to([[1, v], [K, v]]));
    lines.forEach(([p, node]) => node.setAttribute("d", `M${p.X(now)} 0V${p.size[1]}`));
    [num(share[now - 1]), ...(rPane ? [sci(told[now - 1]), ...Object.values(rises).map((v) => sci(v))] : [])]
      .forEach((words, j) => { rows[j][1].textContent = words; });
    const first = parts.reduce((a, b) => (spread[b] > spread[a] ? b : a));
    says.textContent = `${verdict(values, trace, now)} Most of their mass is in ${first}, ${num(spread[first], 2)}.`;
    k.show(now);
    weigh.show(weighted);
  }
  function iterate() {
    const g = model.get("gap"), t = model.get("steps"), lam = small(g), path = power_iteration(lam, START, MOST);
    shown([path[t].v.map((x) => x * x)]);
    below();
    const seen = path.slice(0, t + 1);
    const series = [(p) => 1 - p.value, (p) => p.residual, (p, j) => (j ? p.value - path[j - 1].value : NaN)];
    series.forEach((f, j) => errors[j].to(seen.map((p, s) => [s, f(p, s)]).map(([a, b]) => [a, b > 1e-12 ? b : NaN])));
    errors[3].to(path.map((_, s) => [s, promised(lam, START, s)]));
    told2.textContent = `After ${t} product${t === 1 ? "" : "s"} λ ≈ ${num(path[t].value, 5)}, residual ${sci(path[t].residual)}, `
      + `${num(path[t].v[0] ** 2, 3)} of v in v₁. ${t ? rule(path[t], path[t - 1], lam) : ""}`;
    gap.show(g);
    buttons.slice(0, 2).forEach((b) => { b.disabled = t >= MOST; });
  }
  const spoken = (f, node) => () => { f(); say(node.textContent); };
  const stop = [bind(model, ["k"], spoken(draw, says), [vPane, sPane, mPane, rPane].filter(Boolean)),
    bind(model, ["gap", "steps"], spoken(iterate, told2), [cPane, ePane])];
  return () => stop.forEach((f) => f());
}
export default { render };
