// node --test: means over seeds, the grid's stops, and what is said of a run. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { average, best, compare, path, snap, spread, symbol, told } = await load("lambda_explorer.js");
const point = (acc, seeds = acc.length) => ({ acc, forgetting: acc.map((a) => 1 - a), R: [], seeds, why: "task 2" });
const ewc = { name: "EWC", option: "ewc.lam", values: [0.1, 1, 10, 100],
  points: [point([0.5, 0.7]), point([0.8, 0.9]), point([0.85], 2), point([], 2)] };

test("means and standard deviations, also of one seed and of none", () => {
  near(average([0.5, 0.7]), 0.6);
  near(spread([0.5, 0.7]), Math.sqrt(0.02));
  assert.equal(spread([0.5]), 0);
  assert.ok(Number.isNaN(average([])));
  near(path(ewc.points.slice(0, 2), "forgetting").map(({ mean }) => mean), [0.4, 0.15]);
});

test("the nearest stop is the nearest by ratio, and the best skips what diverged", () => {
  assert.deepEqual([0.01, 0.3, 0.4, 31, 33, 1e9].map((x) => snap(x, ewc.values)), [0, 0, 1, 2, 3, 3]);
  assert.equal(best(ewc.points), 1);
  assert.equal(best([point([], 1), point([0.2])]), 1);
  assert.equal(best([point([0.9], 2), point([0.2])]), 1);
  assert.equal(best([point([0.2]), point([0.2])]), 0);
});

test("a diverged run is said", () => {
  assert.equal(told(ewc, 1, ewc.points[1]),
    "EWC, λ = 1: ACC 0.850 ± 0.071, forgetting 0.150 ± 0.071, mean ± sd over 2 seeds.");
  assert.match(told(ewc, 10, ewc.points[2]), /over 1 seed\. 1 of 2 runs diverged \(task 2\)$/);
  assert.equal(told(ewc, 100, ewc.points[3]), "EWC, λ = 100: no number, for every run diverged (task 2)");
});

test("a run of one's own is set beside the band of its neighbour", () => {
  const run = (value, acc) => compare({ value, seed: 5, acc: [acc], forgetting: [0.1] }, ewc);
  assert.match(run(1.2, 0.8), /^λ = 1\.2, seed 5: ACC 0\.800.*at 1: ACC 0\.850 ± 0\.071, so it lies inside/);
  assert.match(run(1.2, 0.7), /outside the band/);
  assert.match(run(90, 0.7), /at 100, every run diverged/);
  assert.deepEqual(["ewc.lam", "lwf.alpha", "er.slots"].map(symbol), ["λ", "α", "slots"]);
});

if (cases)
  test("equal to Python's means and standard deviations of the runs", () => {
    assert.ok(cases.length >= 10);
    for (const { points, acc, forgetting, best: k } of cases) {
      for (const [key, expected] of [["acc", acc], ["forgetting", forgetting]]) {
        const found = path(points, key);
        near(found.map(({ mean }) => mean), expected.map(([m]) => m));
        near(found.map(({ sd }) => sd), expected.map(([, s]) => s));
      }
      assert.equal(best(points), k);
    }
  });
