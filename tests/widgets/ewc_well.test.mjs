// node --test: the mathematics of the EWC well. CLT_CASES: from cl_tutor's own code, see tests/test_ewc_well.py.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { abroad, ceiling, curve, factor, verdict, walk, well } = await load("ewc_well.js");

test("a cubic comes back from its values and slopes, and goes on straight beyond its nodes", () => {
  const f = (x) => x ** 3 - 2 * x, g = (x) => 3 * x ** 2 - 2, at = [-2, -1, 0, 1, 2];
  const c = curve(at, [at.map(f), at.map(g)]);
  for (const x of [-2, -1.7, -0.2, 0, 0.5, 1.99, 2]) near(c(x), [f(x), g(x)]);
  near(c(4), [f(2) + 2 * g(2), g(2)]);
  near(c(-5), [f(-2) - 3 * g(-2), g(-2)]);
});

test("at the ceiling an explicit step turns θ − θ* round and keeps its size; below it shrinks, above it grows", () => {
  const s = { anchor: 1, stiffest: 0.25, rate: 0.1 }, roof = ceiling(s);
  near(roof, 80);
  near(factor({ ...s, lam: roof }), -1);
  const last = (lam, proximal) => Math.abs(walk((x) => (x === 1 ? 1 : 0), { ...s, lam }, proximal, 400).at(-1) - 1);
  near(last(roof, false), 0.1);
  assert.ok(last(0.9 * roof, false) < 1e-6 && last(1.1 * roof, false) > 1e6);
  assert.ok([0.9, 1.1, 1e4].every((times) => last(times * roof, true) < 0.1));
});

test("the verdict warns before the ceiling and says by how much", () => {
  const s = { anchor: 0, stiffest: 1, rate: 0.1 };
  const words = [0.2, 4, 15, 40].map((lam) => verdict({ ...s, lam }).split(":")[0].split(" a ")[0].split(",")[0]);
  assert.deepEqual(words, ["Far from divergence", "Divergence lies", "Close to divergence", "Divergence"]);
  assert.match(verdict({ ...s, lam: 4 }), /factor of 5.0 ahead; each explicit step multiplies θ − θ\* by 0.60/);
  assert.match(verdict({ ...s, lam: 40 }), /2.00 times the ceiling; .* by −3.00/);
});

test("conventions, one at a time", () => {
  const plain = { half: "yes", fisher: "mean", loss: "mean", n: 1000, B: 32 };
  near(abroad(plain), 1);
  near(abroad({ ...plain, half: "no" }), 0.5);
  near(abroad({ ...plain, fisher: "sum" }), 0.001);
  near(abroad({ ...plain, fisher: "batch" }), 32);
  near(abroad({ ...plain, loss: "sum" }), 1000);
  near(abroad({ ...plain, loss: "sum", fisher: "sum" }), 1);
});

if (cases)
  test("equal to Python", () => {
    const { curves, walks, wells, names } = cases;
    assert.ok(curves.length && walks.length && wells.length && names.length === 12);
    for (const { at, known, x, loss, slope } of curves) {
      const c = curve(at, known);
      near(x.map((v) => c(v)[0]), loss);
      near(x.map((v) => c(v)[1]), slope);
    }
    for (const { at, known, state, explicit, proximal } of walks) {
      const slope = (x) => curve(at, known)(x)[1];
      near(walk(slope, state, false, explicit.length - 1), explicit);
      near(walk(slope, state, true, proximal.length - 1), proximal);
    }
    for (const { state, x, energy, stiffness } of wells) {
      near(well(state, x), energy);
      near(state.lam / ceiling(state), stiffness);
    }
    for (const { kind, ratio } of names) near(abroad(kind), ratio);
  });
