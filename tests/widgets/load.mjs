// An explorable's module as Python makes it, kit.js and its own file; with cases from Python, and a tolerance.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const text = (name) => readFileSync(new URL(`../../cl_tutor/widgets/static/${name}`, import.meta.url), "utf-8");
export const load = (...names) =>
  import("data:text/javascript;base64," + Buffer.from(["kit.js", ...names].map(text).join("\n")).toString("base64"));

// CLT_CASES: a JSON file that the Python test has written; "Infinity" and "NaN" arrive as null.
export const cases = process.env.CLT_CASES ? JSON.parse(readFileSync(process.env.CLT_CASES)) : null;

export function near(found, expected, tolerance = 1e-6) {
  const pairs = (a, b) => (Array.isArray(b) ? b.flatMap((v, k) => pairs(a[k], v)) : [[a, b]]);
  if (Array.isArray(expected)) assert.equal(found.length, expected.length);
  for (const [x, y] of pairs(found, expected))
    assert.ok(Math.abs(x - y) <= tolerance * Math.max(1, Math.abs(y)), `${x} is not ${y}`);
}
