// node --test: the projections with no browser. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { changes, mean, project, projectMean, tilde, turned, verdict } = await load("projection.js");

test("A-GEM worked by hand: the part against the reference goes, and nothing else", () => {
  near(projectMean([1, -1], [0, 2]), [1, 0]);
  near(projectMean([1, 1], [0, 2]), [1, 1]);
  near(projectMean([1, -1], [0, 0]), [1, -1]);
  near(mean([[1, 0], [0, 3]]), [0.5, 1.5]);
});

test("GEM is A-GEM with one task, keeps every constraint, and is nobody's guess but the nearest", () => {
  for (let k = 0; k < 200; k++) {
    const v = (s) => [Math.cos(s * k) * (1 + (k % 3)), Math.sin(s * k + 1)], g = v(1.3), refs = [v(2.1), v(3.7), v(0.9)];
    near(project(g, refs.slice(0, 1)), projectMean(g, refs[0]));
    const out = project(g, refs), far = (p) => Math.hypot(p[0] - g[0], p[1] - g[1]);
    for (const change of changes(out, g, refs).slice(0, -1)) assert.ok(change <= 1e-9);
    for (let j = 0; j < 360; j++) { // no allowed point around it is nearer
      const p = [out[0] + 0.01 * Math.cos(j), out[1] + 0.01 * Math.sin(j)];
      const allowed = refs.every((r) => p[0] * r[0] + p[1] * r[1] >= 0);
      assert.ok(!allowed || far(p) >= far(out) - 1e-12);
    }
  }
});

test("opposite old tasks leave a line, three around a circle leave nothing", () => {
  near(project([1, 1], [[1, 0], [-1, 0]]), [0, 1]);
  near(project([1, 0.2], [[-1, 0], [1, 2], [1, -2]]), [0, 0]);
});

test("the words say who pays", () => {
  const refs = [[0.4, 1.4], [1.4, 0.6]], g = [1.5, -0.9];
  assert.equal(verdict("A-GEM", g, refs), "A plain step along −g raises the loss of task 1. A-GEM: g̃ = g: nothing is "
    + "changed. The mean of the old losses does not rise, but task 1 still pays.");
  assert.match(verdict("GEM", g, refs), /GEM: g̃ is turned by 15° and keeps 97 % of the length\.$/);
  assert.match(verdict("GEM", [1, 0.2], [[-1, 0], [1, 2], [1, -2]]), /No direction is left/);
  assert.match(verdict("GEM", [1, 1], refs), /^A plain step raises no old loss\. GEM: g̃ = g: nothing is changed\.$/);
  assert.equal(turned([1, 0], [0, 0]), 0);
});

if (cases)
  test("equal to the package's projections", () => {
    for (const { g, refs, method, tilde: expected, changes: rows } of cases) {
      near(tilde(method, g, refs), expected);
      near(changes(tilde(method, g, refs), g, refs), rows);
    }
  });
