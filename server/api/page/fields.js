// One field for each kind of parameter. A field is {element, control, read, write, focus}: `read` returns {value}, {problem}
// with words on what to do, or {} where nothing is given. Pictures have a module of their own.

import { button, h, newId } from "./dom.js";
import { labelOf } from "./words.js";

const MAX_SEED = (1n << 64n) - 1n;
const LONGEST_SLIDER = 128;

/** Returns the field of a parameter that is no picture. */
export function plainField(name, spec) {
  if (spec.choices) return choiceField(name, spec);
  if (spec.type === "boolean") return booleanField(name, spec);
  if (spec.type === "seed") return seedField(name, spec);
  if (spec.type === "integer" || spec.type === "number") return numberField(name, spec);
  if (spec.type === "list") return listField(name, spec);
  if (spec.type.endsWith("_file")) return fileField(name, spec);
  return textField(name, spec);
}

/** Returns the frame of a field: label, control, words on it, and a place for what is wrong. */
export function framed(name, spec, control, { limits = "", extra = null, beside = false, group = false } = {}) {
  const words = beside ? [spec.description, limits && sentenceOf(limits)].filter(Boolean).join(" ") : spec.description;
  const hint = h("p", { class: "hint", id: newId("hint") }, words);
  const wrong = h("p", { class: "wrong", id: newId("wrong"), hidden: true });
  control.id ||= newId("field");
  const label = group
    ? h("span", { class: "label", id: newId("label") }, labelOf(name))
    : h("label", { for: control.id }, labelOf(name));
  if (group) control.setAttribute("aria-labelledby", label.id);
  control.setAttribute("aria-describedby", `${hint.id} ${wrong.id}`);
  const needed = spec.required ? h("span", { class: "needed" }, "needed") : null;
  const head = h("div", { class: "field-head" }, label, needed, limits && !beside ? h("span", { class: "limits" }, limits) : null);
  const element = h("div", { class: beside ? "field beside" : "field", "data-param": name }, head, extra ?? control);
  if (words) element.append(hint);
  element.append(wrong);
  return element;
}

function textField(name, spec) {
  const long = /prompt|text|caption|description/i.test(name);
  const control = h("textarea", { rows: long ? 3 : 1, class: long ? "long" : "short", spellcheck: "true" });
  const element = framed(name, spec, control);
  return {
    element,
    control,
    read: () => (spec.required && control.value === "" ? {} : { value: control.value }),
    write: (value) => {
      control.value = value ?? "";
    },
    focus: () => control.focus(),
  };
}

function numberField(name, spec) {
  const { min, max } = spec;
  const step = spec.multiple_of ?? (spec.type === "integer" ? 1 : niceStep(min, max));
  const bounds = { min, max, step };
  const number = h("input", { type: "number", inputmode: spec.type === "integer" ? "numeric" : "decimal", ...bounds });
  const sliding = min !== null && max !== null && max - min <= LONGEST_SLIDER;
  const slider = sliding ? h("input", { type: "range", ...bounds, "aria-label": `${labelOf(name)}, slider` }) : null;
  const extra = sliding ? h("div", { class: "slide" }, slider, number) : null;
  const element = framed(name, spec, number, { limits: limitsOf(spec), extra, beside: !sliding });
  slider?.addEventListener("input", () => {
    number.value = slider.value;
    number.dispatchEvent(new Event("change", { bubbles: true }));
  });
  number.addEventListener("input", () => {
    if (slider && number.value !== "") slider.value = number.value;
  });
  return {
    element,
    control: number,
    read: () => {
      if (number.validity.badInput) return { problem: `This is no number. Enter ${spec.expected}.` };
      if (number.value === "") return spec.required ? {} : { problem: `Enter ${spec.expected}.` };
      const value = Number(number.value);
      return fits(value, spec) ? { value } : { problem: `${number.value} does not fit. Enter ${spec.expected}.` };
    },
    write: (value) => {
      number.value = value === null || value === undefined ? "" : String(value);
      if (slider && number.value !== "") slider.value = number.value;
    },
    focus: () => number.focus(),
  };
}

