// node --test: the mathematics of the spectrum. CLT_CASES: from cl_tutor.fisher, see tests/test_spectrum.py.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { foretold, layers, power_iteration, promised, rule, shares, small, verdict } = await load("spectrum.js");

test("shares and predictions are sums of the first k", () => {
  near(shares([4, 2, 1], 10), [0.4, 0.6, 0.7]);
  near(foretold([4, 2, 1], [1, 3, 0]), [2, 5, 5]);
});

test("a layer's mass counts directions alike, or by their λ", () => {
  const mass = { a: [1, 0, 0.5], b: [0, 1, 0.5] };
  assert.deepEqual(layers([3, 1, 1], mass, 2, false), { a: 0.5, b: 0.5 });
  assert.deepEqual(layers([3, 1, 1], mass, 2, true), { a: 0.75, b: 0.25 });
  near(Object.values(layers([3, 1, 1], mass, 3, true)).reduce((s, v) => s + v), 1);
});

test("power iteration ends at the first direction, as fast as promised", () => {
  const start = [0.25, 0.6, 0.45, 0.4, 0.35, 0.3];
  for (const [gap, t] of [[0.5, 12], [0.8, 30]]) {
    const lam = small(gap), path = power_iteration(lam, start, 60), error = (t) => 1 - path[t].value;
    near(Math.sqrt(error(t + 1) / error(t)), gap, 0.01);
    near(error(t) / promised(lam, start, t), 1, 0.01);
    assert.ok(path[60].v[0] > 0.999999 && path[60].residual < path[10].residual);
  }
  near(small(0.5), [1, 0.5, 0.35, 0.245, 0.1715, 0.12005]);
});

test("the residual bounds the distance to an eigenvalue", () => {
  for (const gap of [0.3, 0.9, 0.99]) {
    const lam = small(gap);
    for (const { value, residual } of power_iteration(lam, [0.1, 1, 1, 1, 1, 1], 30))
      assert.ok(Math.min(...lam.map((v) => Math.abs(v - value))) <= residual + 1e-12);
  }
});

test("at a narrow gap λ stops changing long before it is right, and the words say so", () => {
  const lam = small(0.98), path = power_iteration(lam, [0.25, 0.6, 0.45, 0.4, 0.35, 0.3], 60);
  const caught = path.map((p, t) => (t ? rule(p, path[t - 1], lam) : "")).filter((s) => s.includes("would stop here"));
  assert.ok(caught.length > 5);
  const wide = small(0.3), fast = power_iteration(wide, [1, 1, 1, 1, 1, 1], 20);
  assert.equal(rule(fast[20], fast[19], wide), "λ is right to 0.1 %.");
  assert.equal(rule(fast[1], fast[0], wide), "Not there yet.");
});

test("the verdict counts directions", () => {
  assert.match(verdict([4, 2, 1], 10, 2), /The 2 steepest directions hold 0.60 of the trace; half of it needs 2/);
  assert.match(verdict([8, 1], 10, 1), /direction holds 0.80 of the trace; 80 % need 1/);
  assert.match(verdict([1, 1], 10, 1), /all 2 shown hold 0.20/);
});

if (cases)
  test("equal to Python", () => {
    assert.ok(cases.length >= 5);
    for (const c of cases) {
      near(shares(c.values, c.trace)[c.k - 1], c.share);
      near(foretold(c.values, c.moved)[c.k - 1], c.foretold);
      const found = layers(c.values, c.mass, c.k, false), weighed = layers(c.values, c.mass, c.k, true);
      for (const n of Object.keys(c.mass)) {
        near(found[n], c.alike[n]);
        near(weighed[n], c.weighed[n]);
      }
      const path = power_iteration(c.values, c.start, c.history.length - 1);
      near(path.map((p) => [p.value, p.residual]), c.history);
      near(path.at(-1).v, c.vector);
    }
  });
