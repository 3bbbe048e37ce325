// A form made from the parameters of a workflow. It checks what a browser can check, and shows at each field what is wrong.

import { h } from "./dom.js";
import { plainField } from "./fields.js";
import { writeJson } from "./json.js";
import { pictureField } from "./pictures.js";
import { paramBehind } from "./workflow.js";
import { labelOf } from "./words.js";

const PICTURES = new Set(["image_file", "mask_file"]);

/** Returns whether a parameter takes a value of another node, which no form can give. */
export function isLinkOnly(spec) {
  return /^[A-Z]/.test(spec.type);
}

/** Returns whether a parameter takes the name of a model file. */
export function isModelFile(spec) {
  return spec.type.endsWith("_file") && !PICTURES.has(spec.type);
}

export class ParamForm {
  /** specs: the parameters by name. */
  constructor(specs) {
    this.specs = Object.fromEntries(Object.entries(specs).filter(([, spec]) => !isLinkOnly(spec)));
    this.fields = new Map(Object.entries(this.specs).map(([name, spec]) => [name, fieldOf(name, spec)]));
    this._joinMasks();
    this.element = h("div", { class: "fields" }, ...[...this.fields.values()].map((field) => field.element));
    this.baseline = this.defaults;
    this.fill(this.baseline);
    for (const kind of ["input", "change"]) this.element.addEventListener(kind, (event) => this._touched(event));
  }

  /** Has masks painted on the first picture of the form. */
  _joinMasks() {
    const ofType = (type) => [...this.fields].filter(([name]) => this.specs[name].type === type).map(([, field]) => field);
    const [picture] = ofType("image_file");
    if (picture) for (const mask of ofType("mask_file")) mask.maskOf(picture);
  }

  get takesModelFiles() {
    return Object.values(this.specs).some(isModelFile);
  }

  /** The model files that are chosen, by parameter. */
  get modelFiles() {
    const chosen = [...this.fields].map(([name, field]) => [name, isModelFile(this.specs[name]) && field.read().value]);
    return Object.fromEntries(chosen.filter(([, value]) => value));
  }

  /** Takes what fits of the server's model files, by parameter. */
  offer(fitting) {
    for (const [name, files] of Object.entries(fitting)) this.fields.get(name)?.offer?.(files);
    this.mark();
  }

  /** The values that hold where nothing is given. */
  get defaults() {
    return Object.fromEntries(Object.entries(this.specs).filter(([, spec]) => !spec.required).map(([name, spec]) => [name, spec.default]));
  }

  /** Puts values into the fields and takes them as what changes are measured by. */
  reset(values) {
    this.baseline = { ...this.defaults, ...values };
    this.fill(this.baseline);
    this.mark();
  }

  fill(values) {
    for (const [name, field] of this.fields) {
      field.write(name in values ? values[name] : null);
      this._say(name, "");
    }
    for (const field of this.fields.values()) field.refresh?.();
  }

  /** Returns what is in the fields as it stands, right or wrong, to put it back later. */
  get draft() {
    return Object.fromEntries([...this.fields].map(([name, field]) => [name, field.read().value]).filter(([, value]) => value !== undefined));
  }

  /** Returns the values, or null after showing what is wrong with them. */
  read() {
    const values = {};
    const wrong = [];
    for (const [name, field] of this.fields) {
      const { value, problem } = field.read();
      if (value !== undefined) values[name] = value;
      const words = problem ?? (value === undefined && this.specs[name].required ? `This is needed. ${wanted(field, this.specs[name])}` : "");
      this._say(name, words);
      if (words) wrong.push(name);
    }
    if (!wrong.length) return values;
    this.fields.get(wrong[0]).focus();
    this.summary = `Look at ${wrong.map(labelOf).join(", ")}.`;
    return null;
  }

  /** Lets fields prepare for a run: pictures arrive, and seeds that are new each time are rolled. */
  async beforeRun() {
    await Promise.all([...this.fields.values()].map((field) => field.waiting));
    for (const field of this.fields.values()) field.beforeRun?.();
    this.mark();
  }

  /** Shows the problems that the server found at the fields that they are about; returns the others. */
  show(problems, tree = null) {
    const others = [];
    let first = null;
    for (const problem of problems.filter((one) => one.severity !== "warning")) {
      const name = this._about(problem, tree);
      if (name === null) {
        others.push(problem);
        continue;
      }
      first ??= name;
      this._say(name, fieldSentence(problem, this.specs[name]));
    }
    if (first !== null) this.fields.get(first).focus();
    return others;
  }

  /** Marks the fields that differ from the baseline; returns their names. */
  mark() {
    const changed = [];
    for (const [name, field] of this.fields) {
      const { value } = field.read();
      const differs = writeJson(value ?? null) !== writeJson(this.baseline[name] ?? null);
      field.element.classList.toggle("changed", differs);
      if (differs) changed.push(name);
    }
    this.onChange?.(changed);
    return changed;
  }

  focus(name = null) {
    (this.fields.get(name) ?? [...this.fields.values()][0])?.focus();
  }

  /** Takes back what was said of a field once it is mended: while it is typed in, since whatever moves when a field is left
   * moves away from under the mouse.
   */
  _touched(event) {
    const name = event.target.closest("[data-param]")?.dataset.param;
    if (name && !this.fields.get(name).read().problem) this._say(name, "");
    this.mark();
    if (name && event.type === "change" && isModelFile(this.specs[name])) this.onModelFile?.();
  }

  _say(name, words) {
    const { element, control } = this.fields.get(name);
    const place = element.querySelector(".wrong");
    place.textContent = words;
    place.hidden = !words;
    if (words) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }

  /** Returns the parameter that a problem is about: named, linked to, or known by its value; null if none is. */
  _about({ message, node, input, param }, tree) {
    if (param && this.fields.has(param)) return param;
    const behind = tree && node && input ? paramBehind(tree, node, input) : null;
    if (behind && this.fields.has(behind)) return behind;
    for (const [name, field] of this.fields) {
      const { value } = field.read();
      if (this.specs[name].type.endsWith("_file") && value && message.includes(`'${value}'`)) return name;
    }
    return input && this.fields.has(input) ? input : null;
  }
}

/** Returns what to do about a field with nothing in it. */
function wanted({ control }, spec) {
  if (PICTURES.has(spec.type)) return "Choose a picture.";
  if (control.tagName !== "SELECT") return `Enter ${spec.expected}.`;
  return [...control.options].some(({ value, disabled }) => value && !disabled) ? "Choose one." : "Nothing that fits is there.";
}

/** Returns a problem of the server as a sentence for people. */
export function sentence({ message, near, line }) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return [line ? `Line ${line}: ${text}` : text, near ? `Did you mean ${near}?` : ""].filter(Boolean).join(" ");
}

/** Returns a problem as it is said beside the field that it is about, which needs no place. */
function fieldSentence({ code, message, near }, spec) {
  if (code === "file-not-found" && PICTURES.has(spec.type)) return "The server has no picture of this name. Choose one.";
  const bare = message.replace(/^node '[^']*' \([^)]*\): /, "").replace(/^input '[^']*'(:| is)? /, "").replace(/^parameter '[^']*' is /, "the value is ");
  return sentence({ message: bare, near });
}

function fieldOf(name, spec) {
  return PICTURES.has(spec.type) ? pictureField(name, spec) : plainField(name, spec);
}
