// A stream flows by, and M slots keep some of it: five rules without their names. After kit.js.

// ---------------------------------------------------------------------------------------------------- mathematics

// Numbers uniform in [0, 1), the same from the same seed (mulberry32).
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The j of offer i, counted from 0, out of a number u in [0, 1). Only the first is Vitter's.
const DRAWS = {
  reservoir: (i, u) => Math.floor(u * (i + 1)),
  early: (i, u) => Math.floor(u * i),
  late: (i, u) => Math.floor(u * (i + 2)),
  always: (i, u, M) => Math.floor(u * M),
  ring: (i, u, M) => i % M,
};
// The slot that offer i takes, or −1. The first M offers fill the slots, whatever the rule.
export function slot(rule, i, u, M) {
  const j = i < M ? i : DRAWS[rule](i, u, M);
  return j < M ? j : -1;
}

// Which offers lie in the slots once the offers with these numbers have gone by.
export function fill(rule, M, us) {
  const slots = [];
  us.forEach((u, i) => { const j = slot(rule, i, u, M); if (j >= 0) slots[j] = i; });
  return slots;
}

// The chance that each of n offers is kept at the end.
export function chance(rule, M, n) {
  const first = (i) => i < M;
  const at = {
    reservoir: () => M / n,
    early: (i) => (first(i) ? M - 1 : M) / (n - 1),
    late: (i) => (first(i) ? M + 1 : M) / (n + 1),
    always: (i) => (1 - 1 / M) ** (n - Math.max(i + 1, M)),
    ring: (i) => +(i >= n - M),
  }[rule];
  return [...Array(n).keys()].map(at);
}

// The standard deviation of a frequency over N streams, where the chance is p.
export const sd = (p, N) => Math.sqrt((p * (1 - p)) / N);

// How many frequencies lie further from M/n than two of their standard deviations.
export function outside(counts, N, M) {
  const p = M / counts.length;
  return counts.filter((c) => Math.abs(c / N - p) > 2 * sd(p, N)).length;
}

// ---------------------------------------------------------------------------------------------------------- words

const IS = {
  reservoir: "offer i, counted from 0, draws j from {0 … i}, and takes slot j if there is one",
  early: "j comes from {0 … i − 1}: the newest enter too often, and the first are pushed out",
  late: "j comes from {0 … i + 1}: the newest enter too seldom, and the first stay too long",
  always: "every offer enters, into a slot drawn at random: the past fades",
  ring: "slot i mod M: the last M offers, and nothing else",
};
const SIGN = {
  early: (M) => `its first ${M} offers are kept less often than the rest. Over few streams this looks like noise.`,
  late: (M) => `its first ${M} offers are kept more often than the rest. Over few streams this looks like noise.`,
  always: () => "the later an offer comes, the better its chance.",
  ring: (M) => `only the last ${M} offers are ever kept.`,
};
const many = (N, thing) => `${N.toLocaleString("en")} ${thing}${N === 1 ? "" : "s"}`;

export function verdict(rule, letter, M, n) {
  if (rule !== "reservoir") return `Not ${letter}: ${SIGN[rule](M)}`;
  return `Yes, ${letter} is the reservoir: every offer is kept with the chance M/n = ${num(M / n)}, whenever it came.`;
}

// What the latest offer did. It does not say which j was drawn: that would give the rule away.
export function event(rule, M, us) {
  const i = us.length - 1;
  if (i < 0) return "No offer has come yet.";
  const j = slot(rule, i, us[i], M);
  if (j < 0) return `Offer ${i + 1} passes by.`;
  const gone = fill(rule, M, us.slice(0, i))[j];
  return `Offer ${i + 1} takes slot ${j + 1}${gone === undefined ? "" : `; offer ${gone + 1} is gone`}.`;
}

