// node --test: the mathematics of the temperature. CLT_CASES: from cl_tutor and torch, see tests/test_temperature.py.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { kl, limit, logSoftmax, pull, push, softmax, verdict } = await load("temperature.js");
const old = [5, 3.6, 2, -1, -2], z = [1.6, 2.4, -0.6, 0.8, -1.2, 2.2, -0.4];
const slope = (f, at) => at.map((_, c) => {
  const moved = (e) => at.map((v, k) => (k === c ? v + e : v));
  return (f(moved(1e-5)) - f(moved(-1e-5))) / 2e-5;
});

test("a softmax sums to one at any temperature, and large logits do no harm", () => {
  for (const T of [0.5, 2, 20]) near(softmax(old, T).reduce((s, v) => s + v), 1);
  near(softmax([1000, 999], 1), softmax([1, 0], 1));
  near(softmax(old, 1e9), Array(5).fill(0.2));
  assert.ok(logSoftmax([800, -800]).every(Number.isFinite));
});

test("T²·KL tends to half the variance of the differences, with an error that falls like 1/T", () => {
  const d = old.map((v, c) => z[c] - v), m = d.reduce((s, v) => s + v) / 5;
  near(limit(old, z), d.reduce((s, v) => s + (v - m) ** 2, 0) / 10);
  const off = [400, 800, 1600].map((T) => T ** 2 * kl(old, z, T) - limit(old, z));
  assert.ok(Math.abs(off[2]) < 1e-3 && Math.abs(off[0] / off[1] - 2) < 0.05 && Math.abs(off[1] / off[2] - 2) < 0.05);
});

test("shifting all logits by a constant changes nothing, and equal answers cost nothing", () => {
  const up = z.map((v) => v + 3);
  for (const T of [0.5, 4]) near(kl(old, up, T), kl(old, z, T));
  near(limit(old, up), limit(old, z));
  near(kl(old, old, 2), 0);
  assert.ok(limit(old, old) === 0 && pull(old, [...old, 1, 2], 3, 5).every((v) => Math.abs(v) < 1e-12));
});

test("the gradients are those of the losses, by finite differences", () => {
  for (const T of [0.5, 2, 20]) near(pull(old, z, T, 0.7), slope((w) => 0.7 * T ** 2 * kl(old, w, T), z), 1e-5);
  near(push(old, z, 5, true), slope((w) => -logSoftmax(w)[5], z), 1e-5);
  near(push(old, z, 5, false), slope((w) => -logSoftmax(w.slice(5))[0], z), 1e-5);
});

test("in Task-IL the cross-entropy leaves the old units alone; in Class-IL it pushes all of them down", () => {
  assert.ok(push(old, z, 5, false).slice(0, 5).every((v) => v === 0));
  assert.ok(push(old, z, 5, true).slice(0, 5).every((v) => v > 0));
});

test("the verdict follows the sum of both gradients", () => {
  const names = ["dog", "fox", "cat", "car", "ship", "wolf", "bus"];
  const say = (alpha, shared) => verdict({ names, old, z, T: 2, label: 5, alpha, shared });
  assert.match(say(0, true), /dog 0.56, then fox 0.28.*dog falls/);
  assert.match(say(1, true), /dog rises/);
  assert.match(say(0, false), /dog stays/);
});

if (cases)
  test("equal to Python", () => {
    assert.ok(cases.length >= 10);
    for (const c of cases) {
      near(softmax(c.old, c.T), c.teacher);
      near(c.T ** 2 * kl(c.old, c.z, c.T), c.distil);
      near(limit(c.old, c.z), c.limit);
      near(pull(c.old, c.z, c.T, c.alpha), c.pull);
      near(push(c.old, c.z, c.label, c.shared), c.push);
    }
  });
