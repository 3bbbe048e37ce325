// The pane in which pictures are ordered: which workflow, with which values. What is made again runs the document that it was
// made by, under the workflow's name if that still is the same document.

import { call, submit } from "./api.js";
import { button, fill, h } from "./dom.js";
import { ParamForm, isLinkOnly, isModelFile, sentence } from "./forms.js";
import { paramsOf } from "./workflow.js";
import { ago, counted, labelOf } from "./words.js";

const PAGE = 200;

/** The pane. Told what to do by `actions`: submitted(job), problem(error). */
export class Maker {
  constructor(actions) {
    this.actions = actions;
    this.workflows = new Map();
    this.drafts = new Map(); // values by workflow, as they were left
    this.loaded = false;
    this.source = null; // {workflow} or {job, tree, name}
    this._build();
  }

  /** Fetches the workflows. */
  async load() {
    this.loaded = true; // or on the way
    try {
      const workflows = await allWorkflows();
      this.workflows = new Map(workflows.map((workflow) => [workflow.name, workflow]));
      this._list();
    } catch (error) {
      this.loaded = false;
      this.actions.problem(error);
    }
  }

  /** Puts the values of a job into the form, with the document that it ran. */
  again(job, tree, focus = true) {
    this._keep();
    const stored = this.workflows.get(job.workflow ?? "");
    const same = stored && Date.parse(stored.updated) <= Date.parse(job.created);
    this.source = same ? { workflow: stored, job } : { job, tree, name: job.workflow ?? tree.name ?? "a document" };
    this._showForm(job.params);
    if (focus) this.form.focus(firstText(this.form));
  }

  /** Runs a job's document again with another seed. */
  async reroll(job, tree, seed) {
    this.again(job, tree, false);
    this.form.fields.get(seed)?.roll();
    await this.run();
  }

  /** Gives a picture to the first parameter that takes one, in another workflow if this one has none. */
  async asInput(blob) {
    const takes = (specs) => Object.keys(specs).find((name) => specs[name].type === "image_file");
    if (!this.form || !takes(this.form.specs)) {
      const workflow = [...this.workflows.values()].find((one) => takes(one.params));
      if (!workflow) return this._complain("No stored workflow starts from a picture.");
      this._choose(workflow.name);
    }
    const name = takes(this.form.specs);
    this.form.focus(name);
    return this.form.fields.get(name).take(blob);
  }

  /** Submits what is in the form. */
  async run() {
    if (!this.form || this.runButton.disabled) return;
    const { form, source } = this;
    this.runButton.disabled = true;
    try {
      await form.beforeRun();
      const params = form.read();
      this._complain(params === null ? form.summary : "");
      if (params !== null) this.actions.submitted(await this._submit(source, params));
    } catch (error) {
      this._explain(error, form, source);
    } finally {
      this.runButton.disabled = false;
    }
  }

  _submit({ workflow, tree }, params) {
    return workflow ? submit(`/v1/workflows/${workflow.name}`, params) : submit("/v1/jobs", { document: tree, params });
  }

  /** Shows why a submit was refused: at the fields that it is about, and here what is about none. */
  _explain(error, form, { tree }) {
    if (!error.problems?.length) return this._complain(error.message);
    const others = form.show(error.problems, tree);
    this._complain(others.length ? others : "The server found something to mend above.");
  }

