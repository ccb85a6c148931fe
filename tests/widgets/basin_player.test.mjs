// node --test: the player's clock and scales with no browser. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { advance, points, span, station } = await load("basin_player.js");

test("a walk takes eight seconds at speed 1, and stops at its last frame", () => {
  near([advance(0, 4, 1, 200), advance(0, 8, 1, 200), advance(50, 1, 4, 200)], [100, 200, 150]);
  near([advance(0, 100, 0.5, 200), advance(200, 1, 1, 200)], [200, 200]);
});

test("with reduced motion eight jumps lead from the start to the end, wherever it begins", () => {
  for (const last of [1, 7, 8, 100, 199]) {
    let k = 0, jumps = 0;
    for (; k < last; jumps++) { const next = station(k, last); assert.ok(next > k); k = next; }
    assert.ok(k === last && jumps <= 8);
  }
  assert.equal(station(30, 80), 40);
});

test("a gap in a polyline lifts the pen", () => {
  assert.deepEqual(points([[1, null, 3], [2, null, 4]]), [[1, 2], [NaN, NaN], [3, 4]]);
});

test("accuracies stand between 0 and 1, anything else has room above and starts at 0", () => {
  assert.deepEqual(span({ a: [0.2, 0.9], b: [1, 0.1] }), [0, 1]);
  near(span({ a: [1, 4] }), [0, 4.2]);
  near(span({ a: [-1, 1] }), [-1, 1.1]);
  near(span({ a: [0, NaN] }), [0, 1.05]);
});

if (cases)
  test("contours keep their height: equal to Python's surface between the grid's points", () => {
    const { x, y, Z, lines, levels } = cases;
    const height = ([u, v]) => { // bilinear
      const [i, j] = [(v - y[0]) / (y[1] - y[0]), (u - x[0]) / (x[1] - x[0])];
      const [a, b] = [Math.min(Math.floor(i), y.length - 2), Math.min(Math.floor(j), x.length - 2)], [s, t] = [i - a, j - b];
      return (1 - s) * ((1 - t) * Z[a][b] + t * Z[a][b + 1]) + s * ((1 - t) * Z[a + 1][b] + t * Z[a + 1][b + 1]);
    };
    const seen = new Set();
    for (const p of points(lines).filter(([u]) => Number.isFinite(u))) {
      const z = height(p), k = levels.findIndex((level) => Math.abs(level - z) < 0.02);
      assert.ok(k >= 0, `${p} at ${z}`);
      seen.add(k);
    }
    assert.equal(seen.size, levels.length);
  });