function seedField(name, spec) {
  const control = h("input", { type: "text", inputmode: "numeric", autocomplete: "off", spellcheck: "false" });
  const fresh = h("input", { type: "checkbox" });
  const roll = () => {
    control.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    control.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const dice = button("Roll", roll, { icon: "dice", kind: "dice", "aria-label": `Roll a new ${labelOf(name).toLowerCase()}` });
  const row = h("div", { class: "seed" }, control, dice, h("label", { class: "check" }, fresh, "new for each run"));
  const element = framed(name, spec, control, { extra: row });
  return {
    element,
    control,
    roll,
    beforeRun: () => {
      if (fresh.checked) roll();
    },
    read: () => {
      const text = control.value.trim();
      if (text === "" && spec.required) return {};
      if (!/^\d{1,20}$/.test(text) || BigInt(text) > MAX_SEED) return { problem: `Enter ${spec.expected}, or roll the dice.` };
      const value = Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
      return fits(value, spec) ? { value } : { problem: `${text} does not fit. Enter ${spec.expected}.` };
    },
    write: (value) => {
      control.value = value === null || value === undefined ? "" : String(value);
    },
    focus: () => control.focus(),
  };
}

function booleanField(name, spec) {
  const control = h("input", { type: "checkbox", class: "switch" });
  const element = framed(name, spec, control);
  element.classList.add("on-off");
  return {
    element,
    control,
    read: () => ({ value: control.checked }),
    write: (value) => {
      control.checked = value === true;
    },
    focus: () => control.focus(),
  };
}

function choiceField(name, spec) {
  const options = spec.choices.map((choice, index) => h("option", { value: index }, String(choice)));
  const control = h("select", {}, spec.required ? h("option", { value: "" }, "Choose one") : null, ...options);
  const element = framed(name, spec, control);
  return {
    element,
    control,
    read: () => (control.value === "" ? {} : { value: spec.choices[Number(control.value)] }),
    write: (value) => {
      const index = spec.choices.findIndex((choice) => choice === value);
      control.value = index < 0 ? "" : String(index);
    },
    focus: () => control.focus(),
  };
}

/** The name of a model file: typed, until it is known which of the server's fit, and then chosen among these. */
function fileField(name, spec) {
  const typed = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const element = framed(name, spec, typed);
  const none = h("p", { class: "hint", hidden: true });
  element.querySelector(".wrong").before(none);
  const field = {
    element,
    control: typed,
    read: () => {
      const { value } = field.control;
      return value !== "" ? { value } : spec.required ? {} : { problem: `Enter ${spec.expected}.` };
    },
    write: (value) => {
      const { control } = field;
      const known = control === typed || !value || [...control.options].some((option) => option.value === value);
      if (!known) control.append(h("option", { value }, value));
      control.value = value ?? "";
    },
    focus: () => field.control.focus(),
    offer: ({ names, unfit, where }) => {
      const { value } = field.control;
      const usable = [...new Set([...names, ...(spec.default ? [spec.default] : [])])];
      const others = Object.entries(unfit).filter(([one]) => one !== spec.default);
      const empty = usable.length ? (spec.required ? "Choose one" : null) : others.length ? "None of the server's files fits" : "The server has none";
      const options = usable.map((one) => h("option", { value: one }, one));
      const misfits = others.map(([one, reason]) => h("option", { value: one, disabled: true, title: reason }, one));
      const behind = misfits.length > 0 && h("optgroup", { label: "Does not fit" }, ...misfits);
      const select = h("select", { id: field.control.id }, empty && h("option", { value: "" }, empty), ...options, behind);
      select.setAttribute("aria-describedby", field.control.getAttribute("aria-describedby"));
      field.control.replaceWith(select);
      field.control = select;
      field.write(value);
      none.textContent = `Put one ${where}, and reload the page.`;
      none.hidden = usable.length > 0 || !where;
    },
  };
  return field;
}

/** A list is one item a line; where its default holds more than texts and numbers, it is JSON. */
function listField(name, spec) {
  const samples = Array.isArray(spec.default) ? spec.default : [];
  const kind = samples.every((item) => typeof item === "string") ? "texts" : samples.every(isNumber) ? "numbers" : "json";
  const control = h("textarea", { rows: Math.min(6, Math.max(2, samples.length)), class: "list", spellcheck: "false" });
  const element = framed(name, spec, control, { limits: kind === "json" ? "a list as JSON" : "one a line" });
  return {
    element,
    control,
    read: () => {
      const lines = control.value.split("\n").map((line) => line.trim()).filter(Boolean);
      if (!lines.length && spec.required) return {};
      if (kind === "json") return jsonList(control.value);
      if (kind === "texts") return { value: samples.length || !lines.every(isNumeric) ? lines : lines.map(asNumber) };
      const bad = lines.find((line) => !isNumeric(line));
      return bad === undefined ? { value: lines.map(asNumber) } : { problem: `"${bad}" is no number. Write one number a line.` };
    },
    write: (value) => {
      const items = Array.isArray(value) ? value : [];
      control.value = kind === "json" ? JSON.stringify(items, null, 1) : items.map(String).join("\n");
    },
    focus: () => control.focus(),
  };
}

function jsonList(text) {
  try {
    const value = JSON.parse(text);
    if (Array.isArray(value)) return { value };
  } catch {
    // said below
  }
  return { problem: 'Write a list as JSON, such as ["a", 2].' };
}

function sentenceOf(words) {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

function fits(value, { type, min, max, multiple_of: step }) {
  if (type !== "number" && typeof value === "number" && !Number.isInteger(value)) return false;
  if ((min !== null && value < min) || (max !== null && value > max)) return false;
  if (step === null) return true;
  const rest = Number(value) / step;
  return Math.abs(rest - Math.round(rest)) < 1e-9;
}

function limitsOf({ min, max, multiple_of: step }) {
  const range = min !== null && max !== null ? `${min} to ${max}` : min !== null ? `from ${min}` : max !== null ? `up to ${max}` : "";
  const steps = step !== null ? `steps of ${step}` : "";
  return [range, steps].filter(Boolean).join(", ");
}

function niceStep(min, max) {
  if (min === null || max === null) return 0.1;
  return max - min <= 2 ? 0.01 : max - min <= 20 ? 0.1 : 0.5;
}

function isNumber(value) {
  return typeof value === "number" || typeof value === "bigint";
}

function isNumeric(text) {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);
}

function asNumber(text) {
  const number = Number(text);
  return /^\d+$/.test(text) && !Number.isSafeInteger(number) ? BigInt(text) : number;
}
