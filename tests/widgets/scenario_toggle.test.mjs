// node --test: one set of scores under three rules, the nearest mean, and the bias. CLT_CASES: from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { accuracies, bias, competing, histogram, hush, loudest, nearest, places, right, story, winner } =
  await load("scenario_toggle.js");
const owner = [0, 0, 1, 1], S = [[1, 0, 2, 3], [0, 5, 4, 3], [0, 1, 2, 2]], y = [0, 1, 3], t = [0, 0, 1];

test("three rules, worked by hand", () => {
  assert.deepEqual(competing("task", owner, 1), [false, false, true, true]);
  assert.deepEqual(competing("domain", owner, 1), [true, true, true, true]);
  assert.deepEqual(places([0, 1, 0, 1, 2]), [0, 0, 1, 1, 0]);
  assert.equal(winner([1, 7, 7], [true, true, true]), 1);
  assert.equal(winner([9, 7, -Infinity], [false, false, true]), 2);
  const judged = (rule) => S.map((s, k) => right(rule, s, y[k], t[k], owner));
  assert.deepEqual(judged("task"), [true, true, false]);
  assert.deepEqual(judged("domain"), [false, true, false]);
  assert.deepEqual(judged("class"), [false, true, false]);
  near(accuracies("task", S, y, t, owner).tasks, [1, 0]);
  near(accuracies("task", S, y, t, owner).all, 2 / 3);
});

test("hushing the last task's units and how loud they were", () => {
  assert.deepEqual(hush(S, owner, 2.5)[0], [1, 0, -0.5, 0.5]);
  assert.deepEqual(loudest(S, t, owner), { old: [1, 5], new: [3, 4] });
  assert.match(bias(S, t, owner), /^On 50 % of the old tasks' images/);
  near(histogram([0, 0.1, 0.5, 1], 0, 1, 2), [0.5, 0.5]);
});

test("an unknown mean is never nearest", () => {
  const s = nearest([[3, 4]], [[0, 0], null, [3, 3]]);
  assert.deepEqual(s, [[-5, -Infinity, -1]]);
});

test("the sentence says what was judged", () => {
  assert.equal(story("class", S[0], 0, 0, owner), "unit 3 wins, but unit 0 is right. Wrong.");
  assert.equal(story("task", S[0], 0, 0, owner), "unit 0 wins. Right.");
  assert.equal(story("domain", S[0], 0, 0, owner),
    "unit 3 wins, the second of its task; the first is right. Wrong.");
});

if (cases)
  test("equal to competing, NearestMean and BiasCorrection in Python", () => {
    assert.ok(cases.length >= 6);
    for (const c of cases) {
      const s = c.delta === undefined ? nearest(c.features, c.means) : hush(c.logits, c.owner, c.delta);
      const finite = s.map((row) => row.map((v) => (Number.isFinite(v) ? v : -1e9)));
      near(finite, c.scores);
      for (const [rule, expected] of Object.entries(c.right))
        assert.deepEqual(s.map((row, k) => right(rule, row, c.y[k], c.t[k], c.owner)), expected);
      for (const [rule, expected] of Object.entries(c.accuracies)) near(accuracies(rule, s, c.y, c.t, c.owner).tasks, expected);
    }
  });
