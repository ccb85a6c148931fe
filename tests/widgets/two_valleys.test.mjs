// node --test: the mathematics of the two valleys with no browser. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { NAMES, gradients, hessian, joint, losses, omega, shape, tip, walk } = await load("two_valleys.js");
const state = { theta1: [-1, 0.5], theta2: [1, -0.2], start: [-2, 1], angle: 30, kappa: 16, lam: 1 };

test("the valley has the eigenvalues 1/√κ along and √κ across", () => {
  near(hessian({ angle: 0, kappa: 16 }), [0.25, 0, 4]);
  near(hessian({ angle: 90, kappa: 16 }), [4, 0, 0.25]);
  near(hessian({ angle: 45, kappa: 16 }), [2.125, -1.875, 2.125]);
});

test("at 45 degrees the diagonal is a multiple of the identity, and along the axes it is everything", () => {
  const [a, b, c] = omega("EWC", { ...state, angle: 45 });
  near([a - c, b], [0, 0], 1e-12);
  near(omega("EWC", { ...state, angle: 0 }), hessian({ ...state, angle: 0 }));
  near(omega("naive", state), [0, 0, 0]);
});

test("no point near the joint optimum is better for the sum", () => {
  const sum = (p) => losses(p, state).reduce((s, v) => s + v), best = joint(state);
  for (let k = 0; k < 16; k++)
    assert.ok(sum(best) < sum([best[0] + 0.01 * Math.cos(k), best[1] + 0.01 * Math.sin(k)]));
});

test("the tip of the valley gives back the shape that put it there", () => {
  for (const side of [1, -1]) {
    const back = shape(tip(state, side), state.theta1);
    near([back.angle, back.kappa], [30, 16]);
  }
  assert.equal(shape([5, 5], [0, 0]).kappa, 100);
});

test("a path starts at the start, and what is downhill for both is g₁ and g₂", () => {
  for (const name of NAMES) {
    const path = walk(name, state);
    assert.equal(path.length, 2001);
    near(path[0], state.start);
    near(path[1], path[0].map((v, k) => v - 0.01 * gradients(path[0], state)[0][k]));
  }
  for (const k of [0, 1]) { // and both are slopes
    const p = [0.3, -0.7], e = 1e-5, along = (i) => losses(p.map((v, j) => v + (i === j ? e : 0)), state)[k];
    near([0, 1].map((i) => (along(i) - losses(p, state)[k]) / e), gradients(p, state)[k], 1e-3);
  }
});

if (cases)
  test("equal to Python's steps for every method", () => {
    assert.deepEqual(new Set(cases.map((c) => c.method)), new Set(NAMES));
    for (const { state, method, at, points, losses: expected } of cases) {
      const path = walk(method, state);
      near(at.map((k) => path[k]), points);
      near(losses(path.at(-1), state), expected);
    }
  });
