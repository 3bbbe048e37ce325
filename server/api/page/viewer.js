// A picture of the gallery, large, with what it was made from: its parameters, its document, and ways to make another.

import { pictureBlob, pictureUrl, text } from "./api.js";
import { button, fill, h, saveAs } from "./dom.js";
import { readWritten } from "./json.js";
import { paramsOf, toYaml } from "./workflow.js";
import { counted, duration, gist, labelOf, moment, valueWords } from "./words.js";

/** The dialog. Told what to do by `actions`: again(job, tree), reroll(job, tree, seed), asInput(blob), closed(index). */
export class Viewer {
  constructor(actions) {
    this.actions = actions;
    this.image = h("img", { alt: "" });
    this.title = h("h2", { id: "viewer-title", tabindex: "-1" });
    this.facts = h("p", { class: "hint" });
    this.params = h("dl", { class: "params" });
    this.source = h("pre", { tabindex: "0", "aria-label": "The document" });
    this.buttons = h("div", { class: "row" });
    this.copied = h("span", { class: "hint", role: "status" });
    this.previous = button("Previous", () => this.step(-1), { icon: "left", kind: "round" });
    this.following = button("Next", () => this.step(1), { icon: "right", kind: "round" });
    this._build();
  }

  /** Opens one of some pictures. */
  open(shots, index) {
    this.shots = shots;
    this.index = index;
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.title.focus();
    this._show();
  }

  step(by) {
    const to = this.index + by;
    if (to < 0 || to >= this.shots.length) return;
    this.index = to;
    this._show();
  }

  close() {
    this.dialog.close();
  }

  _build() {
    const document_ = h(
      "details",
      { class: "document" },
      h("summary", {}, "Document"),
      h("div", { class: "row" }, button("Copy", () => this._copy(), { icon: "copy", kind: "quiet" }), button("Save", () => this._save(), { icon: "save", kind: "quiet" }), this.copied),
      this.source,
    );
    const side = h("div", { class: "side" }, this.title, this.facts, this.buttons, this.params, document_);
    const stage = h("div", { class: "viewer-stage" }, this.image, h("div", { class: "steps" }, this.previous, this.following));
    this.dialog = h("dialog", { class: "viewer", "aria-labelledby": "viewer-title" }, stage, side, button("Close", () => this.close(), { icon: "close", kind: "round corner" }));
    this.dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target === this.source) return;
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.close());
    this.dialog.addEventListener("close", () => {
      this.dialog.remove();
      this.actions.closed(this.index);
    });
  }

  async _show() {
    const { job, file } = this.shots[this.index];
    const about = gist(job.params);
    this._bound(this.previous, this.index === 0);
    this._bound(this.following, this.index === this.shots.length - 1);
    this.title.textContent = about || job.workflow || "A picture";
    const cached = Object.values(job.nodes).filter((node) => node.status === "cached").length;
    const facts = [job.workflow, moment(job.finished ?? job.created), `${file.width} × ${file.height}`, job.seconds !== null && duration(job.seconds), cached && `${counted(cached, "node")} from the cache`];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    this.image.alt = about || "The picture";
    this.copied.textContent = "";
    this.source.textContent = "Loading …";
    this._list(job.params);
    fill(this.buttons);
    this.tree = null;
    const stale = () => this.shots[this.index].file.href !== file.href;
    pictureUrl(file.href).then((url) => stale() || Object.assign(this.image, { src: url }), () => {});
    try {
      const tree = readWritten(await text(`/v1/jobs/${job.id}/document`));
      if (stale()) return;
      this.tree = tree;
      this.source.textContent = toYaml(tree);
      const defaults = Object.entries(paramsOf(tree)).map(([name, spec]) => [name, spec.default]);
      this._list({ ...Object.fromEntries(defaults), ...job.params });
      this._offer(job, file, tree);
    } catch (error) {
      if (!stale()) this.source.textContent = error.message;
    }
  }

  /** Disables a button at an end of the row, without losing the focus that it may have. */
  _bound(step, isEnd) {
    if (isEnd && document.activeElement === step) this.title.focus();
    step.disabled = isEnd;
  }

  _list(params) {
    const shown = Object.entries(params).filter(([, value]) => value !== null);
    fill(this.params, ...shown.flatMap(([name, value]) => [h("dt", {}, labelOf(name)), paramValue(value)]));
  }

  _offer(job, file, tree) {
    const params = paramsOf(tree);
    const seed = Object.keys(params).find((name) => params[name].type === "seed");
    const act = (work) => () => {
      this.close();
      work();
    };
    fill(
      this.buttons,
      button("Change and run again", act(() => this.actions.again(job, tree)), { kind: "primary", icon: "edit" }),
      seed && button("New seed", act(() => this.actions.reroll(job, tree, seed)), { icon: "dice", title: "Run it again with another seed" }),
      button("Use as input", () => this._asInput(file.href), { icon: "picture", title: "Start a workflow from this picture" }),
      button("Save", () => this._savePicture(job, file), { icon: "save" }),
    );
  }

  async _asInput(href) {
    const blob = await pictureBlob(href);
    this.close();
    this.actions.asInput(blob);
  }

  async _savePicture(job, file) {
    saveAs(await pictureUrl(file.href), file.name.split("/").pop());
  }

  async _copy() {
    const selection = getSelection();
    selection.selectAllChildren(this.source);
    try {
      await navigator.clipboard.writeText(this.source.textContent);
      this.copied.textContent = "Copied.";
    } catch {
      this.copied.textContent = "The text is selected; copy it with Ctrl+C.";
    }
  }

  _save() {
    const url = URL.createObjectURL(new Blob([this.source.textContent], { type: "application/yaml" }));
    saveAs(url, `${this.tree?.name ?? "workflow"}.yaml`);
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

function paramValue(value) {
  const words = valueWords(value);
  if (typeof value !== "string" || !value.startsWith("sha256:")) return h("dd", {}, words === "" ? "–" : words);
  const image = h("img", { alt: words });
  pictureUrl(`/v1/files/${value}`).then((url) => Object.assign(image, { src: url }), () => {});
  return h("dd", {}, image);
}
