// Two quadratic valleys in two weights: the steps of seven methods, from task 1 into task 2. After kit.js.

export const NAMES = ["naive", "L2", "EWC", "rank 1", "full Fisher", "A-GEM", "ER"];
const STEPS = 1000, RATE = 0.01;

// ----------------------------------------------------------------------------------------------------- mathematics
// A symmetric matrix is [xx, xy, yy]; a state is { theta1, theta2, start, angle, kappa, lam }.

const outer = ([x, y], c) => [c * x * x, c * x * y, c * y * y];
const times = ([xx, xy, yy], [x, y]) => [xx * x + xy * y, xy * x + yy * y];
const plus = (a, b) => a.map((v, k) => v + b[k]);
const minus = (a, b) => a.map((v, k) => v - b[k]);
const scale = (c, a) => a.map((v) => c * v);
const dot = (a, b) => a.reduce((s, v, k) => s + v * b[k], 0);

export function axes(angle) { // unit vectors along the valley and across it
  const a = (angle * Math.PI) / 180;
  return [[Math.cos(a), Math.sin(a)], [-Math.sin(a), Math.cos(a)]];
}
export function hessian({ angle, kappa }) { // of L₁: 1/√κ along, √κ across; that of L₂ is the identity
  const [along, across] = axes(angle);
  return plus(outer(along, kappa ** -0.5), outer(across, kappa ** 0.5));
}
export function omega(method, state) { // what a method's penalty keeps of H₁
  const H = hessian(state);
  const keeps = { L2: [1, 0, 1], EWC: [H[0], 0, H[2]], "full Fisher": H,
    "rank 1": outer(axes(state.angle)[1], state.kappa ** 0.5) };
  return keeps[method] ?? [0, 0, 0];
}
export function losses(theta, state) {
  const [d1, d2] = [minus(theta, state.theta1), minus(theta, state.theta2)];
  return [0.5 * dot(d1, times(hessian(state), d1)), 0.5 * dot(d2, d2)];
}
export function joint({ theta1, theta2, ...state }) { // the minimum of L₁ + L₂: (H + I)⁻¹ (H θ₁* + θ₂*)
  const [a, b, c] = plus(hessian(state), [1, 0, 1]), [x, y] = plus(times(hessian(state), theta1), theta2);
  return [(c * x - b * y) / (a * c - b * b), (a * y - b * x) / (a * c - b * b)];
}

export function gradients(theta, state) { // g₁ and g₂
  return [times(hessian(state), minus(theta, state.theta1)), minus(theta, state.theta2)];
}

// All 2001 points of a path. Plain numbers, for this runs at every move of a hand.
export function walk(method, state) {
  const [a, b, c] = hessian(state), [p, q, r] = scale(state.lam, omega(method, state));
  const [x1, y1] = state.theta1, [x2, y2] = state.theta2, path = [];
  let [x, y] = state.start, ax = 0, ay = 0; // ax, ay: the anchor
  for (let k = 0; k <= 2 * STEPS; k++) {
    path.push([x, y]);
    if (k === STEPS) [ax, ay] = [x, y];
    const ux = a * (x - x1) + b * (y - y1), uy = b * (x - x1) + c * (y - y1); // g₁
    let gx = ux, gy = uy;
    if (k >= STEPS) {
      gx = x - x2 + p * (x - ax) + q * (y - ay);
      gy = y - y2 + q * (x - ax) + r * (y - ay);
      if (method === "ER") { gx += ux; gy += uy; }
      const against = gx * ux + gy * uy;
      if (method === "A-GEM" && against < 0) {
        const part = against / (ux * ux + uy * uy);
        gx -= part * ux;
        gy -= part * uy;
      }
    }
    x -= RATE * gx;
    y -= RATE * gy;
  }
  return path;
}

// Where the ring L₁ = 0.1 meets the valley's axis; and the angle and κ that put it there.
const RING = 0.1;
export const tip = ({ theta1, angle, kappa }, side = 1) =>
  plus(theta1, scale(side * (2 * RING) ** 0.5 * kappa ** 0.25, axes(angle)[0]));
export function shape(point, theta1) {
  const [x, y] = minus(point, theta1), degrees = (Math.atan2(y, x) * 180) / Math.PI;
  return { angle: (degrees + 180) % 180, kappa: clamp((x * x + y * y) ** 2 / (2 * RING) ** 2, 1, 100) };
}

// ----------------------------------------------------------------------------------------------------------- view

