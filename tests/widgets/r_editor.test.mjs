// node --test: the mathematics and the sentences of the explorable with no browser. CLT_CASES: a JSON file from Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { cases, load, near } from "./load.mjs";

const { metrics, num, sentence, terms, transpose, value } = await load("r_editor.js");
const R = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.6, 0.95]], b = [0.1, 0.15, 0.2];

test("the four numbers of a matrix worked by hand", () => {
  const m = metrics(R, b);
  near(m.acc, (0.5 + 0.6 + 0.95) / 3);
  near(m.forgetting, (0.4 + 0.2) / 2);
  near(m.bwt, -(0.4 + 0.2) / 2);
  near(m.fwt, (0.05 + 0.1) / 2);
});

test("forgetting starts from the best row before the last, BWT from the diagonal", () => {
  const late = [[0.5, 0, 0], [0.8, 0.5, 0], [0.6, 0.5, 0.5]];
  near(value("forgetting", late, b), 0.1);
  near(value("bwt", late, b), 0.05);
  assert.deepEqual(terms("forgetting", late)[0], { plus: [1, 0], minus: [2, 0] });
});

test("transposing keeps the diagonal and moves the rest", () => {
  assert.deepEqual(transpose(R)[0], [0.9, 0.7, 0.5]);
  assert.deepEqual(transpose(transpose(R)), R);
  assert.notEqual(metrics(transpose(R), b).acc, metrics(R, b).acc);
});

test("one task leaves three numbers undefined", () => {
  assert.equal(num(value("bwt", [[0.9]], [0.1])), "undefined");
  assert.match(sentence("fwt", [[0.9]], [0.1]), /at least two tasks/);
  near(value("acc", [[0.9]], [0.1]), 0.9);
});

test("a sentence carries its own arithmetic, and no minus before zero", () => {
  assert.equal(sentence("bwt", R, b),
    "BWT is the mean of: last row, minus the diagonal: ((0.50 − 0.90) + (0.60 − 0.80)) / 2 = −0.300");
  assert.equal(num(-0.0001), "0.000");
});

if (cases)
  test("equal to Python on random matrices", () => {
    assert.ok(cases.length >= 20);
    for (const { R, b, metrics: expected } of cases)
      for (const [key, x] of Object.entries(expected)) near(metrics(R, b)[key], x);
  });
