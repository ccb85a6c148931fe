// node --test: the bills with no browser. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { bills, even, one, shares, total, verdict } = await load("capacity.js");
const state = { sizes: [64, 100, 100, 10], tasks: 10, keep: 0.5, width: 8 };

test("a half is rounded to the even number, as Python does", () => {
  assert.deepEqual([0.5, 1.5, 2.5, 2.4, 2.6, 3].map(even), [0, 2, 2, 2, 3, 3]);
});

test("one network, and ten columns of a Progressive one, counted by hand", () => {
  assert.equal(one([64, 30, 10]), 64 * 30 + 30 + 30 * 10 + 10);
  const grown = total(bills(state).Progressive, "parameters");
  assert.equal(grown[9], 10 * 17610 + 45 * (100 * 100 + 100 * 10));
});

test("PackNet's free share halves, and owned and free together are everything", () => {
  const all = shares(state);
  near(all[0].free, 0.5);
  near(all[4].free, 0.5 ** 5, 1e-3);
  near(all.reduce((s, { owned }) => s + owned, all.at(-1).free), 1);
  assert.deepEqual(shares({ ...state, keep: 1 })[1], { owned: 0, free: 0 });
});

test("SupSup trains no weight and pays a bit for each", () => {
  assert.deepEqual(bills(state).SupSup[3], { parameters: 0, bits: 17400 });
});

test("the words carry the numbers", () => {
  assert.equal(verdict({ ...state, tasks: 8 }), "After 8 tasks PackNet has 0.4 % of its weights free; task 8 owns "
    + "69 of 17,400. Of Progressive's parameters 69 % are laterals.");
  assert.match(verdict({ ...state, tasks: 1, keep: 1 }), /^After 1 task PackNet has 0 % .* owns 17,400 .* 0 % are laterals/);
  assert.match(verdict({ ...state, tasks: 2, keep: 1 }), /task 2 owns none/);
});

if (cases)
  test("equal to Python's bills", () => {
    assert.ok(cases.length >= 40);
    for (const { state, bills: expected } of cases) {
      const found = bills(state);
      for (const [name, list] of Object.entries(expected))
        assert.deepEqual(found[name].map(({ parameters, bits }) => [parameters, bits]), list, name);
    }
  });