export function tally(counts, N, M) {
  if (!N) return "No stream has ended yet. Watch one offer by offer, or let whole streams flow by.";
  const k = outside(counts, N, M);
  return `${many(N, "stream")}: ${k} of ${counts.length} bars ${k === 1 ? "lies" : "lie"} outside the grey band, ` +
    "M/n ± 2 sd. A true reservoir has about 1 there.";
}

// ----------------------------------------------------------------------------------------------------------- view

function render({ model, el }) {
  const n = model.get("offers"), rules = model.get("rules");
  const letters = Object.fromEntries(rules.map((rule, k) => ["ABCDE"[k], rule]));
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let letter = "A", draw1, us, gone, N, counts, known = new Set(), said = "", timer = 0;

  const flow = plot("The stream above, the slots below",
    { x: { range: [0, n], ticks: false }, y: { range: [0, 1], ticks: false, left: 50 }, height: () => 176 });
  const bars = plot("How often each offer was kept", { height: (w) => clamp(0.42 * w, 210, 300),
    x: { range: [0, n], label: "place in the stream", ticks: false },
    y: { range: [0, 1], label: "share of streams that kept it" } });
  const band = bars.add("rect", { class: "clt-band" });
  const hist = bars.add("path", { class: "clt-bars" });
  const aim = bars.add("path", { ...stroke({ color: "var(--fg)", dash: "" }, 2) });
  const theory = bars.add("path", stroke({ color: "var(--vermillion)", dash: "7 3" }, 3));
  const label = bars.word("", { "text-anchor": "end" });

  const pick = choice("rule", Object.fromEntries(Object.keys(letters).map((l) => [l, l])), (l) => {
    letter = l;
    said = "";
    draw();
  });
  const size = slider("slots M", { min: 2, max: Math.min(10, n - 1), step: 1, words: (x) => `${x} of ${n} offers`,
    act: (x) => model.set("slots", x), done: () => model.save_changes() });
  const next = button("next offer", () => { pause(); step(); draw(); });
  const play = button("play", () => (timer ? pause() : start()));
  const runs = [1, 100, 10000].map((k) => button(many(k, "stream"), () => { pause(); flowBy(k); draw(); }));
  const guess = button("", () => {
    said = verdict(letters[letter], letter, model.get("slots"), n);
    (letters[letter] === "reservoir" ? Object.keys(letters) : [letter]).forEach((l) => known.add(l));
    draw();
  });
  const news = make("p", { class: "clt-note" }), score = make("p", { class: "clt-note" });
  const answer = make("p", { class: "clt-note" }), list = make("ul", { class: "clt-note" });
  const { root, say } = frame(el, "Reservoir",
    make("p", { class: "clt-note" }, "One of these five rules keeps every offer with the same chance. Which?"),
    make("div", { class: "clt-bar" }, pick.node), flow.node,
    make("div", { class: "clt-bar" }, next, play), news, bars.node,
    make("div", { class: "clt-bar" }, ...runs, button("start again", () => { reset(); draw(); })), score, size.node,
    make("div", { class: "clt-bar" }, guess), answer, list);
  root.classList.remove("clt-wide");

  function reset() {
    pause();
    draw1 = random(model.get("seed"));
    N = 0;
    us = [];
    gone = 0;
    counts = Object.fromEntries(Object.keys(letters).map((l) => [l, Array(n).fill(0)]));
  }
  // Every rule is offered the same streams, with the same numbers.
  function enough() {
    N += 1;
    for (const [l, rule] of Object.entries(letters))
      for (const i of fill(rule, model.get("slots"), us)) counts[l][i] += 1;
  }
  function step() {
    if (us.length === n) us = [];
    us.push(draw1());
    if (us.length === n) enough();
  }
  function flowBy(k) {
    for (const end = N + k; N < end;) step(); // the stream that is being watched is the first of them
  }
  function start() {
    if (calm) { do step(); while (us.length < n); return draw(); }
    play.textContent = "pause";
    timer = setInterval(() => { step(); draw(); if (us.length === n) pause(); }, 450);
  }
  function pause() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "play";
  }

  function drawFlow(M, held) {
    const [w] = flow.size, cell = w / n, side = Math.min(38, (w - 8 * M) / M), last = us.length - 1;
    const x = (j) => (w - M * (side + 8)) / 2 + j * (side + 8) + 4;
    const word = (text, y) => svg("text", { x: -8, y, "text-anchor": "end" }, text);
    const parts = [word("offers", 29), word("slots", 127)];
    const box = (at, y, wide, high, words, state) => parts.push(
      svg("rect", { x: at, y, width: wide, height: high, rx: 4, class: `clt-box clt-${state}` }),
      svg("text", { x: at + wide / 2, y: y + high / 2 + 4.5, "text-anchor": "middle",
        style: `font-size: ${Math.min(13, wide * 0.72)}px` }, words));
    for (let i = 0; i < n; i++)
      box(i * cell + 1, 8, cell - 2, 34, String(i + 1), i > last ? "waits" : held.includes(i) ? "kept" : "gone");
    for (let j = 0; j < M; j++)
      if (held[j] === undefined) box(x(j), 104, side, 38, "", "waits");
      else box(x(j), 104, side, 38, String(held[j] + 1), "kept");
    if (last >= 0) {
      const j = held.indexOf(last), from = (last + 0.5) * cell;
      const [tx, ty] = j < 0 ? [from, 72] : [x(j) + side / 2, 98];
      const look = { color: "var(--vermillion)", dash: j < 0 ? "4 4" : "" };
      parts.push(svg("path", { d: `M${from} 44L${tx} ${ty}`, ...stroke(look) }),
        svg("path", { d: mark("v", tx, ty, 6), fill: "var(--vermillion)" }));
    }
    flow.over.replaceChildren(...parts);
  }
  function drawBars(M) {
    const c = counts[letter], p = M / n, spread = N ? 2 * sd(p, N) : 0;
    const heights = c.map((k) => (N ? k / N : 0)), calc = chance(letters[letter], M, n), seen = known.has(letter);
    const top = Math.min(1, 1.15 * Math.max(2 * p, p + spread, ...heights, ...(seen ? calc : [])));
    if (bars.y.range[1] !== top) { bars.y.range = [0, top]; bars.fit(); }
    const [w, h] = bars.size, cell = w / n, down = (v) => bars.Y(Math.max(0, v)).toFixed(2);
    hist.setAttribute("d", heights.map((v, i) => `M${(i + 0.1) * cell} ${h}V${down(v)}h${0.8 * cell}V${h}Z`).join(""));
    set(band, { x: 0, width: w, y: down(p + spread), height: down(p - spread) - down(p + spread) });
    aim.setAttribute("d", `M0 ${down(p)}H${w}`);
    const steps = calc.flatMap((v, i) => [[i * cell, bars.Y(v)], [(i + 1) * cell, bars.Y(v)]]);
    theory.setAttribute("d", seen ? join(steps) : "");
    label.textContent = `M/n = ${num(p, 2)}`;
    set(label, { x: w - 4, y: down(p + spread) - 6 });
  }
  function draw() {
    const M = model.get("slots"), rule = letters[letter];
    drawFlow(M, fill(rule, M, us));
    drawBars(M);
    pick.show(letter);
    size.show(M);
    news.textContent = event(rule, M, us);
    score.textContent = tally(counts[letter], N, M);
    guess.textContent = `${letter} is the reservoir`;
    answer.textContent = said;
    const revealed = Object.keys(letters).filter((l) => known.has(l));
    list.replaceChildren(...revealed.map((l) => make("li", {}, `${l}: ${IS[letters[l]]}.`)));
    list.hidden = !known.size;
    say(`Rule ${letter}. ${timer ? "" : news.textContent} ${score.textContent} ${said}`);
  }
  const again = () => { reset(); said = ""; draw(); };

  reset();
  model.on("change:slots", again);
  const unbind = bind(model, [], draw, [flow, bars]);
  return () => { pause(); unbind(); model.off("change:slots", again); };
}
export default { render };
