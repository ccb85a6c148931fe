// An R to edit. R[i][j]: accuracy on task j after training on task i; b[j]: before any training. After kit.js.

const mean = (v) => (v.length ? v.reduce((s, x) => s + x, 0) / v.length : NaN);

// Each metric is a mean over tasks of plus, or plus - minus. A cell is [row, column]; row -1 is b.
export function terms(metric, R) {
  const T = R.length, last = T - 1;
  const tasks = [...Array(T).keys()];
  const best = (j) => tasks.slice(0, last).reduce((k, i) => (R[i][j] > R[k][j] ? i : k), 0);
  return {
    acc: () => tasks.map((j) => ({ plus: [last, j] })),
    forgetting: () => tasks.slice(0, last).map((j) => ({ plus: [best(j), j], minus: [last, j] })),
    bwt: () => tasks.slice(0, last).map((j) => ({ plus: [last, j], minus: [j, j] })),
    fwt: () => tasks.slice(1).map((j) => ({ plus: [j - 1, j], minus: [-1, j] })),
  }[metric]();
}

const cell = (R, b, [i, j]) => (i < 0 ? b[j] : R[i][j]);

export function value(metric, R, b) {
  return mean(terms(metric, R).map(({ plus, minus }) => cell(R, b, plus) - (minus ? cell(R, b, minus) : 0)));
}

export function metrics(R, b) {
  return Object.fromEntries(["acc", "forgetting", "bwt", "fwt"].map((metric) => [metric, value(metric, R, b)]));
}

export const transpose = (R) => R.map((_, i) => R.map((row) => row[i]));

// ---------------------------------------------------------------------------------------------------------- words

const METRICS = {
  acc: ["ACC", "the mean of the last row"],
  forgetting: ["forgetting", "the mean of: best before the end, minus the last row"],
  bwt: ["BWT", "the mean of: last row, minus the diagonal"],
  fwt: ["FWT", "the mean of: just before training on the task, minus before any training"],
};

export function sentence(metric, R, b) {
  const parts = terms(metric, R).map(({ plus, minus }) => {
    const p = num(cell(R, b, plus), 2);
    return minus ? `(${p} − ${num(cell(R, b, minus), 2)})` : p;
  });
  const [name, idea] = METRICS[metric];
  if (!parts.length) return `${name} needs at least two tasks.`;
  return `${name} is ${idea}: (${parts.join(" + ")}) / ${parts.length} = ${num(value(metric, R, b))}`;
}

// ----------------------------------------------------------------------------------------------------------- view

function render({ model, el }) {
  const presets = model.get("presets");
  let lit = "acc", peek = null, flipped = false, before = null, chosen = Object.keys(presets)[0], inputs = new Map();

  const choices = Object.keys(presets).map((name) => button(name, () => load(name)));
  const flip = button("transpose R", () => {
    flipped = !flipped;
    before = flipped ? metrics(model.get("R"), model.get("b")) : null;
    write(transpose(model.get("R")), model.get("b"));
  });
  const table = make("table");
  const meters = Object.keys(METRICS).map((key) => {
    const out = make("strong"), was = make("small");
    const node = button("", () => { lit = key; draw(); });
    node.append(make("span", {}, METRICS[key][0]), out, was);
    for (const [event, k] of [["pointerenter", key], ["pointerleave", null], ["focus", key], ["blur", null]])
      node.addEventListener(event, () => { peek = k; draw(); });
    return { key, node, out, was };
  });
  const says = make("p", { class: "clt-says", "aria-live": "polite" });
  const trap = make("p", { class: "clt-trap", role: "status" });
  const root = make("div", { class: "clt clt-r", role: "group", "aria-label": "Accuracy matrix editor" },
    make("div", { class: "clt-bar", role: "group", "aria-label": "Presets" }, ...choices),
    scroller("Accuracies", table),
    make("div", { class: "clt-meters", role: "group", "aria-label": "Metrics" }, ...meters.map((m) => m.node)),
    says, make("div", { class: "clt-bar" }, flip), trap);
  keepKeys(root);

  function write(R, b) {
    model.set("R", R);
    model.set("b", b);
    model.save_changes();
  }
  function load(name) {
    chosen = name;
    flipped = false;
    before = null;
    write(presets[name].R, presets[name].b);
  }
  function edit(i, j, x) {
    const R = model.get("R").map((row) => row.slice()), b = model.get("b").slice();
    if (i < 0) b[j] = x; else R[i][j] = x;
    chosen = null;
    before = null;
    write(R, b);
  }

  function field(i, j) {
    const on = `accuracy on task ${j + 1}`;
    const label = i < 0 ? `b: ${on} before training` : `R: ${on} after training on task ${i + 1}`;
    const input = make("input", { type: "number", min: 0, max: 1, step: 0.05, "aria-label": label });
    input.addEventListener("input", () => {
      const x = input.value === "" ? NaN : Number(input.value), ok = x >= 0 && x <= 1;
      input.setAttribute("aria-invalid", String(!ok));
      if (ok) edit(i, j, x);
      else if (input.value !== "") says.textContent = "An accuracy lies between 0 and 1.";
    });
    input.addEventListener("blur", () => { input.removeAttribute("aria-invalid"); draw(); });
    inputs.set(`${i},${j}`, input);
    return make("td", {}, input);
  }
  function build(T) {
    inputs = new Map();
    const tasks = [...Array(T).keys()];
    const head = (scope, text) => make("th", { scope }, text);
    const names = ["accuracy on", ...tasks.map((j) => `task ${j + 1}`)];
    const after = (i) => head("row", i < 0 ? "before training" : `after task ${i + 1}`);
    const row = (i) => make("tr", {}, after(i), ...tasks.map((j) => field(i, j)));
    table.replaceChildren(
      make("thead", {}, make("tr", {}, ...names.map((name) => head("col", name)))),
      make("tbody", {}, row(-1), ...tasks.map(row)));
  }

  function draw() {
    const R = model.get("R"), b = model.get("b");
    if (b.length !== R.length) return; // half of a new preset has arrived
    if (inputs.size !== R.length * (R.length + 1)) build(R.length);
    for (const [key, input] of inputs) {
      const x = cell(R, b, key.split(",").map(Number));
      if (input !== input.getRootNode().activeElement) // never under the reader's fingers
        input.value = x.toFixed(2);
      input.parentNode.style.setProperty("--share", `${Math.round(x * 100)}%`);
      delete input.parentNode.dataset.sign;
    }
    const now = peek ?? lit, m = metrics(R, b);
    for (const { plus, minus } of terms(now, R)) {
      inputs.get(plus.join()).parentNode.dataset.sign = "+";
      if (minus) inputs.get(minus.join()).parentNode.dataset.sign = "−";
    }
    for (const { key, node, out, was } of meters) {
      node.setAttribute("aria-pressed", String(key === lit));
      out.textContent = num(m[key]);
      was.textContent = before ? `was ${num(before[key])}` : "";
    }
    choices.forEach((node) => node.setAttribute("aria-pressed", String(node.textContent === chosen && !flipped)));
    flip.setAttribute("aria-pressed", String(flipped));
    says.textContent = sentence(now, R, b);
    trap.textContent = flipped
      ? "A common slip: rows and columns are swapped, and nothing complains. Which numbers moved, and would you see it?"
      : "";
  }

  el.append(root);
  model.on("change:R", draw);
  model.on("change:b", draw);
  draw();
  return () => { model.off("change:R", draw); model.off("change:b", draw); };
}
export default { render };
