// What no forgetting costs: the bills of four methods as tasks arrive. After kit.js.

// ----------------------------------------------------------------------------------------------------- mathematics

const sum = (all) => all.reduce((s, v) => s + v, 0);
export const pairs = (sizes) => sizes.slice(1).map((b, k) => [sizes[k], b]);
export const one = (sizes) => sum(pairs(sizes).map(([a, b]) => a * b + b)); // weights and biases of one network
export function even(x) { // rounds as Python does: a half to the even number
  const low = Math.floor(x), rest = x - low;
  return low + (rest > 0.5 || (rest === 0.5 && low % 2) ? 1 : 0);
}

// What each task adds: { name: [{ parameters, bits }, ...] }. PackNet as if every weight got a gradient.
export function bills({ sizes, tasks, keep, width }) {
  const weights = pairs(sizes).map(([a, b]) => a * b), each = [...Array(tasks).keys()], all = sum(weights);
  const biases = sum(sizes.slice(1)), last = sizes.at(-1), head = sizes.at(-2) * last + last;
  const small = head + sum(sizes.slice(1, -1).map((d) => 2 * width * d + d + width));
  let left = weights;
  const packed = each.map((k) => {
    const kept = left.map((n) => even(keep * n));
    left = left.map((n, l) => n - kept[l]);
    return sum(kept) + (k ? 0 : biases); // biases are fixed after task 1
  });
  const floats = (count) => each.map((k) => ({ parameters: count(k), bits: 32 * count(k) }));
  return {
    PackNet: packed.map((n) => ({ parameters: n, bits: 32 * n + all })), // and a mask of one bit a weight
    Progressive: floats((k) => all + biases + k * (all - weights[0])), // laterals into every layer but the first
    Adapters: floats((k) => small + (k ? 0 : all + biases - head)), // task 1 pays for the trunk
    SupSup: each.map(() => ({ parameters: 0, bits: all })), // masks alone: the weights are a seed
  };
}
export function shares({ sizes, ...state }) { // of PackNet's weights: each task's, and what is free after it
  const all = sum(pairs(sizes).map(([a, b]) => a * b)), biases = sum(sizes.slice(1));
  let free = 1;
  return bills({ sizes, ...state }).PackNet.map(({ parameters }, k) => {
    const owned = (parameters - (k ? 0 : biases)) / all;
    free -= owned;
    return { owned, free: Math.abs(free) < 1e-12 ? 0 : free };
  });
}
export const total = (list, key) => list.reduce((out, bill) => [...out, (out.at(-1) ?? 0) + bill[key]], []);

// ----------------------------------------------------------------------------------------------------------- view

const KEYS = ["sizes", "tasks", "keep", "width", "count", "scale"];
const MOST = 20;
const group = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ",");
const percent = (x) => `${num(100 * x, x && x < 0.1 ? 1 : 0)} %`;

export function verdict(state) {
  const { owned, free } = shares(state).at(-1), k = state.tasks;
  const all = sum(pairs(state.sizes).map(([a, b]) => a * b)), got = Math.round(owned * all);
  const last = `After ${k} task${k > 1 ? "s" : ""} PackNet has ${percent(free)} of its weights free; `
    + `task ${k} owns ${got ? `${group(got)} of ${group(all)}` : "none"}.`;
  const laterals = (k * (k - 1)) / 2 * (all - state.sizes[0] * state.sizes[1]);
  return `${last} Of Progressive's parameters ${percent(laterals / (laterals + k * one(state.sizes)))} are laterals.`;
}