  _build() {
    this.select = h("select", { id: "workflow" });
    this.select.addEventListener("change", () => this._choose(this.select.value));
    this.file = h("input", { type: "file", accept: ".yaml,.yml,.json", class: "unseen", tabindex: "-1", "aria-hidden": "true" });
    this.file.addEventListener("change", () => this._add(this.file.files[0]));
    const add = button("Add", () => this.file.click(), { icon: "plus", kind: "quiet", title: "Store a workflow from a file", "aria-label": "Add a workflow from a file" });
    this.description = h("p", { class: "description" });
    this.origin = h("div", { class: "origin", hidden: true });
    this.place = h("div", {});
    this.complaint = h("div", { class: "complaint", role: "alert", hidden: true });
    this.changes = h("p", { class: "changes" });
    this.runButton = h("button", { type: "submit", class: "primary run" }, "Run");
    this.resetButton = button("Reset", () => this._reset(), { kind: "quiet" });
    this.footer = h("div", { class: "run-bar", hidden: true }, this.complaint, h("div", { class: "row" }, this.runButton, this.changes, this.resetButton));
    const form = h("form", { novalidate: true, autocomplete: "off" }, this.place, this.footer);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.run();
    });
    this.element = h("div", {}, h("div", { class: "picker" }, h("label", { for: "workflow" }, "Workflow"), add, this.select, this.file), this.description, this.origin, form);
  }

  _list() {
    const chosen = this.source?.workflow?.name;
    const names = [...this.workflows.keys()];
    const options = (group) => group.map((name) => h("option", { value: name }, name));
    const needy = names.filter((name) => needsModel(this.workflows.get(name).params));
    const ready = names.filter((name) => !needy.includes(name));
    fill(this.select, ...options(ready), needy.length > 0 && h("optgroup", { label: "With model files of yours" }, ...options(needy)));
    this.select.disabled = this.workflows.size === 0;
    if (!this.workflows.size && !this.form) {
      this.description.textContent = "No workflow is stored yet. Add a YAML file with the button above, or with PUT /v1/workflows/NAME.";
    } else if (!this.source || (chosen && !this.workflows.has(chosen))) {
      this._choose(PREFERRED.find((name) => this.workflows.has(name)) ?? ready[0] ?? needy[0]);
    } else if (chosen) {
      this.select.value = chosen;
    }
  }

  _choose(name) {
    this._keep();
    this.source = { workflow: this.workflows.get(name) };
    this._showForm({});
    const draft = this.drafts.get(name);
    if (draft) this.form.fill({ ...this.form.defaults, ...draft });
    this.form.mark();
  }

  _keep() {
    if (this.form && this.source?.workflow && !this.source.job) this.drafts.set(this.source.workflow.name, this.form.draft);
  }

  _showForm(values) {
    const { workflow, job, tree, name } = this.source;
    const specs = workflow?.params ?? paramsOf(tree);
    this.form = new ParamForm(specs);
    this.form.onChange = (changed) => this._say(changed);
    this.form.onModelFile = () => this._offer(this.form, this.source);
    for (const kind of ["input", "change"]) this.form.element.addEventListener(kind, () => this._complain(""));
    this.form.reset(values);
    this.select.value = workflow?.name ?? "";
    this.description.textContent = workflow?.description ?? String(tree?.description ?? "");
    this.origin.hidden = !job;
    if (job) this._showOrigin(job, workflow?.name ?? name);
    this._complain("");
    fill(this.place, this.form.element);
    this._offer(this.form, this.source);
    const part = Object.entries(specs).find(([, spec]) => isLinkOnly(spec) && spec.required);
    this.footer.hidden = Boolean(part);
    if (part) fill(this.place, h("p", { class: "hint" }, `This workflow is a part of others: its parameter ${part[0]} takes a ${part[1].type} from another node.`));
  }

  /** Has a form offer those of the server's model files that fit its workflow and each other. */
  async _offer(form, { workflow, tree }) {
    if (!form.takesModelFiles) return;
    try {
      const source = workflow ? { workflow: workflow.name } : { document: tree };
      const { params } = await call("POST", "/v1/fitting", { json: { ...source, params: form.modelFiles } });
      form.offer(params);
    } catch (error) {
      if (![404, 422].includes(error.status)) this.actions.problem(error); // else names are typed
    }
  }

  _showOrigin(job, name) {
    const back = this.workflows.has(name)
      ? button("Back to the workflow", () => this._choose(name), { kind: "quiet" })
      : this.workflows.size > 0 && button("Back to the workflows", () => this._choose(this.workflows.keys().next().value), { kind: "quiet" });
    fill(this.origin, h("p", {}, `From a run of ${name}, ${ago(job.finished ?? job.created)}. Change what you like, and run it again.`), back);
  }

  _say(changed) {
    const words = changed.map(labelOf);
    const named = words.length <= 3 ? words.join(", ") : `${words.slice(0, 2).join(", ")} and ${counted(words.length - 2, "more", "more")}`;
    this.resetButton.hidden = !changed.length;
    this.changes.textContent = changed.length ? `Changed: ${named}` : "Nothing changed";
  }

  _reset() {
    this.form.fill(this.form.baseline);
    this.form.mark();
    this._complain("");
    this.runButton.focus(); // what was pressed is gone
  }

  /** Says what is wrong: a sentence, or the problems of a report. */
  _complain(found) {
    const lines = Array.isArray(found) ? found.map(sentence) : [found].filter(Boolean);
    fill(this.complaint, ...lines.map((line) => h("p", {}, line)));
    this.complaint.hidden = !lines.length;
  }

  async _add(file) {
    this.file.value = "";
    if (!file) return;
    const name = file.name.replace(/\.(ya?ml|json)$/i, "").replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[._-]+/, "").slice(0, 100) || "workflow";
    if (this.workflows.has(name) && !confirm(`There is a workflow "${name}". Put this one in its place?`)) return;
    const type = /\.json$/i.test(file.name) ? "application/json" : "application/yaml";
    try {
      await call("PUT", `/v1/workflows/${name}`, { body: await file.text(), headers: { "Content-Type": type } });
      this.drafts.delete(name);
      this.source = null;
      this.form = null;
      await this.load();
      this._choose(name);
    } catch (error) {
      this.footer.hidden = false;
      this._complain(error.problems?.length ? error.problems : error.message);
    }
  }
}

const PREFERRED = ["txt2img", "text_to_image"];

/** Returns whether one of the parameters is a model file that has to be chosen. */
function needsModel(params) {
  return Object.values(params).some((spec) => spec.required && isModelFile(spec));
}

async function allWorkflows() {
  const found = [];
  let after = "";
  while (after !== null) {
    const page = await call("GET", `/v1/workflows?limit=${PAGE}&after=${encodeURIComponent(after)}`);
    found.push(...page.items);
    after = page.next;
  }
  return found;
}

function firstText(form) {
  const names = Object.keys(form.specs);
  return names.find((name) => /prompt|text/i.test(name)) ?? names[0] ?? null;
}
