// node --test: five rules of what to keep, against cl_tutor's own Reservoir and its mutants. CLT_CASES: from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { chance, event, fill, outside, random, sd, slot, tally, verdict } = await load("reservoir_stream.js");
const RULES = ["reservoir", "early", "late", "always", "ring"];

test("the same seed gives the same numbers, and they are uniform", () => {
  const draw = random(3), again = random(3), numbers = [...Array(50000)].map(draw);
  assert.deepEqual(numbers.slice(0, 9), [...Array(9)].map(again));
  assert.notEqual(random(4)(), numbers[0]);
  assert.ok(numbers.every((u) => u >= 0 && u < 1));
  const cells = Array(20).fill(0);
  numbers.forEach((u) => { cells[Math.floor(20 * u)] += 1; });
  assert.ok(cells.reduce((s, c) => s + (c - 2500) ** 2 / 2500, 0) < 43.8); // chi-square, 19 degrees, 1 in 1,000
});

test("a few draws by hand", () => {
  assert.deepEqual(RULES.map((rule) => slot(rule, 4, 0.5, 3)), [2, 2, -1, 1, 1]);
  assert.deepEqual(RULES.map((rule) => slot(rule, 1, 0.9, 3)), [1, 1, 1, 1, 1]);
  assert.deepEqual(fill("reservoir", 2, [0.5, 0.5, 0, 0.9]), [2, 1]);
});

test("over many streams the frequencies come to the chances, and the band tells the rules apart", () => {
  const M = 5, n = 20, N = 20000;
  for (const rule of RULES) {
    const draw = random(1), counts = Array(n).fill(0), p = chance(rule, M, n);
    for (let r = 0; r < N; r++) for (const i of fill(rule, M, [...Array(n)].map(draw))) counts[i] += 1;
    counts.forEach((c, i) => assert.ok(Math.abs(c / N - p[i]) <= 4.5 * sd(p[i], N), `${rule} ${i}`));
    assert.equal(outside(counts, N, M) <= 4, rule === "reservoir");
  }
});

test("the words do not give the rule away, and the verdict says what to look at", () => {
  assert.equal(event("ring", 2, [0.1, 0.2, 0.3]), "Offer 3 takes slot 1; offer 1 is gone.");
  assert.equal(event("reservoir", 2, [0.1, 0.2, 0.99]), "Offer 3 passes by.");
  assert.equal(event("always", 2, []), "No offer has come yet.");
  assert.match(verdict("reservoir", "C", 5, 20), /^Yes, C .* M\/n = 0\.250/);
  assert.match(verdict("early", "D", 5, 20), /^Not D: its first 5 offers are kept less often/);
  assert.match(tally(Array(20).fill(25), 100, 5), /^100 streams: 0 of 20 bars lie outside/);
});

if (cases) {
  test("the random numbers are those of the Python twin, bit for bit", () => {
    for (const { seed, numbers } of cases.random) {
      const draw = random(seed);
      assert.deepEqual(numbers.map(draw), numbers);
    }
  });
  test("fed the same numbers, every rule keeps what cl_tutor's Reservoir or its mutant keeps", () => {
    assert.ok(cases.streams.length >= 100);
    for (const { rule, M, us, kept } of cases.streams) assert.deepEqual(fill(rule, M, us), kept);
  });
  test("the chances are those of all equally likely draws, counted", () => {
    for (const { rule, M, n, p } of cases.chances) near(chance(rule, M, n), p, 1e-12);
  });
}
