// A document, as far as the page understands it: its parameters, how its nodes hang together, and its text as YAML.
//
// The tree is the server's own JSON, read with numbers as they were written, so that what is sent back is what came.

import { Written, plain } from "./json.js";

const LINK = /^\$([A-Za-z_][A-Za-z0-9_-]*)/;
const PARAM = /\$params\.([A-Za-z_][A-Za-z0-9_-]*)|\$\{params\.([A-Za-z_][A-Za-z0-9_-]*)\}/g;

/** Returns the parameters that a document declares, in the form in which the server describes those of stored workflows. */
export function paramsOf(tree) {
  return Object.fromEntries(Object.entries(tree.params ?? {}).map(([name, declared]) => [name, paramOf(name, declared)]));
}

/** Returns the nodes of a document: id, type, the ids that it reads, and whether it is repeated. */
export function nodesOf(tree) {
  return Object.entries(tree.nodes ?? {}).map(([id, node]) => {
    const sources = new Set();
    for (const [name, value] of Object.entries(node)) {
      if (name !== "type") collectLinks(value, sources);
    }
    sources.delete("params");
    sources.delete(id);
    return { id, type: String(node.type), sources: [...sources], repeated: "foreach" in node };
  });
}

/** Returns the parameter that stands behind an input of a node, or null. */
export function paramBehind(tree, node, input) {
  const value = tree.nodes?.[node]?.[input];
  if (typeof value !== "string") return null;
  const found = [...value.matchAll(PARAM)].map((match) => match[1] ?? match[2]);
  return found.length === 1 ? found[0] : null;
}

/** Returns the node of the document that an id of a run belongs to: `paint[2]/sample` is of `paint`. */
export function nodeOfRun(id) {
  return id.split(/[/[]/, 1)[0];
}

/** Returns a document as YAML. */
export function toYaml(tree) {
  return `${yamlMap(tree, 0).replace(/^\n/, "")}\n`;
}

function paramOf(name, declared) {
  const long = declared !== null && typeof declared === "object" && !Array.isArray(declared) && !(declared instanceof Written);
  const given = long ? declared : { default: declared };
  const required = !("default" in given);
  const type = given.type ?? typeOf(name, given.default);
  const numbers = Object.fromEntries(["min", "max", "multiple_of"].map((key) => [key, plain(given[key] ?? null)]));
  const choices = given.choices ? plain(given.choices) : null;
  return {
    type,
    required,
    default: required ? null : plain(given.default),
    description: String(given.description ?? ""),
    expected: expectedWords(type, numbers, choices),
    ...numbers,
    choices,
  };
}

function typeOf(name, value) {
  if (typeof value === "boolean") return "boolean";
  if (value instanceof Written) return value.isWhole ? (name === "seed" ? "seed" : "integer") : "number";
  return Array.isArray(value) ? "list" : "string";
}

function expectedWords(type, { min, max, multiple_of: step }, choices) {
  if (choices) return `one of ${choices.join(", ")}`;
  const kinds = { string: "text", integer: "a whole number", number: "a number", boolean: "yes or no", list: "a list" };
  let words = kinds[type] ?? (type === "seed" ? "a whole number from 0 to 18446744073709551615" : "the name of a file");
  if (min !== null) words += ` of at least ${min}`;
  if (max !== null) words += `${min !== null ? " and" : " of"} at most ${max}`;
  return step !== null ? `${words}, a multiple of ${step}` : words;
}

function collectLinks(value, found) {
  if (typeof value === "string") {
    const match = LINK.exec(value);
    if (match) found.add(match[1]);
  } else if (value !== null && typeof value === "object" && !(value instanceof Written)) {
    for (const item of Object.values(value)) collectLinks(item, found);
  }
}

function yamlMap(map, depth) {
  const indent = "  ".repeat(depth);
  return Object.entries(map).map(([key, value]) => `\n${indent}${yamlScalar(key)}:${yamlValue(value, depth)}`).join("");
}

function yamlValue(value, depth) {
  if (value instanceof Written || value === null || typeof value !== "object") return ` ${yamlScalar(value)}`;
  const flow = yamlFlow(value);
  if (depth > 0 && flow.length + 2 * depth <= 96) return ` ${flow}`;
  if (!Array.isArray(value)) return Object.keys(value).length ? yamlMap(value, depth + 1) : " {}";
  const indent = "  ".repeat(depth + 1);
  return value.length ? value.map((item) => `\n${indent}- ${yamlFlow(item)}`).join("") : " []";
}

function yamlFlow(value) {
  if (Array.isArray(value)) return `[${value.map(yamlFlow).join(", ")}]`;
  if (value === null || typeof value !== "object" || value instanceof Written) return yamlScalar(value);
  return `{${Object.entries(value).map(([key, item]) => `${yamlScalar(key)}: ${yamlFlow(item)}`).join(", ")}}`;
}

/** A text is left bare only where no reader of YAML takes it for something else; JSON's quotes are YAML's, too. */
function yamlScalar(value) {
  if (value instanceof Written) return value.source.replace(/^(-?\d+)(?=e)/i, "$1.0").replace(/e(?=\d)/i, "e+"); // 1e5 is a text in YAML
  if (typeof value !== "string") return JSON.stringify(value);
  const bare = /^[$A-Za-z_.][A-Za-z0-9_$./ -]*$/.test(value) && !/\s$|^\.|^(true|false|yes|no|on|off|null|y|n)$/i.test(value);
  return bare || /^\.\/[A-Za-z0-9_./-]+$/.test(value) ? value : JSON.stringify(value);
}