const KEYS = ["theta1", "theta2", "start", "angle", "kappa", "lam", "step", "methods"];
const EVERY = [...Array(2 * STEPS / 10 + 1).keys()].map((k) => 10 * k); // the points that are drawn
const LEVELS = [0.1, 0.4, 0.9, 1.6, 2.5, 3.6];
const TASKS = [{ color: "var(--blue)", dash: "", shape: "o" }, { color: "var(--vermillion)", dash: "4 2", shape: "s" }];
const LABELS = { EWC: "EWC (diagonal)", ER: "replay (ER)" };
const at = ([x, y]) => `(${num(x, 2)}, ${num(y, 2)})`;

function render({ model, el }) {
  const get = () => Object.fromEntries(KEYS.map((key) => [key, model.get(key)]));
  const initial = get(), save = () => model.save_changes();
  const put = (values) => Object.entries(values).forEach(([key, v]) => model.set(key, v));
  const looks = styles([...NAMES, "joint"]);

  // controls
  const toggles = NAMES.map((name) => [name, button([swatch(looks[name]), LABELS[name] ?? name], () => {
    const on = model.get("methods");
    put({ methods: on.includes(name) ? on.filter((m) => m !== name) : [...on, name] });
    save();
  })]);
  const sliders = {
    angle: slider("angle", { min: 0, max: 180, step: 1, words: (x) => `${num(x, 0)}°`,
      act: (angle) => put({ angle }), done: save }),
    kappa: slider("condition κ", { min: 0, max: 2, step: 0.02, words: (x) => sci(10 ** x),
      act: (x) => put({ kappa: 10 ** x }), done: save }),
    lam: slider("strength λ", { min: -2, max: 1, step: 0.05, words: (x) => sci(10 ** x),
      act: (x) => put({ lam: 10 ** x }), done: save }),
    step: slider("step", { min: 0, max: 2 * STEPS, step: 10, act: (step) => put({ step }), done: save,
      words: (k) => (k <= STEPS ? `${k}, on task 1` : `${k - STEPS}, on task 2`) }),
  };
  const reset = button("reset", () => { put(initial); save(); });

  // the plane
  const plane = plot("The two weights", { x: { range: [-3, 3], label: "θ₁" }, y: { range: [-2.2, 2.2], label: "θ₂" },
    equal: true });
  const rings = TASKS.map((look) => LEVELS.map(() => plane.lay("ellipse", { ...stroke(look, 1.2), opacity: 0.7 })));
  const first = plane.add("path", stroke(looks.joint, 2));
  const star = plane.add("path", { fill: looks.joint.color, class: "clt-mark" });
  const arrows = TASKS.map((look) => plane.add("path", { ...stroke({ color: look.color, dash: "" }, 3) }));

  // along the path
  const x = { range: [0, 2.04 * STEPS], label: "step" };
  const dots = plot("g₁·g₂ along the path", { x, y: { range: [-1, 1], label: "g₁·g₂ (below 0: conflict)" } });
  const forgets = plot("L₁ along the path", { x, y: { range: [0, 1], label: "L₁, the loss of task 1" } });
  const conflict = dots.add("rect", { fill: "var(--vermillion)", opacity: 0.12 });
  const panes = [dots, forgets].map((p) => ({ p, zero: p.add("path", { stroke: "var(--fg)", opacity: 0.6 }),
    turn: p.add("path", { stroke: "var(--grey)", "stroke-dasharray": "2 4" }),
    now: p.add("path", { stroke: "var(--fg)", "stroke-width": 1 }),
    words: ["task 1", "task 2"].map((w) => p.word(w, { "text-anchor": "middle", opacity: 0.85 })) }));
  const lines = Object.fromEntries(NAMES.map((name) => [name, [plane, dots, forgets].map((p) => [
    p.add("path", stroke(looks[name])), p.add("path", { fill: looks[name].color, class: "clt-mark" })])]));

  const point = (key, name, look) => handle(plane, name, { look, get: () => model.get(key), done: save,
    put: (p) => put({ [key]: p }), words: () => at(model.get(key)) });
  const visible = () => { // the end of the valley that lies inside the plot
    const state = get(), end = tip(state);
    return Math.abs(end[0]) <= 3 && Math.abs(end[1]) <= 2.2 ? end : tip(state, -1);
  };
  const handles = [
    point("theta1", "optimum of task 1, θ₁*", TASKS[0]), point("theta2", "optimum of task 2, θ₂*", TASKS[1]),
    point("start", "start of training", looks.naive),
    handle(plane, "end of the valley: angle and κ", { look: { ...TASKS[0], shape: "D" }, get: visible, done: save,
      put: (p) => put(shape(p, model.get("theta1"))),
      words: () => `angle ${num(model.get("angle"), 0)}°, κ ${sci(model.get("kappa"))}`,
      move: (key, far) => { // left and right turn, up and down stretch
        const state = get(), side = visible()[0] < state.theta1[0] ? -1 : 1;
        const turn = { ArrowLeft: 1, ArrowRight: -1 }[key] ?? 0;
        const kappa = clamp(state.kappa * 1.1 ** (far * ({ ArrowUp: 1, ArrowDown: -1 }[key] ?? 0)), 1, 100);
        return tip({ ...state, kappa, angle: state.angle + far * turn }, side);
      } }),
  ];
  const tips = TASKS.map(() => plane.word("", { "text-anchor": "middle" }));
  const names = ["θ₁*", "θ₂*", "start"].map((w) => plane.word(w, { "text-anchor": "middle" }));

  const body = make("tbody"), caption = make("caption", { class: "clt-hidden" });
  const head = (words) => make("th", { scope: "col" }, words), when = head("");
  const table = make("table", { class: "clt-numbers" }, caption,
    make("thead", {}, make("tr", {}, when, head("L₁"), head("L₂"), head("L₁ + L₂"))), body);
  const note = make("p", { class: "clt-note" });
  const { say } = frame(el, "Two valleys",
    make("div", { class: "clt-bar", role: "group", "aria-label": "Methods" }, ...toggles.map(([, b]) => b)),
    make("div", { class: "clt-panes clt-two" },
      make("div", {}, plane.node, make("div", { class: "clt-sliders" }, ...Object.values(sliders).map((s) => s.node)),
        make("div", { class: "clt-bar" }, reset)),
      make("div", {}, dots.node, forgets.node)),
    make("div", { class: "clt-panes clt-two" }, scroller("Losses, in numbers", table), note));

  function rescale(p, lo, hi) { // to round numbers that hold everything of task 2
    const marks = ticks(lo, hi, 4), apart = marks[1] - marks[0];
    const range = [Math.floor(lo / apart + 1e-9) * apart, Math.ceil(hi / apart - 1e-9) * apart];
    if (range.some((v, k) => v !== p.y.range[k])) { p.y.range = range; p.fit(); }
  }

  function draw() {
    const state = get(), shown = NAMES.filter((m) => state.methods.includes(m)), best = joint(state);
    const walks = Object.fromEntries(shown.map((m) => [m, walk(m, state)]));
    const path = walks[shown[0]] ?? walk("naive", state);
    const along = (way, f) => EVERY.map((k) => [k, f(way[k])]);
    const clash = (theta) => dot(...gradients(theta, state)), old = (theta) => losses(theta, state)[0];
    const measured = Object.fromEntries(shown.map((m) => [m, [along(walks[m], clash), along(walks[m], old)]]));

    // scales: of task 2, for the first steps on task 1 may be far up a wall
    const late = EVERY.findIndex((k) => k > 0.95 * STEPS);
    const second = (which) => shown.flatMap((m) => measured[m][which].slice(late).map(([, v]) => v));
    const [low, high] = [Math.min(0, ...second(0)), Math.max(0, ...second(0))];
    rescale(dots, Math.min(-0.5, low), Math.max(0.5, high, -low / 4));
    rescale(forgets, 0, Math.max(0.5, ...second(1)));

    // rings, of the same losses for both
    const unit = Math.abs(plane.X(1) - plane.X(0));
    [[state.theta1, state.kappa, state.angle], [state.theta2, 1, 0]].forEach(([[cx, cy], kappa, angle], task) =>
      rings[task].forEach((ring, k) => {
        const r = (2 * LEVELS[k]) ** 0.5 * unit;
        set(ring, { rx: r * kappa ** 0.25, ry: r / kappa ** 0.25,
          transform: `translate(${plane.X(cx)} ${plane.Y(cy)}) rotate(${-angle})` });
      }));
    set(star, { d: mark("^", plane.X(best[0]), plane.Y(best[1]), 7) });

    const px = (p, points) => join(points.map(([a, b]) => [p.X(a), p.Y(b)]));
    const part = (way, from, to) => EVERY.filter((k) => k >= from && k <= to).map((k) => way[k]);
    set(first, { d: px(plane, part(path, 0, STEPS)) });
    for (const name of NAMES) {
      const way = walks[name], here = way?.[state.step];
      const now = way && [here, [state.step, clash(here)], [state.step, old(here)]];
      lines[name].forEach(([line, head], k) => {
        const p = [plane, dots, forgets][k];
        set(line, { d: way ? px(p, k ? measured[name][k - 1] : part(way, STEPS, 2 * STEPS)) : "" });
        set(head, { d: way ? mark(looks[name].shape, p.X(now[k][0]), clamp(p.Y(now[k][1]), -9, 1e3), 6) : "" });
      });
    }
    for (const { p, zero, turn, now, words } of panes) {
      const [w, h] = p.size;
      set(zero, { d: `M0 ${p.Y(0)}H${w}` });
      set(turn, { d: `M${p.X(STEPS)} 0V${h}` });
      set(now, { d: `M${p.X(state.step)} 0V${h}` });
      words.forEach((word, k) => set(word, { x: p.X((k + 0.5) * STEPS), y: 16 }));
    }
    set(conflict, { x: 0, width: dots.size[0], y: dots.Y(0), height: Math.max(0, dots.size[1] - dots.Y(0)) });

    // downhill for both tasks, from the mark of the method that was switched on last
    const named = [state.theta1, state.theta2, state.start].map(([a, b]) => [plane.X(a), plane.Y(b) + (b < -1.6 ? -20 : 32)]);
    const clear = ([x, y]) => named.every(([a, b]) => Math.abs(a - x) > 30 || Math.abs(b - y) > 16);
    const lens = state.methods.at(-1), downhill = lens && gradients(walks[lens][state.step], state);
    ["−g₁", "−g₂"].forEach((words, k) => {
      const g = downhill?.[k], size = g && Math.hypot(...g);
      const on = lens && size > 1e-3;
      if (on) {
        const [ax, ay] = walks[lens][state.step], [ux, uy] = scale(-1 / size, g);
        const long = 16 + 34 * Math.tanh(size / 2);
        const from = [plane.X(ax), plane.Y(ay)], to = [from[0] + long * ux, from[1] - long * uy];
        const barb = (turn) => { // 8 pixels back from the tip, 25 degrees to one side
          const a = Math.atan2(-uy, ux) + Math.PI + turn;
          return [to[0] + 8 * Math.cos(a), to[1] + 8 * Math.sin(a)];
        };
        set(arrows[k], { d: join([from, to]) + join([barb(0.45), to, barb(-0.45)]) });
        const beside = [[14 * ux, -14 * uy], [20 * uy, 20 * ux], [-20 * uy, -20 * ux]] // beyond the tip, or on a side of it
          .map(([x, y]) => [to[0] + x, to[1] + y + 4]);
        const [x, y] = beside.find(clear) ?? beside[0];
        set(tips[k], { x, y });
      } else set(arrows[k], { d: "" });
      tips[k].textContent = on ? words : "";
    });

    handles.forEach((h) => h.show());
    named.forEach(([x, y], k) => set(names[k], { x, y }));
    for (const [name, b] of toggles) b.setAttribute("aria-pressed", String(state.methods.includes(name)));
    sliders.angle.show(state.angle);
    sliders.kappa.show(Math.log10(state.kappa));
    sliders.lam.show(Math.log10(state.lam));
    sliders.step.show(state.step);

    // numbers
    const rows = shown.map((m) => [m, losses(walks[m][state.step], state)]);
    rows.push(["joint", losses(best, state)]);
    const word = (m) => (m === "joint" ? "best for both ▲" : LABELS[m] ?? m);
    body.replaceChildren(...rows.map(([m, [a, b]]) => make("tr", {}, make("th", { scope: "row" }, word(m)),
      ...[a, b, a + b].map((v) => make("td", {}, num(v, 2))))));
    const where = sliders.step.node.querySelector("output").textContent;
    when.textContent = `step ${where}`;
    caption.textContent = `Losses of both tasks at step ${where}`;
    const [xx, xy, yy] = hessian(state);
    const nearest = rows.slice(0, -1).sort(([, a], [, b]) => a[0] + a[1] - b[0] - b[1])[0];
    note.textContent = `H₁ has ${num(xx, 2)} and ${num(yy, 2)} on its diagonal, which is all that EWC keeps of it, `
      + `and ${num(xy, 2)} beside it, which EWC drops. H₂ is the identity.`
      + (shown.length > 1 && state.step > STEPS ? ` At this step ${word(nearest[0])} comes nearest to the best for both.` : "");
    say(rows.map(([m, [a, b]]) => `${word(m).replace(" ▲", "")}: L₁ ${num(a, 2)}, L₂ ${num(b, 2)}`).join("; "));
  }
  return bind(model, KEYS, draw, [plane, dots, forgets]);
}
export default { render };
