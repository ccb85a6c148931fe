// node --test: what the explorables share, without a browser.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { join, mark, num, power, sci, styles, ticks } = await load();

test("numbers carry a true minus and three digits at any size", () => {
  assert.deepEqual([-0.0001, -1.5, NaN].map((x) => num(x, 2)), ["0.00", "−1.50", "undefined"]);
  const said = [0, 0.05, 1, 123.4, 4321, 12345, 1e-6, -2e7, Infinity].map((x) => sci(x));
  assert.deepEqual(said, ["0", "0.0500", "1.00", "123", "4321", "1.23·10⁴", "1.00·10⁻⁶", "−2.00·10⁷", "∞"]);
  assert.equal(power(-12), "10⁻¹²");
});

test("ticks are round and stay inside", () => {
  assert.deepEqual(ticks(-1, 1, 4), [-1, -0.5, 0, 0.5, 1]);
  assert.deepEqual(ticks(0.13, 0.31, 4), [0.15, 0.2, 0.25, 0.3]);
  near(ticks(0, 1e6, 5), [0, 2e5, 4e5, 6e5, 8e5, 1e6]);
});

test("a point that is not finite lifts the pen", () => {
  assert.equal(join([[0, 0], [1, 2], [NaN, 0], [3, 4]]), "M0.00 0.00L1.00 2.00M3.00 4.00");
});

test("every look has another marker", () => {
  const looks = Object.values(styles(["naive", "joint", "EWC", "a", "b", "c", "d", "e"]));
  for (const key of ["color", "dash", "shape"]) assert.equal(new Set(looks.map((look) => look[key])).size, 8);
  assert.equal(new Set(looks.map(({ shape }) => mark(shape, 0, 0))).size, 8);
});

if (cases)
  test("a method looks as it does in Python's figures", () => {
    for (const { names, markers } of cases)
      assert.deepEqual(names.map((name) => styles(names)[name].shape), markers);
  });