function render({ model, el }) {
  const get = () => Object.fromEntries(KEYS.map((key) => [key, model.get(key)])), save = () => model.save_changes();
  const put = (key) => (v) => model.set(key, v), choose = (key) => (v) => { model.set(key, v); save(); };
  const names = ["PackNet", "Progressive", "Adapters", "SupSup"], ONE = "one network", EACH = "a network a task";
  const found = styles([...names, "naive", "joint"]);
  const looks = { ...Object.fromEntries(names.map((n) => [n, found[n]])), [EACH]: found.joint, [ONE]: found.naive };

  const count = choice("count", { bits: "bits", parameters: "parameters" }, choose("count"));
  const scale = choice("axis", { linear: "linear", log: "log" }, choose("scale"));
  const hidden = (width, depth) => {
    const sizes = model.get("sizes");
    model.set("sizes", [sizes[0], ...Array(depth).fill(width), sizes.at(-1)]);
  };
  const range = (name, min, max, step, words, act) => slider(name, { min, max, step, words, act, done: save });
  const sliders = {
    tasks: range("tasks", 1, MOST, 1, String, put("tasks")),
    keep: range("kept share", 0.05, 1, 0.05, (x) => `r = ${num(x, 2)}`, put("keep")),
    width: range("adapters", 1, 64, 1, (x) => `${x} wide`, put("width")),
    units: range("layers", 10, 500, 10, (x) => `${x} units`, (x) => hidden(x, model.get("sizes").length - 2)),
    depth: range("depth", 1, 5, 1, (x) => `${x} hidden`, (x) => hidden(model.get("sizes")[1], x)),
  };

  const x = { range: [0.4, MOST + 0.6], label: "tasks" };
  const grow = plot("The bill as tasks arrive", { x, y: { range: [0, 10], label: "in networks" } });
  const lines = Object.entries(looks).map(([name, look]) =>
    [name, grow.curve(look), grow.add("path", { ...stroke(look, 1.5), opacity: 0.35 })]);
  const pack = plot("PackNet's weights", { x,
    y: { range: [0, 1], label: "PackNet: a task's share (bars), free (line)" },
    height: (w) => clamp(0.45 * w, 170, 260) });
  const bars = [...Array(MOST)].map(() => pack.add("rect", { fill: looks.PackNet.color, opacity: 0.55 }));
  const free = pack.curve(looks.PackNet);

  const body = make("tbody"), note = make("p", { class: "clt-note" });
  const head = ["", "parameters", "kbit", "× one"].map((w) => make("th", { scope: "col" }, w));
  const caption = make("caption", { class: "clt-hidden" });
  const table = make("table", { class: "clt-numbers" }, caption, make("thead", {}, make("tr", {}, ...head)), body);
  const { say } = frame(el, "Capacity", make("div", { class: "clt-bar" }, count.node, scale.node), legend(looks),
    make("div", { class: "clt-panes clt-two" },
      make("div", {}, grow.node, make("div", { class: "clt-sliders" }, ...Object.values(sliders).map((s) => s.node))),
      make("div", {}, pack.node, scroller("The bill, in numbers", table), note)));

  function draw() {
    const state = get(), { sizes, tasks, count: key } = state, P = one(sizes), unit = key === "bits" ? 32 * P : P;
    const all = { ...bills({ ...state, tasks: MOST }) }; // the future is drawn faintly
    all[EACH] = Array(MOST).fill({ parameters: P, bits: 32 * P });
    all[ONE] = [all[EACH][0], ...Array(MOST - 1).fill({ parameters: 0, bits: 0 })];
    const sums = Object.fromEntries(Object.entries(all).map(([name, list]) => [name, total(list, key)]));

    // scale: what has arrived fills the plot
    const top = Math.max(...Object.values(sums).map((s) => s[tasks - 1])) / unit;
    const marks = ticks(0, top, 4), apart = marks[1] - marks[0], log = state.scale === "log";
    const y = log ? [0.01, 10 ** Math.ceil(Math.log10(top) + 1e-9)] : [0, Math.ceil(top / apart + 1e-9) * apart];
    const label = `${key}, in networks of ${group(P)} floats`;
    if (y.some((v, k) => v !== grow.y.range[k]) || log !== !!grow.y.log || label !== grow.y.label) {
      Object.assign(grow.y, { range: y, log, label });
      grow.fit();
    }
    for (const [name, line, ghost] of lines) {
      const points = sums[name].map((v, k) => [k + 1, log && !v ? NaN : v / unit]);
      line.to(points.slice(0, tasks));
      set(ghost, { d: join(points.slice(tasks - 1).map(([a, b]) => [grow.X(a), grow.Y(b)])) });
    }

    const left = shares(state);
    bars.forEach((bar, k) => {
      const v = left[k]?.owned ?? 0;
      set(bar, { x: pack.X(k + 0.65), width: pack.X(1.7) - pack.X(1), y: pack.Y(v), height: pack.Y(0) - pack.Y(v) });
    });
    free.to(left.map((s, k) => [k + 1, s.free]));

    const sofar = (name, k) => total(all[name], k)[tasks - 1];
    const rows = Object.keys(looks).map((name) => [name, sofar(name, "parameters"), sofar(name, "bits")]);
    body.replaceChildren(...rows.map(([name, n, bits]) => make("tr", {}, make("th", { scope: "row" }, name),
      ...[group(n), group(bits / 1000), num(bits / (32 * P), 2)].map((v) => make("td", {}, v)))));
    caption.textContent = `The bill for ${tasks} tasks`;
    count.show(key);
    scale.show(state.scale);
    sliders.tasks.show(tasks);
    sliders.keep.show(state.keep);
    sliders.width.show(state.width);
    sliders.units.show(sizes[1]);
    sliders.depth.show(sizes.length - 2);
    note.textContent = verdict(state);
    const spoken = rows.map(([name, , bits]) => `${name} ${num(bits / (32 * P), 2)} networks`);
    say(`${spoken.join(", ")}. ${note.textContent}`);
  }
  return bind(model, KEYS, draw, [grow, pack]);
}
export default { render };
